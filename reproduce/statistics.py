"""Intervals over seeds, and the one rule by which a claim of the paper gets its verdict.

The rule
--------
A claim compares two methods of a table, trained on the same data with the same recipe and the same seeds.

1. *not run*: one of the two methods has no record.
2. *inconclusive (other data and width)*: the profile's data or network are not the paper's (the demo
   profile). What was observed is shown, but it is no evidence about the paper, whatever it looks like.
3. *inconclusive (a run diverged)*: a run of either method diverged. A diverged run has no error, and
   comparing only the runs that survived would favour the unstable method.
4. *inconclusive (too few seeds)*: fewer than three common seeds.
5. Otherwise the test errors are subtracted seed by seed, better minus worse, and the 95 % t interval of the
   mean difference decides.

   * "lower error": *reproduced* when the interval lies below 0, *not reproduced* when it lies above 0,
     otherwise *inconclusive*.
   * "similar error" (declared margin d): *reproduced* when the interval lies within (-d, d),
     *not reproduced* when it lies wholly outside, otherwise *inconclusive*.

6. A profile that trains with less than half of the paper's images (the cpu profile) can only speak about
   the ordering at its own budget; its *reproduced* and *not reproduced* carry that budget in brackets.

Parameter counts do not depend on seeds, data or budget: "fewer parameters" is decided by the declared range
of the saving, wherever the network has the paper's width.

A table's row gets *reproduced* when every "lower error" claim in which its method is the better one is
reproduced, *not reproduced* when at least one is not, and *inconclusive* otherwise; the baseline's row is the
*reference*. The intervals are not corrected for the number of claims tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
INCONCLUSIVE = "inconclusive"
NOT_RUN = "not run"
REFERENCE = "reference"

#: Fewer paired seeds than this decide nothing.
MINIMUM_SEEDS = 3

#: A smaller part of the paper's training images than this is stated beside the verdict.
FULL_BUDGET = 0.5


@dataclass(frozen=True)
class Interval:
    """A mean over ``count`` values with its 95 % t interval; no interval for a single value."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Scope:
    """How far a profile is from the paper: its data, its network, its part of the paper's training images."""

    same_data: bool
    same_width: bool
    budget: float


@dataclass(frozen=True)
class Verdict:
    """One of the five words, and in brackets why or under which restriction."""

    word: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.word} ({self.reason})" if self.reason else self.word


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean of ``values`` and its 95 % Student t interval; ValueError when there are none."""
    if not values:
        raise ValueError("The mean of no values was asked for; pass at least one.")
    count = len(values)
    mean = sum(values) / count
    if count == 1:
        return Interval(mean, None, None, 1)
    from scipy.special import stdtrit

    deviation = sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(stdtrit(count - 1, 0.975)) * deviation / sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def paired_difference(better: Mapping[int, float], worse: Mapping[int, float]) -> Interval | None:
    """Mean of ``better[seed] - worse[seed]`` over common seeds, with interval; None when there are none."""
    seeds = sorted(better.keys() & worse.keys())
    return mean_interval([better[seed] - worse[seed] for seed in seeds]) if seeds else None


def _restriction(scope: Scope) -> str:
    """Why nothing observed under ``scope`` is evidence about the paper; empty when it may be."""
    others = [name for name, same in (("data", scope.same_data), ("width", scope.same_width)) if not same]
    return f"other {' and '.join(others)}" if others else ""


def judge_errors(
    difference: Interval | None, scope: Scope, *, diverged: bool = False, margin: float | None = None
) -> Verdict:
    """The verdict on a claim about errors; ``difference`` is better minus worse in percentage points.

    ``margin`` makes it a claim of similarity. None for ``difference`` means that there is no pair of errors.
    """
    if difference is None and not diverged:
        return Verdict(NOT_RUN)
    if restriction := _restriction(scope):
        return Verdict(INCONCLUSIVE, restriction)
    if diverged or difference is None:
        return Verdict(INCONCLUSIVE, "a run diverged")
    if difference.count < MINIMUM_SEEDS or difference.low is None or difference.high is None:
        return Verdict(INCONCLUSIVE, "too few seeds")
    low, high = difference.low, difference.high
    if margin is None:
        word = REPRODUCED if high < 0 else NOT_REPRODUCED if low > 0 else INCONCLUSIVE
    else:
        inside, outside = -margin < low and high < margin, high < -margin or low > margin
        word = REPRODUCED if inside else NOT_REPRODUCED if outside else INCONCLUSIVE
    small = scope.budget < FULL_BUDGET
    return Verdict(word, f"ordering at {100 * scope.budget:.1f} % of the paper's training" if small else "")


def judge_saving(saving: float | None, wanted: tuple[float, float], scope: Scope) -> Verdict:
    """The verdict on a claim about parameters; ``saving`` is the fraction saved, None when not run."""
    if saving is None:
        return Verdict(NOT_RUN)
    if not scope.same_width:
        return Verdict(INCONCLUSIVE, "other width")
    return Verdict(REPRODUCED if wanted[0] <= saving <= wanted[1] else NOT_REPRODUCED)


def combine(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of a table's row from those of the claims in which its method is the better one."""
    if not verdicts or all(verdict.word == NOT_RUN for verdict in verdicts):
        return Verdict(NOT_RUN)
    for word in (NOT_REPRODUCED, INCONCLUSIVE, NOT_RUN):
        for verdict in verdicts:
            if verdict.word == word:
                return Verdict(INCONCLUSIVE, "a method compared with is not run") if word == NOT_RUN else verdict
    return verdicts[0]
