"""What the verdict rule promises, on synthetic runs of many random tables.

Every table is judged by the code that judges the paper's: records go in, verdicts come out. Differences between methods
are drawn with a noise of their own for every method and a part that all methods of a seed share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import pytest

from reproduce.declare import plan
from reproduce.show.rows import Row
from reproduce.verdicts.claims import Case
from reproduce.verdicts.judge import Judged, judge
from reproduce.verdicts.statistics import Direction, Scope, Verdict
from tests.reproduce.helpers import METRICS

TABLES = 600
PROFILE = plan.profile("paper")
METRIC_NAMES = ("test_error", "accuracy")


@dataclass
class Synthetic:
    """A random table: values [methods, seeds] in percent of one metric, and claims on pairs of its methods."""

    metric: str
    values: np.ndarray
    paper: np.ndarray
    claims: list[plan.Claim]

    def rows(self) -> dict[str, Row]:
        """The rows that records with these values would give; the paper's values stand beside them."""
        found = {}
        for i, (values, paper) in enumerate(zip(self.values, self.paper)):
            key = f"m{i}"
            records: dict[int, dict[str, Any]] = {
                seed: {
                    "status": "finished",
                    "result": {self.metric: float(value)},
                    "observations": {},
                    "config": {"model": {"name": "cnn9"}, "recipe": {}, "dataset": {"name": "cifar10"}},
                }
                for seed, value in enumerate(values)
            }
            task = "few-shot" if self.metric == "accuracy" else "classification"
            method = plan.Method(key, key, "cnn9", paper={"cifar10": float(paper)}, task=task)
            found[key] = Row(1, "cifar10", "data", method, records, Verdict(Direction.REFERENCE))
        return found

    def judged(self, rows: Mapping[str, Row] | None = None) -> tuple[Judged, ...]:
        rows = rows or self.rows()
        return judge([Case(c, PROFILE, Scope(), rows[c.better], rows[c.worse]) for c in self.claims])

    def permuted(self, order: Sequence[int]) -> Synthetic:
        return replace(self, values=self.values[:, list(order)])

    def swapped(self) -> Synthetic:
        """The same table with every method's claim turned round, and the paper's values with it."""
        claims = [replace(claim, better=claim.worse, worse=claim.better) for claim in self.claims]
        return replace(self, claims=claims)


def claim(kind: str, better: int, worse: int, metric: str) -> plan.Claim:
    return plan.Claim("words", kind, f"m{better}", f"m{worse}", "source", METRICS[metric], margin=0.25)


def random_table(rng: np.random.Generator, *, effect: float, noise: float, paper: float = 0.5) -> Synthetic:
    """Methods whose true errors fall (accuracies rise) by ``effect`` points from each to the next.

    The claims: each method beats some earlier ones (the paper's difference is ``paper`` points a step) and, of about a
    third of the pairs, that they are similar.
    """
    metric = METRIC_NAMES[rng.integers(2)]
    methods, seeds = int(rng.integers(2, 8)), int(rng.integers(3, 8))
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    steps = np.arange(methods)[:, None]
    own = noise * rng.uniform(0.3, 3.0, (methods, 1)) * rng.standard_normal((methods, seeds))
    shared = rng.uniform(0, 5) * noise * rng.standard_normal(seeds)
    values = 50 + sign * effect * steps + own + shared
    claims = []
    for better in range(1, methods):
        for worse in range(better):
            if worse == better - 1 or rng.random() < 0.5:
                claims.append(claim("better", better, worse, metric))
            if rng.random() < 0.3:
                claims.append(claim("similar", better, worse, metric))
    rng.shuffle(claims)  # type: ignore[arg-type]
    return Synthetic(metric, values, 50 + sign * paper * np.arange(methods), claims)


def directions(table: Synthetic, kind: str = "better") -> list[Direction]:
    return [item.verdict.direction for item in table.judged() if item.claim.kind == kind]


@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_without_any_effect_at_most_one_table_in_twenty_shows_one(noise: float) -> None:
    rng = np.random.default_rng(1)
    found = [directions(random_table(rng, effect=0.0, noise=noise)) for _ in range(2 * TABLES)]
    agreeing = np.mean([Direction.AGREES in table for table in found])
    deciding = np.mean([bool({Direction.AGREES, Direction.DISAGREES} & set(table)) for table in found])
    # Agreeing is half of differing; two standard errors of a rate of 5 % over 1200 tables are 1.3 %.
    assert agreeing <= 0.05
    assert deciding <= 0.05 + 0.013


def test_without_holm_the_promise_would_be_broken() -> None:
    """The test above has teeth: at plain 95 % intervals far more tables show an effect."""
    rng = np.random.default_rng(1)
    tables = [random_table(rng, effect=0.0, noise=0.5) for _ in range(TABLES)]
    plain = [
        any(
            item.verdict.direction == Direction.AGREES
            for single in table.claims
            if single.kind == "better"
            for item in replace(table, claims=[single]).judged()
        )
        for table in tables
    ]
    assert np.mean(plain) > 0.07


def test_a_null_effect_with_small_noise_is_no_effect_of_the_papers_size() -> None:
    rng = np.random.default_rng(2)
    found = [d for _ in range(TABLES) for d in directions(random_table(rng, effect=0.0, noise=0.005))]
    assert found.count(Direction.NO_EFFECT) >= 0.98 * len(found)
    assert Direction.UNDECIDED not in found


def test_a_true_effect_of_the_papers_size_with_small_noise_agrees() -> None:
    rng = np.random.default_rng(3)
    found = [d for _ in range(TABLES) for d in directions(random_table(rng, effect=0.5, noise=0.005))]
    assert set(found) == {Direction.AGREES}


def test_an_opposite_effect_with_small_noise_disagrees() -> None:
    rng = np.random.default_rng(4)
    found = [d for _ in range(TABLES) for d in directions(random_table(rng, effect=-0.5, noise=0.005))]
    assert set(found) == {Direction.DISAGREES}


def test_equal_methods_with_small_noise_are_similar_and_different_ones_are_not() -> None:
    rng = np.random.default_rng(5)
    equal = [d for _ in range(TABLES) for d in directions(random_table(rng, effect=0.0, noise=0.005), "similar")]
    assert equal.count(Direction.AGREES) >= 0.98 * len(equal)
    apart = [d for _ in range(TABLES) for d in directions(random_table(rng, effect=0.5, noise=0.005), "similar")]
    assert set(apart) == {Direction.DISAGREES}


def random_tables(seed: int) -> list[Synthetic]:
    rng = np.random.default_rng(seed)
    return [random_table(rng, effect=rng.normal(0, 0.3), noise=rng.uniform(0.01, 0.5)) for _ in range(TABLES)]


def test_a_pair_that_is_better_and_similar_at_once_says_that_there_is_a_difference() -> None:
    rng = np.random.default_rng(6)
    contested = 0
    for _ in range(TABLES):
        better, similar, differing = set(), set(), set()
        for item in random_table(rng, effect=rng.normal(0, 0.1), noise=rng.uniform(0.005, 0.1)).judged():
            agreeing = better if item.claim.kind == "better" else similar
            pair = frozenset((item.better.key, item.worse.key))
            if item.verdict.direction == Direction.AGREES:
                agreeing.add(pair)
            if item.verdict.reason == "a difference, within the margin of 0.25 points":
                differing.add(pair)
        assert better & similar <= differing <= similar
        contested += len(differing)
    assert contested > 100


def test_turning_a_claim_round_turns_its_verdict_round() -> None:
    mirror = {Direction.AGREES: Direction.DISAGREES, Direction.DISAGREES: Direction.AGREES}
    seen = set()
    for table in random_tables(7):
        for one, other in zip(table.judged(), table.swapped().judged(), strict=True):
            first, second = one.verdict, other.verdict
            assert first.interval is not None
            assert second.interval is not None
            assert (second.interval.low, second.interval.high) == (-first.interval.high, -first.interval.low)  # type: ignore[operator]
            assert first.interval.level == second.interval.level
            seen.add(first.direction)
            if one.claim.kind == "similar":
                assert first.direction == second.direction
            elif first.direction in mirror:
                assert second.direction == mirror[first.direction]
            else:
                assert second.direction not in mirror
    assert {Direction.AGREES, Direction.DISAGREES, Direction.NO_EFFECT, Direction.UNDECIDED} <= seen


def test_errors_and_accuracies_are_judged_alike() -> None:
    """Pair by pair, since methods of few-shot learning, whose metric the accuracy is, share no spread."""
    for table in random_tables(8):
        if table.metric != "test_error":
            continue
        for single in table.claims[:3]:
            error = replace(table, claims=[single])
            claims = [replace(single, metric=METRICS["accuracy"])]
            accuracy = Synthetic("accuracy", 100 - table.values, 100 - table.paper, claims)
            assert directions(error) == directions(accuracy)


def test_the_order_of_seeds_does_not_matter() -> None:
    rng = np.random.default_rng(9)
    for table in random_tables(9):
        shuffled = table.permuted(rng.permutation(table.values.shape[1]))
        for one, other in zip(table.judged(), shuffled.judged(), strict=True):
            first, second = one.verdict.interval, other.verdict.interval
            assert one.verdict.direction == other.verdict.direction
            assert first is not None
            assert second is not None
            assert astuple(first) == pytest.approx(astuple(second), rel=1e-9, abs=1e-9)


def test_the_printed_interval_is_the_one_that_decided() -> None:
    for table in random_tables(10):
        for item in table.judged():
            interval, direction = item.verdict.interval, item.verdict.direction
            assert interval is not None
            assert interval.low is not None
            assert interval.high is not None
            if item.claim.kind == "better":
                assert (direction == Direction.AGREES) == (interval.low > 0)
                assert (direction == Direction.DISAGREES) == (interval.high < 0)
            elif direction == Direction.AGREES:
                assert -0.25 < interval.low <= interval.high < 0.25
