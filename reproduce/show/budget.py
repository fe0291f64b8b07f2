"""Does the difference between two methods grow or vanish with training? (table ``budget``)

The question is one, and has one interval: over seeds, of the slope of the gain (positive where the first method is
better) in points a doubling of the training images, by least squares over the budgets of each seed. *grows*: its 95 % t
interval lies above 0; *shrinks*: it lies below 0, *to what is not shown to differ from 0* where moreover the difference
at the largest budget is not decided, or *reverses* where it is shown to be below; *undecided* otherwise: the interval
holds 0, fewer than three seeds have all budgets, or a run diverged. The difference at each budget has a verdict of its
own, as every claim has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, log2

from reproduce import tasks
from reproduce.show.cells import number
from reproduce.show.rows import Table
from reproduce.show.words import number_word
from reproduce.verdicts.metrics import gains
from reproduce.verdicts.statistics import (
    MINIMUM_SEEDS,
    Direction,
    Interval,
    Verdict,
    mean_interval,
    too_few,
)

#: The table, and the methods whose difference is asked about: which the paper says is better, and beside which.
TABLE, BETTER, WORSE = "budget", "dynamic", "cnn"

GROWS, SHRINKS, REVERSES, UNDECIDED = "grows", "shrinks", "reverses", "is undecided"
VANISHES = "shrinks to what is not shown to differ from 0"


@dataclass(frozen=True)
class Budget:
    """One budget: training images of a run, gains in points by seed, the verdict on the difference there."""

    images: int
    gains: Mapping[int, float]
    verdict: Verdict
    diverged: bool = False


@dataclass(frozen=True)
class Trend:
    """What the gain does with the budget: the answer, the mean of ``slopes`` (points a doubling, of the ``seeds`` that
    have all budgets), why it is none."""

    answer: str
    slope: Interval | None = None
    slopes: tuple[float, ...] = ()
    reason: str = ""
    seeds: tuple[int, ...] = ()


def images(table: Table) -> dict[str, int]:
    """Training images of a run by slot."""
    return {slot.name: tasks.named(table.experiment.task).images(slot.recipe) for slot in table.slots}


def budgets(table: Table) -> list[Budget]:
    """The budgets at which a run of both methods is stored, the smallest first."""
    found = []
    for slot, count in images(table).items():
        better, worse = table.row(slot, BETTER), table.row(slot, WORSE)
        if not better.records or not worse.records:
            continue
        gained = gains(table.metric, better.records, worse.records)
        verdict = next(j.verdict for j in table.claims if j.slot == slot and j.better.key == BETTER)
        by_seed = {} if gained is None else gained.by_seed
        found.append(Budget(count, by_seed, verdict, bool(better.diverged or worse.diverged)))
    return sorted(found, key=lambda budget: budget.images)


def slope(values: Mapping[int, float]) -> float:
    """The least-squares slope of ``values`` (by number of images, two or more) a doubling of the images."""
    middle = fsum(map(log2, values)) / len(values)
    spread = fsum((log2(count) - middle) ** 2 for count in values)
    return fsum((log2(count) - middle) * value for count, value in values.items()) / spread


def trend(found: list[Budget]) -> Trend:
    """The answer from all budgets that are stored, over the seeds that have them all."""
    if len(found) < 2:
        return Trend(UNDECIDED, reason="fewer than two budgets are stored")
    if any(budget.diverged for budget in found):
        return Trend(UNDECIDED, reason="a run diverged")
    seeds = tuple(sorted(set.intersection(*(set(budget.gains) for budget in found))))
    slopes = tuple(slope({budget.images: budget.gains[seed] for budget in found}) for seed in seeds)
    if len(seeds) < MINIMUM_SEEDS:
        return Trend(UNDECIDED, None, slopes, too_few(len(seeds)), seeds)  # a line of one seed tells its noise
    interval = mean_interval(slopes)
    assert interval.low is not None
    assert interval.high is not None
    if interval.low > 0:
        return Trend(GROWS, interval, slopes, seeds=seeds)
    if interval.high < 0:
        ends = {Direction.AGREES: SHRINKS, Direction.DISAGREES: REVERSES}
        return Trend(ends.get(found[-1].verdict.direction, VANISHES), interval, slopes, seeds=seeds)
    return Trend(UNDECIDED, interval, slopes, "the interval holds 0", seeds)


def answer(table: Table) -> str:
    """The answer in a sentence, with the numbers it rests on."""
    found = budgets(table)
    asked = trend(found)
    worse, better = (table.experiment.method(key).label for key in (WORSE, BETTER))
    what = f"the difference {worse} minus {better}"
    said = f"Whether {what} grows or vanishes with training is undecided"
    if asked.answer != UNDECIDED:
        said = f"With training {what} {asked.answer}"
    parts = [f"{said} ({asked.reason})" if asked.reason else said]
    if asked.slope is not None:
        low, high = asked.slope.low, asked.slope.high
        ends = f" (95 % interval {number(low)} to {number(high)} over {len(asked.slopes)} seeds)"
        parts.append(f"with every doubling of the images it changes by {number(asked.slope.mean)} points{ends}")
    if found:
        count = len(asked.seeds)
        who = f"in the {number_word(count)} seed{'s' * (count > 1)} of all stored budgets it" if count else "it"
        shown = ", ".join(f"{_points(budget, asked.seeds)} at {budget.images:,}" for budget in found)
        parts.append(f"{who} is, in points, {shown} images")
        more = {budget.images: budget.gains for budget in found if count and len(budget.gains) > count}
        means = [f"{number(mean_interval(list(gains.values())).mean)} at {at:,}" for at, gains in more.items()]
        parts += [f"over all seeds that there are {', '.join(means)}"] if means else []
    return "; ".join(parts) + "."


def _points(budget: Budget, seeds: Sequence[int]) -> str:
    """The mean gain over the seeds that have all budgets; where none has, over all that this one has."""
    gains = [budget.gains[seed] for seed in seeds] or list(budget.gains.values())
    return number(mean_interval(gains).mean) if gains else "none"
