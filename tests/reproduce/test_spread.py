"""Methods of a table tell one spread together: that of a two-way analysis of variance, and what it promises."""

from __future__ import annotations

from statistics import stdev

import numpy as np
import pytest

from reproduce.show.metrics import Replicates
from reproduce.show.spread import Pool, pool
from reproduce.show.statistics import EPISODE, SEED, Direction
from tests.reproduce.test_verdict_properties import Synthetic, claim

TABLES = 300
#: Table 4's comparisons of one data set: CNN, CNN++, static DNS and UNS, dynamic DNS and UNS.
PAIRS = ((2, 0), (3, 0), (4, 0), (5, 0), (4, 1), (5, 1), (4, 2), (5, 3), (3, 2), (5, 4), (1, 0))


def named(values: np.ndarray) -> dict[str, dict[int, float]]:
    return {f"m{i}": {seed: float(value) for seed, value in enumerate(row)} for i, row in enumerate(values)}


def test_of_runs_with_the_same_seeds_it_is_the_residual_of_a_randomised_block_design() -> None:
    values = np.random.default_rng(0).normal(12, 0.3, (5, 4))
    residuals = values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()
    found = pool(named(values))
    assert found is not None
    assert found.freedom == 4 * 3
    assert found.residual == pytest.approx(np.sqrt((residuals**2).sum() / 12))
    for i in range(5):
        assert found.own[f"m{i}"] == pytest.approx(np.sqrt((residuals[i] ** 2).sum() / (12 / 5)))


def test_of_two_methods_it_is_the_spread_of_their_gains() -> None:
    values = np.random.default_rng(1).normal(12, [[0.1], [1.0]], (2, 5)) + np.arange(5)
    found = pool(named(values))
    assert found is not None
    assert found.freedom == 4
    assert found.gain("m0", "m1") == pytest.approx(stdev(values[0] - values[1]))


def test_methods_with_other_seeds_tell_it_too_by_least_squares() -> None:
    values = {"a": {0: 1.0, 1: 2.0, 2: 4.0}, "b": {1: 2.5, 2: 3.0}, "c": {0: 0.0, 2: 5.0, 7: 1.0}, "d": {3: 9.0}}
    cells = [(method, seed) for method in values for seed in values[method]]
    methods, seeds = sorted(values), sorted({seed for _, seed in cells})
    design = np.array([[m == a for a in methods] + [s == b for b in seeds] for m, s in cells], float)
    measured = np.array([values[m][s] for m, s in cells])
    fitted = design @ np.linalg.lstsq(design, measured, rcond=None)[0]
    found = pool(values)
    assert found is not None
    assert found.freedom == len(cells) - np.linalg.matrix_rank(design) == 2
    assert found.residual == pytest.approx(np.sqrt(((measured - fitted) ** 2).sum() / 2))
    assert found.own["d"] == 0.0  # a single run tells no spread


def test_where_no_seed_has_two_methods_there_is_none() -> None:
    assert pool({}) is None
    assert pool({"a": {0: 1.0, 1: 2.0}}) is None
    assert pool({"a": {0: 1.0, 1: 2.0}, "b": {2: 1.0}}) is None


def test_a_method_that_scatters_more_is_not_judged_by_the_calm_of_others() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, (6, 5))
    values[5] *= 10
    found = pool(named(values))
    assert found is not None
    assert found.gain("m5", "m0") == np.hypot(found.own["m5"], found.own["m0"]) > np.sqrt(2) * found.residual


def test_gains_over_episodes_keep_their_own_spread() -> None:
    shared = Pool(1.0, {"a": 1.0, "b": 1.0}, 8)
    episodes = Replicates((0.1, 0.2, 0.3, 0.2), EPISODE, {0: 0.2})
    assert episodes.among(shared, "a", "b") == episodes
    seeds = Replicates((0.1, 0.2, 0.3), SEED, {0: 0.1, 1: 0.2, 2: 0.3})
    assert seeds.among(None, "a", "b") == seeds
    together = seeds.among(shared, "a", "b")
    assert (together.spread, together.freedom) == (pytest.approx(np.sqrt(2)), 8)
    assert seeds.p < 0.1 < together.p


def simulated(rng: np.random.Generator, spreads: np.ndarray, seeds: int, effect: float = 0.0) -> Synthetic:
    """Runs as of Table 4; the dynamic networks are better by ``effect``."""
    values = 50 + rng.standard_normal((6, seeds)) * spreads[:, None] + 0.5 * rng.standard_normal(seeds)
    values[4:] -= effect
    claims = [claim("better", better, worse, "test_error") for better, worse in PAIRS]
    return Synthetic("test_error", values, np.full(6, 50.0), claims)


@pytest.mark.parametrize("spreads", [(1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 3), (3, 1, 1, 1, 1, 1), (1, 1, 1, 1, 2, 2)])
def test_a_table_without_any_difference_seldom_shows_one_though_spreads_differ(spreads: tuple[float, ...]) -> None:
    rng = np.random.default_rng(3)
    deciding = {Direction.AGREES, Direction.DISAGREES}
    shown = 0
    for _ in range(TABLES):
        judged = simulated(rng, np.array(spreads, float), 3).judged()
        shown += any(item.verdict.direction in deciding for item in judged)
    assert shown / TABLES <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / TABLES)


def test_three_seeds_find_a_difference_of_four_spreads_about_every_second_time() -> None:
    rng = np.random.default_rng(4)
    found = alone = 0
    for _ in range(TABLES):
        dynamic = simulated(rng, np.ones(6), 3, effect=4.0).judged()[2]
        assert dynamic.verdict.interval is not None
        found += dynamic.verdict.direction == Direction.AGREES
        alone += dynamic.verdict.direction == Direction.AGREES and not dynamic.verdict.alone
    assert found / TABLES > 0.45
    assert alone / TABLES < 0.15


def test_a_verdict_names_what_the_spread_of_its_own_gains_would_say() -> None:
    rng = np.random.default_rng(5)
    named_so = {judged.verdict.alone for judged in simulated(rng, np.full(6, 0.1), 3, effect=0.6).judged()}
    assert "undecided by the spread of its own gains alone" in named_so
    assert "" in named_so


def test_a_method_of_which_a_run_diverged_does_not_tell_the_spread() -> None:
    rng = np.random.default_rng(6)
    table = simulated(rng, np.array([1, 1, 1, 1, 1, 50.0]), 3)
    rows = table.rows()
    rows["m5"].records[1] = {**rows["m5"].records[1], "status": "diverged"}
    judged = table.judged(rows)
    assert judged[3].verdict.reason == "a run diverged"
    assert judged[2].gains is not None
    assert judged[2].gains.freedom == 4 * 2
    assert judged[2].gains.spread < 5
