"""What of the paper stands, what does not, and what is undecided and would decide it: a page in words, claim by claim.

What trainings have decided stands in the verdict's own sentence (``reproduce/show/words.py``), under the heading of its
direction, so that the page cannot say anything else than the tables; what is counted and what is open stands in tables,
with what a decision takes (``decision.py``). Every claim's full sentence is in ``summary.md``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from reproduce.declare import plan
from reproduce.declare.overrides import base_of
from reproduce.run.progress import Costs
from reproduce.run.store import Store
from reproduce.show import budget, words
from reproduce.show.cells import markdown_lines
from reproduce.show.decision import LEGEND, takes
from reproduce.show.overview import DECIDED, Shown, distinct
from reproduce.show.rows import shown_tables
from reproduce.verdicts.judge import Judged
from reproduce.verdicts.statistics import EPISODE, SEED, Direction, Verdict
from theory.claims.ledger import plain

#: The headings, with the directions that are under each.
HEADINGS = {
    "What stands": (Direction.AGREES,),
    "What does not stand": (Direction.DISAGREES,),
    "Where no effect of the paper's size is seen": (Direction.NO_EFFECT,),
    "What is undecided, and what it would take": (Direction.UNDECIDED,),
    "What has not been run, and what it would take": (Direction.NOT_RUN,),
}

#: The table whose replicates may be test episodes.
FEW_SHOT = "Table 6"

#: What says nothing yet.
OPEN = {Direction.UNDECIDED, Direction.NOT_RUN}

#: What to know of verdicts that rest on a spread which other methods tell too.
SHARED = (
    "How far methods scatter over seeds is told by all that Tables 1 to 5 train alike on one data set: believed is "
    "the largest of three standard deviations (of the pair's gains, of its two methods, of all), with degrees of "
    "freedom that all lend, so that a verdict may change when other rows get seeds. That rule was brought in when "
    "most of these records were known, and a verdict that the pair's own gains alone would not give says so. "
    "Intervals speak of this test set (Table 6: of these novel classes), on which all seeds are measured; how far "
    "another one would move them is not counted, and may be as much again."
)

#: The names of methods.
NAMES = (
    "NSN is a network whose layers have a similarity M: diagonal in DNS, unconstrained in UNS; in \"(J)\" M = D R, "
    "where a Boolean shape D of the kernel is learned jointly with the similarity R. CNN++ is a deeper and wider "
    "plain CNN."
)


def page(profile: plan.Profile, store: Store) -> str:
    """The page of a profile in Markdown, with the theory's ledger where one lies beside the profile's folder."""
    tables = shown_tables(profile, store)
    costs = Costs(store.records(), typical=True)
    every = distinct(tables)
    claims = [shown for shown in every if not shown.judged.claim.control]
    lines = [
        "# What of the paper stands",
        "",
        f"Profile {profile.name}: {profile.description}. Made by `python -m reproduce tables --profile {profile.name}` "
        "from the verdicts on the stored records; the rule is in `reproduce/verdicts/statistics.py`. A claim stands or "
        "falls within its scope, which its sentence names: data, widths, precision, part of the paper's training. What "
        "recipes owe to trials, and what in `cpu` to test errors, is in `DISCREPANCIES.md`, section Training.",
        "",
        f"A comparison that stands in several tables is told and counted once, at the strictest level. {SHARED}",
        "",
        "An interval in brackets is of the distance in the direction that its sentence names. In tables points are "
        "positive where they go as claimed. What to know of a claim besides is in its full sentence, in `summary.md` "
        "below its table.",
        "",
        NAMES,
        "",
    ]
    if base_of(profile.name) == "cpu":
        lines += [
            "Runs that are missing are counted beside the stored ones, whose images lie in another order than in the "
            "official archives: with those every run is a new one (`docs/guide.md`).",
            "",
        ]
    if base_of(profile.name) == "demo":
        lines += ["The demo trains for minutes on stand-ins: its verdicts are no evidence about the paper.", ""]
    lines += [*_counts(claims), ""]
    for heading, directions in HEADINGS.items():
        found = [shown for shown in claims if shown.judged.verdict.direction in directions]
        if found and OPEN.isdisjoint(directions):
            lines += [f"## {heading}", "", *_decided_lines(found), ""]
        elif found:
            lines += [f"## {heading}", "", LEGEND, "", _open_table(found, profile, costs), ""]
    controls = [shown for shown in every if shown.judged.claim.control]
    if controls:
        lines += ["## Controls of ours", "", _open_table(controls, profile, costs), ""]
    for table in tables:
        if table.experiment.table == budget.TABLE:
            lines += ["## With more training", "", budget.answer(table), ""]
    return "\n".join([*lines, *_theory(store.folder.parent / "theory" / "claims.json")]).rstrip() + "\n"


def _counts(claims: Sequence[Shown]) -> list[str]:
    """How many claims have which verdict: those that trainings decide, and apart from them what needs none."""
    pictures: list[Judged] = []
    few_shot: list[Judged] = []
    others: list[Judged] = []
    untrained: list[Judged] = []
    for shown in claims:
        numbers = [name for name in shown.tables if name.startswith("Table")]
        of_trainings = few_shot if numbers == [FEW_SHOT] else pictures if numbers else others
        (untrained if shown.judged.verdict.counted else of_trainings).append(shown.judged)
    parts = {
        "Errors in Tables 1 to 5": pictures,
        f"Accuracy in {FEW_SHOT}": few_shot,
        "What the paper says in words of other trainings": others,
        "Sizes of networks and identities": untrained,
    }
    lines = [f"- {title}: **{words.count(found)}**{_untested(found)}" for title, found in parts.items() if found]
    if rest := basis([judged.verdict for judged in pictures + few_shot]):
        lines.append(f"- {rest}")
    return [*lines, *_without_reservation(claims), *_decided(claims)]


def _untested(found: Sequence[Judged]) -> str:
    """How many of the undecided ones cannot be tested yet, in a sentence; empty where all can."""
    undecided = [judged.verdict for judged in found if judged.verdict.direction == Direction.UNDECIDED]
    few = sum(verdict.interval is None or verdict.interval.low is None for verdict in undecided)
    if not few:
        return ""
    verb = "has" if few == 1 else "have"
    return f" Of the undecided {words.number_word(few)} {verb} too few trainings to be tested."


def _without_reservation(claims: Sequence[Shown]) -> list[str]:
    """Which of the trained claims that agree do so without a reservation."""
    agree = [
        shown
        for shown in claims
        if shown.judged.verdict.direction == Direction.AGREES and not shown.judged.verdict.counted
    ]
    clean = [shown for shown in agree if not _reserved(shown.judged)]
    if not agree:
        return []
    names = [f"*{shown.judged.claim.words.rstrip('.')}* ({shown.where})" for shown in clean]
    named = f": {'; '.join(names)}" if names else ""
    count = words.number_word(len(clean)) if clean else "none"
    claims_that = "claims that agree" if len(agree) > 1 else "claim that agrees"
    return [
        f"- Of the {words.number_word(len(agree))} trained {claims_that} {count} "
        f"{'do' if len(clean) > 1 else 'does'} so without a reservation (a control of ours that does as well, a rival "
        "that is handicapped, a method that did nothing of what it is about, a spread that only all methods together "
        f"show, a claim that was declared when runs of it were known){named}."
    ]


def _reserved(judged: Judged) -> list[str]:
    """What takes from a claim that agrees."""
    verdict = judged.verdict
    alone = ["its own pair's spread would leave it open"] if verdict.alone else []
    late = [f"it was {verdict.late}"] if verdict.late else []
    rival = ["its rival is handicapped"] if verdict.handicap else []
    return [*judged.reservations, *rival, *alone, *late]


def basis(verdicts: Sequence[Verdict]) -> str:
    """What the decided ones among trained verdicts rest on, in a sentence; empty where none is decided."""
    decided = [verdict for verdict in verdicts if verdict.direction in DECIDED]
    over = sum(verdict.unit == EPISODE for verdict in decided)
    shared = sum(verdict.unit == SEED and bool(verdict.alone) for verdict in decided)
    failing = sum(bool(verdict.observed) for verdict in decided)
    parts = {
        "on the test episodes of one or two trainings a method": over,
        "on the spread over seeds that all methods show together, without which it would be another verdict": shared,
        "on the seeds of the pair alone": len(decided) - over - shared - failing,
        "on how many runs fail": failing,
    }
    if not decided:
        return ""
    counts = [words.number_word(count) if count else "none" for count in parts.values()]
    verbs = ["rests" if counts[0] == "one" else "rest", *[""] * (len(parts) - 1)]
    told = [" ".join(filter(None, parts_of)) for parts_of in zip(counts, verbs, parts)]
    ones = "decided ones" if len(decided) > 1 else "decided one"
    return f"Of the {words.number_word(len(decided))} {ones} {words.listed(told)}."


def _decided(claims: Sequence[Shown]) -> list[str]:
    """The trained claims that are decided, by their words and nothing else: the page in a minute."""
    lines = []
    for direction, title in DECIDED.items():
        found = [shown for shown in claims if shown.judged.verdict.direction == direction]
        trained = [shown for shown in found if not shown.judged.verdict.counted]
        often = Counter(shown.judged.claim.words for shown in trained)
        data = [f", {shown.judged.dataset}" if often[shown.judged.claim.words] > 1 else "" for shown in trained]
        said = [
            f"*{shown.judged.claim.words.rstrip('.')}* ({shown.where}{on}{_though(shown)})"
            for shown, on in zip(trained, data)
        ]
        lines += [f"- {title}, by training: {'; '.join(said)}."] if said else []
    return lines


def _though(shown: Shown) -> str:
    """What takes from a claim: a method that did nothing of its own, controls that it does not beat, and so on."""
    judged = shown.judged
    parts = _reserved(judged) if judged.verdict.direction == Direction.AGREES else list(judged.reservations)
    return f", though {words.listed(parts)}: see below" if parts else ""


def _decided_lines(found: Sequence[Shown]) -> list[str]:
    """Claims that trainings decide, a sentence each, and then a table of those that are counted or computed."""
    trained = [shown for shown in found if not shown.judged.verdict.counted]
    counted = [shown for shown in found if shown.judged.verdict.counted]
    lines = [f"- {_place(shown)}: *{shown.judged.claim.words}* {shown.sentence}" for shown in trained]
    if counted:
        lines += ["", "Counted on the networks or computed, without training:", ""] if trained else []
        rows = [
            [_place(shown), shown.judged.claim.words, shown.judged.dataset, words.observed(shown.judged), _why(shown)]
            for shown in counted
        ]
        lines.append(markdown_lines(["Where", "Claim", "On", "Found", "To know"], rows))
    return lines


def _open_table(found: Sequence[Shown], profile: plan.Profile, costs: Costs) -> str:
    """Claims with what was seen, why that decides nothing, and what would; of those that are decided, the verdict."""
    rows = []
    for shown in found:
        judged = shown.judged
        verdict = judged.verdict
        open_ = verdict.direction in OPEN
        why = [] if verdict.direction == Direction.UNDECIDED else [str(verdict.direction)]
        rows.append(
            [
                _place(shown),
                judged.claim.words,
                f"{judged.dataset}; {words.replicates(judged)}" if verdict.seeds else judged.dataset,
                words.signed(judged),
                "" if judged.paper is None or judged.claim.control else f"{judged.paper:+.2f}",
                words.joined(*why, _why(shown)),
                takes(shown.table, judged, profile, costs) if open_ else "",
            ]
        )
    return markdown_lines(["Where", "Claim", "On", "Seen", "Paper", "To know", "A decision takes"], rows)


def _why(shown: Shown) -> str:
    return words.joined(shown.judged.verdict.note(), shown.differing)


def _place(shown: Shown) -> str:
    if shown.where.startswith("Table"):
        return shown.where
    return f"{shown.table.experiment.name}, {shown.table.experiment.title}"


def _theory(ledger: Path) -> list[str]:
    """What the ledger says of the paper's own statements in section 5, and of those that it quotes."""
    if not ledger.exists():
        return []
    claims = json.loads(ledger.read_text("utf-8"))["claims"]
    found = Counter(claim["verdict"] for claim in claims)
    counted = "; ".join(f"{verdict}: {count}" for verdict, count in found.items())
    own = [claim for claim in claims if "paper" in claim["source"]]
    return [
        "## Section 5, numerically",
        "",
        f"The theory's ledger has {len(claims)} claims ({counted}). Those that the paper makes or quotes:",
        "",
        *(
            f"- **{claim['verdict']}** (claim {claim['number']}; {plain(claim['source'])}): {plain(claim['statement'])}"
            for claim in own
        ),
    ]
