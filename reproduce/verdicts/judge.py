"""How a table's claims get their verdicts: all of them together, since they are one family and share one spread.

The rule is in ``reproduce/verdicts/statistics.py``, what a kind of claim asks of the records in ``claims.py``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from reproduce.verdicts.claims import KINDS, Case, Evidence, Kind, Side
from reproduce.verdicts.metrics import Replicates, other_starts, paired_seeds
from reproduce.verdicts.spread import Pool, pool
from reproduce.verdicts.statistics import (
    EPISODE,
    OTHER_DATA,
    Direction,
    Interval,
    Verdict,
    holm_levels,
    joined,
    values_text,
)

if TYPE_CHECKING:
    from reproduce.declare.experiments import Claim, Method


@dataclass(frozen=True)
class Judged:
    """A claim on one data set with its verdict; ``paper`` is in the unit of ``quantity``, positive as claimed."""

    slot: str
    dataset: str
    claim: Claim
    better: Method
    worse: Method
    quantity: str
    paper: float | None
    verdict: Verdict
    gains: Replicates | None = None  #: what an interval was made of
    pairs: Mapping[int, tuple[float, float]] = field(default_factory=dict)  #: by common seed, where a row has more
    controls: tuple[Judged, ...] = ()  #: the verdicts on the controls that the claim names

    @property
    def difference(self) -> Interval | None:
        """What was observed, in the unit of ``quantity``, with the ends of the interval that decided."""
        return self.verdict.interval

    @property
    def excluded(self) -> float | None:
        """The difference that an interval around 0 has to end below, to show no effect of the paper's size."""
        if self.paper is None or not self.verdict.scope.data:
            return self.paper
        return OTHER_DATA * self.paper

    @property
    def reservations(self) -> tuple[str, ...]:
        """What takes from a claim that agrees: a method that did nothing of its own, controls that it does not beat."""
        vain = [f"{label} did nothing of what it is about" for label in self.verdict.vain]
        beaten = [one for one in self.controls if one.verdict.direction == Direction.DISAGREES]
        open_ = [one for one in self.controls if one.verdict.direction not in (Direction.AGREES, Direction.DISAGREES)]
        return (
            *vain,
            *(f"our control, {one.control_name}, beats {one.better.label}" for one in beaten),
            *(f"{one.better.label} is not shown to beat our control, {one.control_name}" for one in open_),
        )

    @property
    def control_name(self) -> str:
        """Of a control, what it compares with."""
        return self.worse.label.removesuffix(" (not in the paper)")


def pair(case: Case) -> Hashable:
    """What a family counts once: two methods, in either order, on one data set and metric."""
    return case.better.slot, case.metric.name, frozenset((case.better.method.key, case.worse.method.key))


def compared(claims: Iterable[Claim]) -> set[str]:
    """The methods whose values "better" and "similar" claims compare, by their keys."""
    return {key for claim in claims if KINDS[claim.kind].replicated for key in (claim.better, claim.worse)}


def _pools(cases: Sequence[Case], peers: Sequence[Side]) -> dict[Hashable, Pool | None]:
    """By data set and metric, the spread over seeds that all compared methods show together.

    Left out are a method of which a run diverged, since the runs that survived say nothing about the spread of others,
    and one that did nothing of what it is about in any training. Metrics of few-shot learning share no spread: methods
    that start from one backbone have residuals in common.
    """
    values: dict[Hashable, dict[str, Mapping[int, float]]] = {}
    for case in cases:
        if not KINDS[case.claim.kind].replicated or case.metric.episodes is not None:
            continue
        place = case.better.slot, case.metric.name
        if place not in values:
            others = {f"peer {i}": side for i, side in enumerate(peers) if side.slot == case.better.slot}
            values[place] = {key: found for key, side in others.items() if (found := _told(case, side))}
        for side in (case.better, case.worse):
            if found := _told(case, side):
                values[place][side.method.key] = found
    return {place: pool(held) for place, held in values.items()}


def _told(case: Case, side: Side) -> Mapping[int, float]:
    """The values by which a method tells the spread."""
    return {} if side.diverged or side.always_idle else case.metric.values(side.records)


def _among(item: Evidence, case: Case, pools: Mapping[Hashable, Pool | None]) -> Evidence:
    """The evidence with the spread that methods show together, of a pair that both tell it."""
    shared, keys = pools.get((case.better.slot, case.metric.name)), (case.better.method.key, case.worse.method.key)
    if item.gains is None or shared is None or not all(key in shared.own for key in keys):
        return item
    return replace(item, gains=item.gains.among(shared, *keys))


def _handicap(case: Case, direction: Direction, mean: float) -> str:
    """What a known handicap may have changed: that of the method behind, or of either where nothing is decided."""
    ahead = direction == Direction.AGREES if KINDS[case.claim.kind].ranks else mean > 0
    behind = case.worse if ahead else case.better
    asked = (case.better, case.worse) if direction == Direction.UNDECIDED else (behind,)
    of = {side.method.label: case.profile.handicap(side.method, side.slot) for side in (case.better, case.worse)}
    named = {side.method.label: of[side.method.label] for side in asked if of[side.method.label]}
    if named and len(set(of.values())) == 1:
        return f"both are handicapped: {next(iter(named.values()))}"
    return joined(*(f"{label} is handicapped: {handicap}" for label, handicap in named.items()))


def _idle(case: Case) -> str:
    """Which of the two methods did nothing of what it is about, and in how many trainings."""
    sides = {side.method.label: side.idle for side in (case.better, case.worse)}
    return joined(*(f"{label}: {idle}" for label, idle in sides.items() if idle))


def _pairs(case: Case) -> dict[int, tuple[float, float]]:
    """The values of the compared seeds, where a row has others too, or where a mean over episodes hides them."""
    first, second = (case.metric.values(side.records) for side in (case.better, case.worse))
    common = paired_seeds(case.metric, case.better.records, case.worse.records)
    hidden = case.metric.episodes is not None and len(common) > 1
    if set(common) == first.keys() | second.keys() and not hidden:
        return {}
    return {seed: (first[seed], second[seed]) for seed in common}


def _levels(cases: Sequence[Case], found: Sequence[Evidence]) -> dict[Hashable, float]:
    """The level of every pair's interval, by Holm's procedure over all of them."""
    # Declared pairs count whether they can be tested yet or not: what is still to be run only makes levels stricter.
    p_values: dict[Hashable, float] = {pair(case): 1.0 for case in cases if KINDS[case.claim.kind].replicated}
    for case, item in zip(cases, found):
        if item.gains is not None:
            p_values[pair(case)] = item.gains.p
    return holm_levels(p_values)


def _of_trainings(kind: Kind, found: Replicates, direction: Direction, reason: str) -> tuple[Direction, str]:
    """Direction and reason, where episodes decide which of two methods is better: not against one of its trainings."""
    signs = {gain > 0 for gain in found.by_seed.values()}
    decided = direction in (Direction.AGREES, Direction.DISAGREES)
    if found.unit == EPISODE and kind.ranks and decided and len(signs) > 1:
        told = values_text(list(found.by_seed.values()))
        return Direction.UNDECIDED, f"trainings differ in sign, {told}; three would decide"
    return direction, reason


def judge(cases: Sequence[Case], peers: Sequence[Side] = ()) -> tuple[Judged, ...]:
    """The verdicts on a table's claims, which are one family.

    Args:
        cases: the claims, each on one data set.
        peers: rows of other tables, trained alike on the same data sets, that tell the spread too.
    """
    alone = [KINDS[case.claim.kind].evidence(case) for case in cases]
    pools = _pools(cases, peers)
    found = [_among(item, case, pools) for item, case in zip(alone, cases)]
    levels, own_levels = _levels(cases, found), _levels(cases, alone)
    judged = []
    for case, item, own in zip(cases, found, alone):
        kind = KINDS[case.claim.kind]
        verdict = item.verdict
        if item.gains is not None and own.gains is not None:
            interval, by_seed = item.gains.interval(levels[pair(case)]), tuple(item.gains.by_seed.values())
            direction, reason = _of_trainings(kind, item.gains, *kind.decide(case, interval, item.paper))
            seeds = len(by_seed)
            trainings = []
            if item.gains.unit == EPISODE:
                trainings.append(f"these trainings only, {'one' if seeds == 1 else 'two'} a method")
            elif case.metric.episodes is not None:
                trainings.append("these test episodes only")
            if left_out := other_starts(case.metric, case.better.records, case.worse.records):
                named = ", ".join(map(str, left_out))
                trainings.append(f"without seed {named}, which starts from two trainings of one backbone")
            scope = replace(case.scope, trainings=", ".join(trainings))
            handicap = _handicap(case, direction, interval.mean)
            other, _ = _of_trainings(
                kind, own.gains, *kind.decide(case, own.gains.interval(own_levels[pair(case)]), item.paper)
            )
            by_itself = "" if other == direction else f"by the spread of its own gains alone: {other}"
            verdict = Verdict(
                direction, scope, interval, unit=item.gains.unit, seeds=seeds, values=by_seed, reason=reason,
                handicap=handicap, alone=by_itself,
            )  # fmt: skip
        assert verdict is not None  # it is decided without an interval, or by one
        if kind.replicated and verdict.direction != Direction.NOT_RUN:
            vain = tuple(side.method.label for side in (case.better, case.worse) if side.always_idle)
            verdict = replace(verdict, idle=_idle(case), vain=vain)
        if case.claim.late and verdict.direction != Direction.NOT_RUN:
            verdict = replace(verdict, late="declared when runs of it were known")
        quantity, (better, worse) = kind.quantity(case.claim), (case.better, case.worse)
        data = kind.on or better.dataset
        judged.append(
            Judged(
                slot=better.slot,
                dataset=data,
                claim=case.claim,
                better=better.method,
                worse=worse.method,
                quantity=quantity,
                paper=item.paper,
                verdict=verdict,
                gains=item.gains,
                pairs=_pairs(case) if kind.replicated else {},
            )
        )
    return tuple(replace(one, controls=_controls(one, judged)) for one in judged)


def _controls(judged: Judged, every: Iterable[Judged]) -> tuple[Judged, ...]:
    """The verdicts on the controls that a claim names, on its data set."""
    here = (one for one in every if one.slot == judged.slot and one.claim.control)
    own = {f"{one.claim.better}:{one.claim.worse}": one for one in here}
    return tuple(own[name] for name in judged.claim.controls if name in own)
