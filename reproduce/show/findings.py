"""What of the paper stands, what does not, and what is undecided and would decide it: a page in words, claim by claim.

Every line is a verdict's own sentence (``reproduce/show/words.py``), under the heading of its direction, so that the
page cannot say anything else than the tables. What a decision takes follows from the rule of verdicts: a "better" claim
is decided by every interval that is narrower than the paper's difference, since it cannot hold both 0 and that.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

from reproduce.declare import plan
from reproduce.declare.overrides import base_of
from reproduce.run.progress import Costs, duration
from reproduce.run.store import Store
from reproduce.show import budget, words
from reproduce.show.judge import Judged
from reproduce.show.overview import DECIDED, Shown, distinct
from reproduce.show.rows import Row, Table, shown_tables
from reproduce.show.spread import TRUSTED
from reproduce.show.statistics import EPISODE, MINIMUM_SEEDS, SEED, Direction, Verdict
from theory.claims.ledger import plain

#: The headings, with the directions that are under each.
HEADINGS = {
    "What stands": (Direction.AGREES,),
    "What does not stand": (Direction.DISAGREES,),
    "Where no effect of the paper's size is seen": (Direction.NO_EFFECT,),
    "What is undecided, and what it would take": (Direction.UNDECIDED,),
    "What has not been run, and what it would take": (Direction.NOT_RUN,),
}

#: What to know of verdicts that rest on a spread which other methods tell too.
SHARED = (
    "How far methods scatter over seeds is told by all that Tables 1 to 5 train alike on one data set. That rule was "
    "brought in when most of these records were known, so a verdict that the pair's own gains alone would not give "
    "says so. Intervals speak of this test set (Table 6: of these novel classes), on which all seeds are measured; how "
    "far another one would move them is not counted, and may be as much again."
)

#: The names of methods.
NAMES = (
    "NSN is a network whose layers have a similarity M: diagonal in DNS, unconstrained in UNS; in \"(J)\" M = D R, "
    "where a Boolean shape D of the kernel is learned jointly with the similarity R. CNN++ is a deeper and wider "
    "plain CNN."
)

#: Kinds of claims to which a diverged run is an answer.
CONVERGENCE = ("does_not_converge", "converges")

#: From so many replicates on no number of them is named.
MOST = {SEED: 50, EPISODE: 10_000}


def page(profile: plan.Profile, store: Store) -> str:
    """The page of a profile in Markdown, with the theory's ledger where one lies beside the profile's folder."""
    tables = shown_tables(profile, store)
    costs = Costs(store.records())
    every = distinct(tables)
    claims = [shown for shown in every if not shown.judged.claim.control]
    lines = [
        "# What of the paper stands",
        "",
        f"Profile {profile.name}: {profile.description}. Made by `python -m reproduce tables --profile {profile.name}` "
        "from the verdicts on the stored records; the rule is in `reproduce/show/statistics.py`. A claim stands or "
        "falls within its scope, which its sentence names: data, widths, precision, part of the paper's training. What "
        "recipes owe to trials, and what in `cpu` to test errors, is in `DISCREPANCIES.md`, section Training.",
        "",
        f"A comparison that stands in several tables is told and counted once, at the strictest level. {SHARED}",
        "",
        "An interval in brackets is of the distance in the direction that its sentence names. \"At most N seeds\" tell "
        "0 from the paper's difference; where that is not known, so many decide with a chance of one half, if the "
        "difference seen is the true one; three are the least with which anything is decided, and may not do.",
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
        if found:
            lines += [f"## {heading}", "", *_trained_first(found, profile, costs), ""]
    controls = [shown for shown in every if shown.judged.claim.control]
    if controls:
        lines += ["## Controls of ours", "", *(_line(shown, profile, costs) for shown in controls), ""]
    for table in tables:
        if table.experiment.table == budget.TABLE:
            lines += ["## With more training", "", budget.answer(table), ""]
    return "\n".join([*lines, *_theory(store.folder.parent / "theory" / "claims.json")]).rstrip() + "\n"


def _counts(claims: Sequence[Shown]) -> list[str]:
    """How many claims have which verdict: those that trainings decide, and apart from them what needs none."""
    numbered: list[Judged] = []
    others: list[Judged] = []
    untrained: list[Judged] = []
    for shown in claims:
        of_the_paper = any(name.startswith("Table") for name in shown.tables)
        kind = untrained if shown.judged.verdict.counted else numbered if of_the_paper else others
        kind.append(shown.judged)
    parts = {
        "Accuracy and error in Tables 1 to 6": numbered,
        "What the paper says in words of other trainings": others,
        "Sizes of networks and identities": untrained,
    }
    lines = [f"- {title}: **{words.count(found)}**" for title, found in parts.items() if found]
    if rest := basis([judged.verdict for judged in numbered]):
        lines[0] += f" {rest}"
    return [*lines, *_decided(claims)]


def basis(verdicts: Sequence[Verdict]) -> str:
    """What the decided ones among trained verdicts rest on, in a sentence; empty where none is decided."""
    decided = [verdict for verdict in verdicts if verdict.direction in DECIDED]
    over = sum(verdict.unit == EPISODE for verdict in decided)
    shared = sum(verdict.unit == SEED and bool(verdict.alone) for verdict in decided)
    parts = {
        "on the test episodes of one or two trainings a method": over,
        "on the spread over seeds that all methods show together, without which it would be another verdict": shared,
        "on the seeds of its own pair alone": len(decided) - over - shared,
    }
    if not decided:
        return ""
    counts = [words.number_word(count) if count else "none" for count in parts.values()]
    verbs = ["rests" if counts[0] == "one" else "rest", "", ""]
    told = [" ".join(filter(None, parts_of)) for parts_of in zip(counts, verbs, parts)]
    return f"Of the {words.number_word(len(decided))} decided ones {words.listed(told)}."


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
    """What takes from a claim: a method that did nothing of its own, controls that it does not beat."""
    vain = shown.judged.verdict.vain
    parts = [f"{words.listed(list(vain))} did nothing of what it is about"] if vain else []
    for control in shown.judged.controls:
        name, direction = words.control_name(control), control.verdict.direction
        if direction == Direction.DISAGREES:
            parts.append(f"our control, {name}, beats {control.better.label}")
        elif direction != Direction.AGREES:
            parts.append(f"{control.better.label} is not shown to beat our control, {name}")
    return f", though {words.listed(parts)}: see below" if parts else ""


def _trained_first(found: Sequence[Shown], profile: plan.Profile, costs: Costs) -> list[str]:
    """Lines of claims: those that trainings decide, and then those that are counted or computed."""
    trained = [_line(shown, profile, costs) for shown in found if not shown.judged.verdict.counted]
    counted = [_line(shown, profile, costs) for shown in found if shown.judged.verdict.counted]
    between = ["", "Counted on the networks or computed, without training:", ""] if counted else []
    return [*trained, *(between if trained else between[1:]), *counted]


def _line(shown: Shown, profile: plan.Profile, costs: Costs) -> str:
    table, judged = shown.table, shown.judged
    place = shown.where if shown.where.startswith("Table") else f"{table.experiment.name}, {table.experiment.title}"
    line = f"- {place}: *{judged.claim.words}* {shown.sentence}"
    if judged.verdict.direction not in (Direction.UNDECIDED, Direction.NOT_RUN):
        return line
    return f"{line} {takes(table, judged, profile, costs)}"


def takes(table: Table, judged: Judged, profile: plan.Profile, costs: Costs) -> str:
    """What a decision on an undecided claim would take, in a sentence."""
    rows = table.compared(judged)
    if any(row.diverged for row in rows) and judged.claim.kind not in CONVERGENCE:
        return "It takes a training that does not diverge: a diverged run has no error, whatever the number of seeds."
    episodes = judged.claim.metric.episodes is not None
    least = 1 if episodes and judged.verdict.direction == Direction.NOT_RUN else MINIMUM_SEEDS
    if (judged.verdict.unit or SEED) == SEED and any(len(row.records) < least for row in rows):
        seeds = "one training of each, whose test episodes decide" if least == 1 else f"{least} seeds of each"
        return f"It takes {seeds}: {_missing(rows, least, profile, costs)}."
    wanted = _replicates(judged)
    if wanted is None:
        return "No number of seeds can be named that would decide it."
    unit, number = wanted
    sure = judged.claim.kind == "better" and judged.paper is not None and judged.paper > 0
    if number > MOST[unit]:
        return f"At the spread seen it takes more than {MOST[unit]:,} {unit}s."
    more = f", {_missing(rows, number, profile, costs)}" if unit == SEED else " of these trainings"
    if sure:
        return f"At the spread seen it takes at most {number:,} {unit}s{more}."
    # As long as the interval then is, its end falls at what decides: half of all intervals would reach over it.
    return f"If what is seen is so, {number:,} {unit}s decide it with a chance of one half{more}."


def _missing(rows: Sequence[Row], seeds: int, profile: plan.Profile, costs: Costs) -> str:
    """How many runs the rows lack of so many seeds, and how long they take."""
    runs = {
        run.key: run
        for row in rows
        for seed in range(seeds)
        if seed not in row.records
        for run in [profile.run(row.method, row.slot, seed)]
    }
    count = f"{len(runs)} more run{'' if len(runs) == 1 else 's'}"
    seconds = [costs.predict(run) for run in runs.values()]
    known = [each for each in seconds if each is not None]
    if len(known) < len(seconds):
        return f"{count}, for which no stored run tells the time"
    return f"{count}, about {duration(sum(known))} of one process at the pace of the newest stored runs"


def _replicates(judged: Judged) -> tuple[str, int] | None:
    """The unit and number of replicates at which the interval is short enough to decide; None where none can be named.

    The spread over the replicates and the level of the interval are taken to stay as they are.
    """
    from scipy.special import stdtrit

    verdict, interval, found = judged.verdict, judged.verdict.interval, judged.gains
    if interval is None or interval.low is None or found is None:
        return None
    half = _longest(judged, interval.mean)
    if half is None:
        return None
    count, level, seen = interval.count, interval.level, found.freedom or interval.count - 1

    def half_of(replicates: int) -> float:
        # Where other methods tell the spread too, a replicate more of the pair brings only what is made use of.
        freedom = max(replicates - 1, seen + TRUSTED * (replicates - interval.count))
        return float(stdtrit(freedom, (1 + level) / 2)) * found.spread / sqrt(replicates)

    while count <= MOST[verdict.unit] and half_of(count) >= half:
        count += 1
    return verdict.unit, count


def _longest(judged: Judged, mean: float) -> float | None:
    """Half the length below which an interval decides the claim; None where no length does.

    Beside a difference of the paper's it decides wherever the mean comes to lie, so that fewer replicates may do;
    otherwise it decides about ``mean``.
    """
    if judged.claim.kind == "similar":
        return abs(judged.claim.margin - abs(mean)) or None
    if judged.claim.kind != "better":
        return None
    if judged.paper is not None and judged.paper > 0:
        return judged.paper / 2
    return abs(mean) or None


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
