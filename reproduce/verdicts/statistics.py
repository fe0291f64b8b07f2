"""The one rule by which a claim of the paper gets its verdict, and the words of a verdict.

A verdict has a *direction*, what the runs say, and apart from it a *scope*, what they can speak about.

Directions
----------
A claim about errors or accuracies compares two methods trained on the same data with the same recipe and the same
seeds. Its evidence are *gains*: differences seed by seed, positive when the method that the paper calls better is
better (``reproduce/verdicts/metrics.py``). Their mean has one interval, which is printed and which alone decides.

* "better":

  - *agrees*: the interval lies above 0;
  - *disagrees*: it lies below 0: the opposite of the claim;
  - *no effect of the paper's size*: it holds 0 (or touches it) and ends below the paper's own difference of the two
    methods in points, where that is legible and positive. The effect may be smaller than the paper's, or none;
  - *undecided* otherwise.

  An interval above 0 that ends below the paper's difference, or begins above it, *agrees*, and the words say that the
  effect is smaller, or larger. On other data than the paper's a point is of another size: there no effect is called
  smaller or larger, and *no effect of the paper's size* has to end below half of the paper's difference.
* "similar", with a declared margin d (an equivalence test):

  - *agrees*: the interval lies within (-d, d). Where it excludes 0 the words say that there is a difference, if one
    within the margin, so that the same pair can be better and similar at once. (Until 2026-11-30 such an interval was
    *undecided*; no stored verdict changed with that.);
  - *disagrees*: it lies wholly outside of [-d, d];
  - *undecided* otherwise.

* "fewer parameters" (or multiply-adds): counted on the networks at full widths, without any training, so always
  decided: *agrees* when the saving lies in the declared range, else *disagrees*.
* "computed": an identity or an order, computed in float64 without data (``reproduce/studies``), so always decided.
* "does not converge", with a declared multiple: a run *fails* when it diverged or when its error is above that multiple
  of the baseline's with the same seed. *agrees* when every run fails, *disagrees* when none does, else *undecided*;
  "converges" is its opposite.

*undecided* are also: fewer than three common seeds (the observed values are shown, and no t interval is made of them),
and a diverged run of either method of a "better" or "similar" claim: a diverged run has no error, and comparing only
the runs that survived would favour the unstable method. *not run*: one of the two methods has no record.
*no claim*: a row beyond the paper, which no claim is about.

The unit of replication
-----------------------
Errors are replicated by seeds. Accuracies of few-shot learning (Table 6) are too, from three seeds on. With one or two
trainings a method the replicates are the test episodes (averaged over the trainings, which share their episodes):
the interval then speaks of these trainings only, and the scope says so. How far trainings scatter it does not count; so
it decides nothing against one of its trainings: where two differ in sign, the claim is *undecided*.

How far gains scatter over seeds is not told by the few seeds of a pair alone: methods trained alike tell it together
(``spread.py`` beside this file). They are those whose errors the claims of a table compare; those of the paper's tables
on the same data tell it for all these, so that two methods have one spread wherever they are compared. Believed is the
largest of three standard deviations (of the pair's own gains, of its two methods, of all methods): what others lend is
above all degrees of freedom, so that a verdict can change when other methods get seeds. Not so in Table 6, where
methods start from one backbone; of two trainings of that backbone, made on machines that round otherwise, the runs are
not compared. Where the spread of the pair's own gains alone, with Holm's procedure over
such, would give another direction, the verdict names it. This was brought in on 2026-11-29, when most records of the
profile cpu were known: by their own spread alone three seeds could decide next to nothing, either way.

Runs of one seed have their start and their images' order in common. They need not have been made on one machine: on
another processor a training of the same seed ends elsewhere (docs/determinism.md), so that such a pair shares less than
one of a single machine, which only widens what its gains scatter by. Records name their machines.

Several claims: Holm
--------------------
The *family* are all pairs of methods whose "better" or "similar" claims a table declares, on all its data sets and
metrics; a pair that several claims are about counts once. A pair belongs to it from the start, run or not: one that
cannot be tested yet has p = 1, which makes the levels of the others stricter, never looser. The whole table is the
family, not one data set of it, since the promise is about the table: when no pair of a table differs, the chance that
any of its "better" claims *agrees* or *disagrees* is at most 5 %, however the pairs depend on each other. The same two
methods in another table belong to another family and have an interval of another level there, which is printed beside
it.

Every pair is asked by a two-sided t test whether there is any difference. In Holm's step-down (Scandinavian Journal
of Statistics 6, 1979) the m p values are sorted; the pair of rank r is tested at 5 % / (m - r + 1); the first that
fails ends the procedure, and those after it stay at its level. A pair's interval is that of the level at which it was
tested, 1 - 5 % / (m - r + 1), which is printed beside it. It excludes 0 exactly where Holm finds a difference, so
interval and decision cannot disagree. The other directions are read from the same interval: the chance of a false *no
effect of the paper's size*, or of a false *agrees* of a "similar" claim, is at most 2.5 % for each claim, since no
interval is of a lower level than 95 %.

Errors are whole numbers of test images. With few of them the gains of three seeds can be equal by chance, and a t test
would take that for certainty. So no spread is believed that is smaller than what rounding to whole images alone makes:
a standard deviation of the size of one image over the root of 12, for each of the two errors.

Intervals speak of the test set that there is (Table 6: of its novel classes), not of other images or classes: all seeds
are measured on the same ones, so what these add to the scatter, which may be as much again, is not counted.

Assumptions: gains are independent and normal over replicates, methods trained alike scatter over seeds about alike and
have nothing but their seed's effect in common, and the number of seeds does not depend on what they show. Where one
method scatters three times as much as the others, the 5 % are up to 6 and the 2.5 % up to 4, by simulation. Where seeds
are added because a claim is undecided, both promises are weaker: by simulation, with a look at every number from three
to five a true null is decided in about 10 % of cases instead of 5 %.

Scope
-----
Other data than the paper's, other widths, a training of less than half of the paper's images or in bfloat16, few
trainings: each is named beside the direction, and none makes a result undecided. A claim won against a competitor that
is known to be handicapped says so.

A table's row has the direction of the "better" claims in which its method is the better one (of its other claims where
it has none): *disagrees* or *no effect* when one of them is, then *undecided*, else *agrees*; the baseline's row is the
*reference*.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import fsum, sqrt

#: Fewer paired seeds than this decide nothing, and have no t interval.
MINIMUM_SEEDS = 3

#: The chance that a table without any difference shows one.
FAMILY_ALPHA = 0.05

#: A smaller part of the paper's training than this is named in the scope.
FULL_BUDGET = 0.5

#: The part of the paper's difference that counts on other data, where a point is of another size.
OTHER_DATA = 0.5

SEED, EPISODE = "seed", "episode"


class Direction(StrEnum):
    """What the runs say about a claim."""

    AGREES = "agrees"
    DISAGREES = "disagrees"
    NO_EFFECT = "no effect of the paper's size"
    UNDECIDED = "undecided"
    NOT_RUN = "not run"
    REFERENCE = "reference"
    NO_CLAIM = "no claim"


@dataclass(frozen=True)
class Interval:
    """A mean over ``count`` values with its t interval of ``level``; below three values there is only the mean."""

    mean: float
    low: float | None
    high: float | None
    count: int
    level: float = 0.95


@dataclass(frozen=True)
class Scope:
    """What a result can speak about; an empty phrase where it is as in the paper.

    Attributes:
        data: other data than the paper's, such as "digits for CIFAR-10".
        width: other widths of the networks.
        budget: training images as a fraction of the paper's.
        precision: that trainings were in bfloat16, in which a predicted M is rounded beside 1.
        trainings: that an interval speaks of these trainings only.
    """

    data: str = ""
    width: str = ""
    budget: float = 1.0
    precision: str = ""
    trainings: str = ""

    def __str__(self) -> str:
        budget = f"{100 * self.budget:.3g} % of the paper's training" if self.budget < FULL_BUDGET else ""
        return ", ".join(part for part in (self.data, self.width, budget, self.precision, self.trainings) if part)


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict; nothing but its methods puts one in words.

    Attributes:
        direction: what the runs say.
        scope: what they can speak about.
        interval: the one that decided, of gains in points (a counted claim: the percentage saved, without ends).
        unit: what it is over, ``SEED`` or ``EPISODE``; empty where nothing is replicated.
        seeds: common seeds of the two methods.
        values: the gain of every seed, in the seeds' order.
        observed: what was counted, in words, where that is no gain.
        reason: why it is undecided, or what to know about it.
        idle: which method did nothing, or how little, of what it is about, and in how many trainings.
        vain: the methods of which all trainings did nothing of it.
        handicap: which method came off worse with a known handicap, and with which; of either where it is undecided.
        alone: what it would be by the spread of its own gains alone, where that is something else.
        late: that its claim was declared when runs of it were known, where it was.
    """

    direction: Direction
    scope: Scope = Scope()
    interval: Interval | None = None
    unit: str = ""
    seeds: int = 0
    values: tuple[float, ...] = ()
    observed: str = ""
    reason: str = ""
    idle: str = ""
    handicap: str = ""
    alone: str = ""
    late: str = ""
    vain: tuple[str, ...] = ()

    @property
    def counted(self) -> bool:
        """Whether it is about sizes of networks or identities, which need no training."""
        return bool(self.observed) and not self.seeds

    def note(self) -> str:
        """What to know about the direction."""
        return joined(self.reason, self.idle, self.handicap, self.alone, self.late)

    def short(self) -> str:
        """The direction, and in brackets what to know about it: a table's cell."""
        return f"{self.direction} ({self.note()})" if self.note() else str(self.direction)


def joined(*parts: str) -> str:
    """Those of the remarks that are not empty, as one."""
    return "; ".join(part for part in parts if part)


def level_text(level: float) -> str:
    """A level as it is printed: 95 %, 99.17 %."""
    return f"{100 * level:.4g} %"


def values_text(values: Sequence[float]) -> str:
    """Single values as they are printed."""
    return ", ".join(f"{value:.2f}" for value in values)


def _mean_and_error(values: Sequence[float], floor: float) -> tuple[float, float]:
    """Mean and its standard error, the same to the last bit in whatever order the values come."""
    count = len(values)
    mean = fsum(values) / count
    variance = fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, sqrt(max(variance, floor**2) / count)


def mean_interval(
    values: Sequence[float], level: float = 0.95, floor: float = 0.0, freedom: float | None = None
) -> Interval:
    """Mean of ``values`` and its Student t interval, which below three values is none.

    ``floor`` is the least standard deviation that is believed, ``freedom`` the degrees of freedom of what is believed
    (`Replicates`), without a word those of the values.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("The mean of no values was asked for; pass at least one.")
    count = len(values)
    if count < MINIMUM_SEEDS:
        return Interval(fsum(values) / count, None, None, count, level)
    from scipy.special import stdtrit

    mean, error = _mean_and_error(values, floor)
    half = float(stdtrit(freedom or count - 1, (1 + level) / 2)) * error
    return Interval(mean, mean - half, mean + half, count, level)


def difference_p(values: Sequence[float], floor: float = 0.0, freedom: float | None = None) -> float:
    """The p value of Student's two-sided test that ``values`` (three or more) have mean 0; the others as above."""
    from scipy.special import stdtr

    mean, error = _mean_and_error(values, floor)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(freedom or len(values) - 1, -abs(mean) / error))


def holm_levels(p_values: Mapping[Hashable, float], alpha: float = FAMILY_ALPHA) -> dict[Hashable, float]:
    """The level of every test's interval: 1 minus the significance at which Holm's step-down tested it."""
    levels: dict[Hashable, float] = {}
    left, failed = len(p_values), False
    significance = alpha
    for key in sorted(p_values, key=lambda item: p_values[item]):
        if not failed:
            significance = alpha / left
            failed = p_values[key] > significance
        levels[key] = 1 - significance
        left -= 1
    return levels


def decide_better(interval: Interval, paper: float | None, other_data: bool = False) -> tuple[Direction, str]:
    """Direction and reason of a "better" claim; ``paper`` is the paper's gain in points, None where illegible."""
    low, high = interval.low, interval.high
    assert low is not None
    assert high is not None
    if low > 0:
        if paper is None or paper <= 0 or other_data or low <= paper <= high:
            return Direction.AGREES, ""
        return Direction.AGREES, f"a {'smaller' if high < paper else 'larger'} effect than the paper's"
    if high < 0:
        return Direction.DISAGREES, ""
    if paper is None:
        return Direction.UNDECIDED, "the interval holds 0; no difference of the paper's to compare it with"
    if paper > 0 and high < (OTHER_DATA * paper if other_data else paper):
        return Direction.NO_EFFECT, ""
    of = "half of the paper's difference, which is of other data" if other_data else "the paper's difference"
    return Direction.UNDECIDED, "the interval holds 0" + (f" and {of}" if paper > 0 else "")


def decide_similar(interval: Interval, margin: float) -> tuple[Direction, str]:
    """Direction and reason of a "similar" claim with a margin in points."""
    low, high = interval.low, interval.high
    assert low is not None
    assert high is not None
    if -margin < low and high < margin:
        return Direction.AGREES, "" if low <= 0 <= high else f"a difference, within the margin of {margin:g} points"
    if high < -margin or low > margin:
        return Direction.DISAGREES, ""
    return Direction.UNDECIDED, f"the interval is not within the margin of {margin:g} points"


def decide_share(share: float, wanted: tuple[float, float]) -> Direction:
    """Direction of a claim about a counted fraction: above the first and at most the second that is wanted."""
    return Direction.AGREES if wanted[0] < share <= wanted[1] else Direction.DISAGREES


def decide_failures(failed: int, runs: int) -> tuple[Direction, str]:
    """Direction and reason of a claim that a method does not converge, of whose ``runs`` so many ``failed``."""
    if runs < MINIMUM_SEEDS:
        return Direction.UNDECIDED, too_few(runs)
    if failed == runs:
        return Direction.AGREES, ""
    return (Direction.UNDECIDED, "some runs converge") if failed else (Direction.DISAGREES, "")


def too_few(seeds: int) -> str:
    """Why this many seeds decide nothing."""
    return {0: "no common seed", 1: "one common seed, three decide"}.get(seeds, f"{seeds} common seeds, three decide")


def combine(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of a table's row from those of its claims; without numbers, which belong to single claims."""
    directions = [verdict.direction for verdict in verdicts]
    if not verdicts or all(direction == Direction.NOT_RUN for direction in directions):
        return Verdict(Direction.NOT_RUN)
    for direction in (Direction.DISAGREES, Direction.NO_EFFECT, Direction.UNDECIDED, Direction.NOT_RUN):
        if direction in directions:
            found = verdicts[directions.index(direction)]
            if direction == Direction.NOT_RUN:
                scope = next(verdict.scope for verdict in verdicts if verdict.direction != Direction.NOT_RUN)
                return Verdict(Direction.UNDECIDED, scope, reason="a method compared with is not run")
            break
    else:
        found = verdicts[0]
    reason = found.reason if found.direction == Direction.UNDECIDED else ""
    deciding = [verdict for verdict in verdicts if verdict.direction == found.direction]
    handicap = next((verdict.handicap for verdict in deciding if verdict.handicap), "")
    alone = next((verdict.alone for verdict in deciding if verdict.alone), "")
    return Verdict(found.direction, found.scope, reason=reason, handicap=handicap, alone=alone)
