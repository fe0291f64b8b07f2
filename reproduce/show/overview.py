"""A profile in a minute: which of the paper's claims stand, which do not, what is undecided, and what was not run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reproduce.show import words
from reproduce.show.judge import Judged
from reproduce.show.rows import Table
from reproduce.show.statistics import MINIMUM_SEEDS, Direction

#: What is decided, in the order in which it is told.
_DECIDED = {
    Direction.AGREES: "What stands",
    Direction.DISAGREES: "What does not stand",
    Direction.NO_EFFECT: "Where no effect of the paper's size is seen",
}


@dataclass(frozen=True)
class Shown:
    """A judged claim with the names of the tables that make it of the same runs."""

    tables: tuple[str, ...]
    judged: Judged

    @property
    def where(self) -> str:
        """The tables in words, such as "Tables 1, 2 and 4"."""
        numbers = [name.removeprefix("Table ") for name in self.tables if name.startswith("Table ")]
        found = [f"Table{'s' if len(numbers) > 1 else ''} {words.listed(numbers)}"] if numbers else []
        # Tables beyond the paper have one name.
        return words.listed([*found, *(["beyond the paper"] if len(numbers) < len(self.tables) else [])])


def records(table: Table, judged: Judged) -> list[str]:
    """Identities of the records that a claim compares."""
    return [record["id"] for row in table.compared(judged) for record in row.records.values()]


def distinct(tables: Iterable[Table]) -> list[Shown]:
    """All claims of the tables; those that compare the same runs, with the same end, once."""
    found: dict[object, tuple[list[str], Judged]] = {}
    for table in tables:
        for place, judged in enumerate(table.claims):
            same = judged.claim.kind, judged.claim.metric.name, judged.slot, judged.verdict, judged.claim.control
            # What was counted or not run has no runs to be the same.
            runs = tuple(records(table, judged)) if judged.verdict.seeds else (table.experiment.name, place)
            found.setdefault((same, runs), ([], judged))[0].append(table.experiment.name)
    return [Shown(tuple(names), judged) for names, judged in found.values()]


def overview(tables: Sequence[Table]) -> str:
    """The paper's claims by what came out, in Markdown; controls of ours are left to their tables."""
    own = [shown for shown in distinct(tables) if not shown.judged.claim.control]
    claims = [judged for table in tables for judged in table.claims]
    lines = [f"**{words.count(claims)}**", ""]
    for direction, title in _DECIDED.items():
        those = [shown for shown in own if shown.judged.verdict.direction == direction]
        measured = [shown for shown in those if not shown.judged.verdict.counted]
        told = [f"- *{shown.judged.claim.words}* {words.sentence(shown.judged)} ({shown.where})" for shown in measured]
        if not measured and direction == Direction.AGREES:
            told = ["- Of the claims that need training: none so far."]
        if counted := [shown for shown in those if shown.judged.verdict.counted]:
            told.append(f"- Counted on the networks or computed, without training: {_grouped(counted)}")
        if told:
            lines += [f"**{title}**", "", *told, ""]
    lines += _open(own, tables)
    return "\n".join(lines).rstrip()


def _grouped(shown: Sequence[Shown]) -> str:
    """Claims by their words, each with its data sets and tables."""
    by_words: dict[str, list[Shown]] = {}
    for item in shown:
        by_words.setdefault(item.judged.claim.words.rstrip("."), []).append(item)
    parts = []
    for text, items in by_words.items():
        data = words.listed(list(dict.fromkeys(item.judged.dataset for item in items)))
        places = Shown(tuple(dict.fromkeys(name for item in items for name in item.tables)), items[0].judged).where
        parts.append(f"*{text}* ({places}, {data})")
    return f"{'; '.join(parts)}."


def _open(own: Sequence[Shown], tables: Sequence[Table]) -> list[str]:
    """What is undecided, with the side on which it lies so far, and what was not run."""
    told = []
    undecided = [shown for shown in own if shown.judged.verdict.direction == Direction.UNDECIDED]
    if undecided:
        times = sum(len(shown.tables) for shown in undecided)
        few = sum(shown.judged.verdict.seeds < MINIMUM_SEEDS for shown in undecided)
        text = f"{words.number_word(len(undecided))} comparison{'s' if len(undecided) > 1 else ''}"
        text += f" (claimed {times} times, since tables share runs)" if times > len(undecided) else ""
        text += f", {'all' if few == len(undecided) else few} with fewer than three seeds" if few else ""
        gains = [
            shown.judged.verdict.interval.mean
            for shown in undecided
            if shown.judged.claim.kind == "better" and shown.judged.verdict.interval is not None
        ]
        if gains:
            side = sum(gain > 0 for gain in gains)
            text += (
                f". Of {len(gains)} that say which is better, the difference seen so far lies on the paper's side in "
                f"{side} and on the other in {len(gains) - side}; that decides nothing"
            )
        told += [f"- Undecided: {text}."]
    missing = Counter(
        table.experiment.name
        for table in tables
        for judged in table.claims
        if judged.verdict.direction == Direction.NOT_RUN and not judged.claim.control
    )
    if missing:
        named = {name: name.replace("Table", "of Table").replace("Beyond", "beyond") for name in missing}
        of = [f"{count} {named[name]}" for name, count in missing.items()]
        told += [f"- Not run: {sum(missing.values())} claims, {words.listed(of)}."]
    return ["**What is open**", "", *told, ""] if told else []
