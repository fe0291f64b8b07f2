"""What a decision on a claim that is open would take: runs and their time, or seeds.

It follows from the rule of verdicts (`reproduce/verdicts/statistics.py`): every interval that is narrower than the
paper's difference decides a "better" claim, since it cannot hold both 0 and that.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from reproduce.declare import plan
from reproduce.run.progress import Costs, duration
from reproduce.show import words
from reproduce.show.rows import Row, Table
from reproduce.verdicts.claims import KINDS
from reproduce.verdicts.judge import Judged
from reproduce.verdicts.spread import TRUSTED
from reproduce.verdicts.statistics import MINIMUM_SEEDS, Direction

#: From so many seeds on no number of them is named.
MOST = 50


#: How to read what `takes` says.
LEGEND = (
    "\"At most N seeds\" tell 0 from the paper's difference; where that is not known, \"about N\" decide with a chance "
    "of one half, if the difference seen is the true one; three are the least with which anything is decided, and may "
    "not do. Both suppose the spread seen. Times are of one process at the median pace of the stored runs."
)


def takes(table: Table, judged: Judged, profile: plan.Profile, costs: Costs) -> str:
    """What a decision on an undecided claim would take, in a few words."""
    rows = table.compared(judged)
    if any(row.diverged for row in rows) and not KINDS[judged.claim.kind].of_failing:
        return "a training that does not diverge: a diverged run has no error"
    episodes = judged.claim.metric.episodes is not None
    least = 1 if episodes and judged.verdict.direction == Direction.NOT_RUN else MINIMUM_SEEDS
    if any(len(row.records) < least for row in rows):
        seeds = "one training of each, whose test episodes decide" if least == 1 else f"{least} seeds of each"
        return f"{seeds}: {_missing(rows, least, profile, costs)}"
    if idle := [row for row in rows if row.idle_trainings]:
        told = words.listed([f"{row.method.label} did not in {row.idle_trainings}" for row in idle])
        return f"trainings that do what the method is about ({told})"
    seeds_wanted = _seeds(judged)
    if seeds_wanted is None:
        return "no number of seeds can be named"
    if seeds_wanted > MOST:
        return f"more than {MOST} seeds"
    # Without a difference of the paper's, the interval's end then falls at what decides: half of all reach over it.
    sure = judged.claim.kind == "better" and (judged.excluded or 0.0) > 0
    more = _missing(rows, seeds_wanted, profile, costs)
    return f"{'at most' if sure else 'about'} {seeds_wanted} seeds: {more}"


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
    return f"{count}, about {duration(sum(known))}"


def _seeds(judged: Judged) -> int | None:
    """The number of seeds at which the interval is short enough to decide; None where none can be named.

    The spread over the seeds and the level of the interval are taken to stay as they are.
    """
    from scipy.special import stdtrit

    interval, found = judged.verdict.interval, judged.gains
    if interval is None or interval.low is None or found is None:
        return None
    half = _longest(judged, interval.mean)
    if half is None:
        return None
    count, level, seen = interval.count, interval.level, found.freedom or interval.count - 1

    def half_of(seeds: int) -> float:
        # Where other methods tell the spread too, a seed more of the pair brings only what is made use of.
        freedom = max(seeds - 1, seen + TRUSTED * (seeds - interval.count))
        return float(stdtrit(freedom, (1 + level) / 2)) * found.spread / sqrt(seeds)

    while count <= MOST and half_of(count) >= half:
        count += 1
    return count


def _longest(judged: Judged, mean: float) -> float | None:
    """Half the length below which an interval decides the claim; None where no length does.

    Beside a difference of the paper's it decides wherever the mean comes to lie, so that fewer seeds may do;
    otherwise it decides about ``mean``.
    """
    if judged.claim.kind == "similar":
        return abs(judged.claim.margin - abs(mean)) or None
    if judged.claim.kind != "better":
        return None
    if judged.excluded is not None and judged.excluded > 0:
        return judged.excluded / 2
    return abs(mean) or None
