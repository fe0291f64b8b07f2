"""A profile in a minute: which of the paper's claims stand, which do not, what is undecided, and what was not run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reproduce.declare.experiments import Key
from reproduce.show import words
from reproduce.show.rows import Table
from reproduce.verdicts.judge import Judged
from reproduce.verdicts.statistics import MINIMUM_SEEDS, Direction

#: What is decided, in the order in which it is told.
DECIDED = {
    Direction.AGREES: "What stands",
    Direction.DISAGREES: "What does not stand",
    Direction.NO_EFFECT: "Where no effect of the paper's size is seen",
}


@dataclass(frozen=True)
class Shown:
    """A comparison with its verdict, and the tables that claim it of the same runs.

    Tables judge it at different levels, by the number of pairs they compare. Told is the verdict of the one with the
    most: what several tables promise together, the strictest keeps. ``others`` are tables that say something else.
    """

    tables: tuple[str, ...]
    judged: Judged
    table: Table
    others: tuple[tuple[str, Direction], ...] = ()

    @property
    def where(self) -> str:
        """The tables in words, such as "Tables 1, 2 and 4"."""
        return _named(self.tables)

    @property
    def sentence(self) -> str:
        """The verdict in words, and where it is another one."""
        said = words.sentence(self.judged)
        return f"{said.removesuffix('.')}; {self.differing}." if self.differing else said

    @property
    def differing(self) -> str:
        """What other tables say of the same runs, where it is another verdict."""
        other = _differing(self.others, self.judged.verdict.direction)
        return f"{other}, with fewer comparisons" if other else ""


def _named(tables: Sequence[str]) -> str:
    numbers = [name.removeprefix("Table ") for name in tables if name.startswith("Table ")]
    found = [f"Table{'s' if len(numbers) > 1 else ''} {words.listed(numbers)}"] if numbers else []
    # Tables beyond the paper have one name.
    return words.listed([*found, *(["beyond the paper"] if len(numbers) < len(tables) else [])])


def records(table: Table, judged: Judged) -> list[str]:
    """Identities of the records that a claim compares."""
    return [record["id"] for row in table.compared(judged) for record in row.records.values()]


def _same(table: Table, judged: Judged, place: int) -> object:
    """What claims have in common that are about the same runs with the same question."""
    if judged.verdict.counted:  # not about runs
        return table.experiment.table, place
    claim, runs = judged.claim, [table.profile.run(row, judged.slot, 0).key for row in (judged.better, judged.worse)]
    return claim.kind, claim.metric.name, claim.margin, claim.multiple, claim.control, *runs


def distinct(tables: Iterable[Table]) -> list[Shown]:
    """All claims of the tables; those that compare the same runs once, at the strictest level."""
    return [_told([(table, judged) for table, _, judged in claims]) for claims in _by_runs(tables)]


def _by_runs(tables: Iterable[Table]) -> list[list[tuple[Table, int, Judged]]]:
    """Claims with their tables and places, those together that compare the same runs."""
    found: dict[object, list[tuple[Table, int, Judged]]] = {}
    for table in tables:
        for place, judged in enumerate(table.claims):
            found.setdefault(_same(table, judged, place), []).append((table, place, judged))
    return list(found.values())


def elsewhere(tables: Iterable[Table]) -> dict[tuple[Key, int], str]:
    """By table and place of a claim in it, what other tables say of the same runs, where that is another verdict."""
    said = {}
    for claims in _by_runs(tables):
        for table, place, judged in claims:
            others = [(one.experiment.name, other.verdict.direction) for one, _, other in claims]
            if text := _differing(others, judged.verdict.direction):
                said[table.experiment.table, place] = f"{text}, among other claims"
    return said


def _differing(others: Iterable[tuple[str, Direction]], direction: Direction) -> str:
    """What tables say that do not say ``direction``; empty where all do."""
    named: dict[Direction, list[str]] = {}
    for name, other in others:
        if other != direction:
            named.setdefault(other, []).append(name)
    return words.joined(*(f"{other} in {_named(names)}" for other, names in named.items()))


def _told(claims: Sequence[tuple[Table, Judged]]) -> Shown:
    """The comparison that all of these claims are."""
    strictness = [
        (judged.verdict.interval.level if judged.verdict.interval else 0.0, len(table.claims))
        for table, judged in claims
    ]
    table, judged = claims[strictness.index(max(strictness))]
    others = [(one.experiment.name, other.verdict.direction) for one, other in claims]
    differing = tuple(item for item in others if item[1] != judged.verdict.direction)
    return Shown(tuple(one.experiment.name for one, _ in claims), judged, table, differing)


def overview(tables: Sequence[Table]) -> str:
    """The paper's claims by what came out, in Markdown; controls of ours are left to their tables."""
    own = [shown for shown in distinct(tables) if not shown.judged.claim.control]
    lines = [f"**{words.count(shown.judged for shown in own)}**", ""]
    for direction, title in DECIDED.items():
        those = [shown for shown in own if shown.judged.verdict.direction == direction]
        measured = [shown for shown in those if not shown.judged.verdict.counted]
        told = [f"- *{shown.judged.claim.words}* {shown.sentence} ({shown.where})" for shown in measured]
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
        places = _named(tuple(dict.fromkeys(name for item in items for name in item.tables)))
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
