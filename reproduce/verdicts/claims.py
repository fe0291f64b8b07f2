"""Kinds of claims: what each asks of the records or the networks. ``reproduce/verdicts/judge.py`` gives the verdicts.

A kind is one class with one interface (:class:`Kind`) in :data:`KINDS`; a new kind is a new class there. The rule is in
``reproduce/verdicts/statistics.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from reproduce.verdicts.metrics import Metric, Replicates, gains, other_starts
from reproduce.verdicts.statistics import (
    MINIMUM_SEEDS,
    Direction,
    Interval,
    Scope,
    Verdict,
    decide_better,
    decide_failures,
    decide_share,
    decide_similar,
    joined,
    mean_interval,
    too_few,
)

if TYPE_CHECKING:
    from reproduce.declare.experiments import Claim, Method
    from reproduce.declare.profiles import Profile


class Side(Protocol):
    """What a claim needs of a table's row."""

    @property
    def slot(self) -> str:
        """Slot of the data set."""
        ...

    @property
    def dataset(self) -> str:
        """How the data set is written."""
        ...

    @property
    def method(self) -> Method:
        """The method."""
        ...

    @property
    def records(self) -> Mapping[int, Mapping[str, Any]]:
        """The records by seed."""
        ...

    @property
    def diverged(self) -> int:
        """Number of runs that diverged."""
        ...

    @property
    def idle(self) -> str:
        """In how many trainings nothing was done of what the row is about."""
        ...

    @property
    def always_idle(self) -> bool:
        """Whether nothing of it was done in any training."""
        ...

    def printed(self, metric: Metric) -> float | None:
        """The paper's value of a metric."""
        ...


@dataclass(frozen=True)
class Case:
    """A claim on one data set: the rows it is about, and the scope of their profile there."""

    claim: Claim
    profile: Profile
    scope: Scope
    better: Side
    worse: Side
    without: Side | None = None
    paper: Profile | None = None  #: that of the paper's own networks, where it has the data set's place

    @property
    def metric(self) -> Metric:
        """What the claim compares."""
        return self.claim.metric


@dataclass(frozen=True)
class Evidence:
    """What a case comes to before it is judged.

    Attributes:
        paper: the paper's gain in points, or its saving in percent; None where illegible.
        verdict: of what is decided without an interval, or cannot be decided.
        gains: of what an interval decides.
    """

    paper: float | None = None
    verdict: Verdict | None = None
    gains: Replicates | None = None


class Kind(ABC):
    """One kind of claim.

    Attributes:
        name: as ``kind`` in a table's declaration.
        ranks: whether it says that the first method is the better one, so that the method's row stands for it.
        replicated: whether it is judged by an interval over replicates, so that its pair belongs to a table's family.
        of_failing: whether it is about runs that fail, so that a diverged one is an answer.
        on: what stands for the data set, of a kind that needs none.
    """

    name: ClassVar[str]
    ranks: ClassVar[bool] = False
    replicated: ClassVar[bool] = False
    of_failing: ClassVar[bool] = False
    on: ClassVar[str] = ""

    def check(self, claim: Claim) -> str:
        """What is wrong with a declaration, in a sentence; empty when nothing is."""
        return ""

    def quantity(self, claim: Claim) -> str:
        """What the claim's difference is in."""
        return f"points of {claim.metric.title}, positive as claimed"

    @abstractmethod
    def evidence(self, case: Case) -> Evidence:
        """What the records or networks say."""

    def decide(self, case: Case, interval: Interval, paper: float | None) -> tuple[Direction, str]:
        """Direction and reason from the interval, of the kinds that are judged by one."""
        raise NotImplementedError(f"A claim {self.name!r} is not judged by an interval.")


def _paper_gain(case: Case) -> float | None:
    better, worse = (side.printed(case.metric) for side in (case.better, case.worse))
    return None if better is None or worse is None else case.metric.gain(better, worse)


#: Why methods that start from one backbone cannot be compared, where there are two trainings of it.
OTHER_START = "no common seed that starts from one training of the backbone"


class _Comparison(Kind):
    """What "better" and "similar" share: gains seed by seed, or episode by episode."""

    replicated = True

    def evidence(self, case: Case) -> Evidence:
        paper = _paper_gain(case)
        if not case.better.records or not case.worse.records:
            return Evidence(paper=paper, verdict=Verdict(Direction.NOT_RUN))
        found = gains(case.metric, case.better.records, case.worse.records)
        by_seed = () if found is None else tuple(found.by_seed.values())
        reason = ""
        if case.better.diverged or case.worse.diverged:
            reason = "a run diverged"
        elif found is None or len(found.values) < MINIMUM_SEEDS:
            left_out = other_starts(case.metric, case.better.records, case.worse.records)
            reason = OTHER_START if left_out and not by_seed else too_few(len(by_seed))
        if found is not None and not reason:
            return Evidence(paper, gains=found)
        mean = mean_interval(by_seed) if by_seed else None
        shown = None if mean is None else Interval(mean.mean, None, None, mean.count)
        verdict = Verdict(
            Direction.UNDECIDED, case.scope, shown, seeds=len(by_seed), values=by_seed, reason=reason
        )
        return Evidence(paper, verdict)


class Better(_Comparison):
    """The first method has the lower error or the higher accuracy."""

    name = "better"
    ranks = True

    def decide(self, case: Case, interval: Interval, paper: float | None) -> tuple[Direction, str]:
        return decide_better(interval, paper, bool(case.scope.data))


class Similar(_Comparison):
    """The two methods differ by less than the claim's margin."""

    name = "similar"

    def check(self, claim: Claim) -> str:
        metric = claim.metric
        if 0 < claim.margin <= metric.widest_margin:
            return ""
        return (
            f"margin is {claim.margin:g}; a claim that two methods are similar in {metric.title} declares one above 0 "
            f"and at most {metric.widest_margin:g} points."
        )

    def decide(self, case: Case, interval: Interval, paper: float | None) -> tuple[Direction, str]:
        return decide_similar(interval, case.claim.margin)


class FewerParameters(Kind):
    """The first network has fewer parameters or multiply-adds, by a declared range of the fraction saved.

    ``without`` names a method whose count is taken from both first, so that the claim is about what they add to it.
    """

    name = "fewer_parameters"

    def check(self, claim: Claim) -> str:
        from reproduce.declare.sizes import QUANTITIES

        if claim.quantity not in QUANTITIES:
            return f"quantity {claim.quantity!r} is unknown; use one of {', '.join(QUANTITIES)}."
        if not 0 <= claim.saving[0] < claim.saving[1] <= 1:
            return f"saving is {list(claim.saving)}; give the least and the largest fraction saved, from 0 to 1."
        if claim.more and claim.saving[1] == 1 and claim.saving[0] > 0:
            return "saving ends at 1, which has no share that the second has more; give less."
        return ""

    def quantity(self, claim: Claim) -> str:
        from reproduce.declare.sizes import QUANTITIES

        return f"% {'more' if claim.more else 'fewer'} {QUANTITIES[claim.quantity]}"

    def evidence(self, case: Case) -> Evidence:
        from reproduce.declare.sizes import QUANTITIES, count

        claim, profile, scope, where = case.claim, case.profile, replace(case.scope, budget=1.0, precision=""), ""
        # Profiles shrink networks unevenly, for time; the paper speaks of its own, whose counting costs nothing.
        if (scope.data or scope.width) and case.paper is not None:
            profile, scope, where = case.paper, Scope(), "at full widths and the paper's classes "

        def of(side: Side) -> int:
            return count(profile.run(side.method, side.slot, 0), claim.quantity)

        base = 0 if case.without is None else of(case.without)
        less, more = of(case.better) - base, of(case.worse) - base
        saving = 1 - less / more
        direction = decide_share(saving, claim.saving)
        what, difference = QUANTITIES[claim.quantity], _share(less, more, claim.more)
        observed = f"{where}{difference:.1f} % fewer {what}: {less:,} against {more:,}"
        if claim.more:
            observed = f"{where}the second has {difference:.1f} % more {what}: {more:,} against {less:,}"
        observed += f" ({more / less:.3g} times)" if less > 0 else ""
        if case.without is not None:
            observed += f", those of {case.without.method.label} not counted"
        if claim.saving != (0.0, 1.0):
            low, high = (_share(1 - share, 1, claim.more) for share in claim.saving)
            observed += f" (declared range: {low:.3g} to {high:.3g} %)"
        paper = _share(*claim.paper_counts, claim.more) if claim.paper_counts else None
        interval = Interval(difference, None, None, 1)
        reason = joined(claim.note, _price(case) if claim.quantity == "folded_multiply_adds" else "")
        verdict = Verdict(direction, scope, interval, observed=observed, reason=reason)
        return Evidence(paper=paper, verdict=verdict)


def _share(less: float, more: float, as_more: bool) -> float:
    """By how many percent the first count is smaller, or the second larger."""
    return 100 * (more / less - 1) if as_more else 100 * (1 - less / more)


def _price(case: Case) -> str:
    """What a network that costs less once it is folded errs beside the other, where both are trained."""
    found = [list(case.metric.values(side.records).values()) for side in (case.better, case.worse)]
    if not all(found):
        return ""
    its, other = (mean_interval(values).mean for values in found)
    return f"its {case.metric.title} is {its:.2f} beside {other:.2f}"


class DoesNotConverge(Kind):
    """The first method's runs diverge, or end above the claim's multiple of the second's error with the same seed."""

    name = "does_not_converge"
    of_failing = True

    def rule(self, failed: int, runs: int) -> tuple[Direction, str]:
        """Direction and reason where so many of the runs failed."""
        return decide_failures(failed, runs)

    def check(self, claim: Claim) -> str:
        if claim.multiple > 1:
            return ""
        return f"multiple is {claim.multiple:g}; declare one above 1, of the second method's error."

    def quantity(self, claim: Claim) -> str:
        return "% of runs that fail"

    def evidence(self, case: Case) -> Evidence:
        metric, limit = case.metric, case.claim.multiple
        if not case.better.records or not case.worse.records:
            return Evidence(verdict=Verdict(Direction.NOT_RUN))
        theirs = {seed: metric.error(value) for seed, value in metric.values(case.worse.records).items()}
        ours = {seed: metric.error(value) for seed, value in metric.values(case.better.records).items()}
        seeds = [seed for seed in case.better.records if seed in theirs]
        diverged = [seed for seed in seeds if case.better.records[seed]["status"] == "diverged"]
        above = [seed for seed in seeds if seed in ours and ours[seed] > limit * theirs[seed]]
        failed = len(diverged) + len(above)
        if not seeds:
            why = joined(f"no common seed of which {case.worse.method.label} has an error", case.claim.note)
            return Evidence(verdict=Verdict(Direction.UNDECIDED, case.scope, reason=why))
        direction, why = self.rule(failed, len(seeds))
        reason = joined(why, case.claim.note)
        observed = (
            f"{failed} of {len(seeds)} runs fail: {len(diverged)} diverged, {len(above)} above {limit:g} times the "
            f"error of {case.worse.method.label}"
        )
        interval = Interval(100 * failed / len(seeds), None, None, len(seeds))
        verdict = Verdict(direction, case.scope, interval, seeds=len(seeds), observed=observed, reason=reason)
        return Evidence(verdict=verdict)


class Converges(DoesNotConverge):
    """None of the first method's runs fails."""

    name = "converges"

    def rule(self, failed: int, runs: int) -> tuple[Direction, str]:
        return decide_failures(runs - failed, runs)


class Computed(Kind):
    """An identity or an order that a check of ``reproduce.studies`` computes, without data or training."""

    name = "computed"
    on = "no data"

    def check(self, claim: Claim) -> str:
        from reproduce.studies import CHECKS

        return "" if claim.check in CHECKS else f"check {claim.check!r} is unknown; use one of {', '.join(CHECKS)}."

    def quantity(self, claim: Claim) -> str:
        return "computed"

    def evidence(self, case: Case) -> Evidence:
        from reproduce.studies import outcome

        holds, observed = outcome(case.claim.check)
        direction = Direction.AGREES if holds else Direction.DISAGREES
        return Evidence(verdict=Verdict(direction, observed=observed, reason=case.claim.note))


KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (Better(), Similar(), FewerParameters(), DoesNotConverge(), Converges(), Computed())
}


def check(claim: Claim) -> str:
    """What is wrong with a declared claim, in a sentence; empty when nothing is."""
    if claim.kind not in KINDS:
        return f"claim kind {claim.kind!r} is unknown; use one of {', '.join(KINDS)}."
    problem = KINDS[claim.kind].check(claim)
    return f"claim {claim.words!r}: {problem}" if problem else ""
