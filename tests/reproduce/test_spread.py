"""Methods of a table tell one spread together: that of a two-way analysis of variance, and what it promises."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from statistics import stdev

import numpy as np
import pytest

from reproduce.declare import plan
from reproduce.run.store import Store
from reproduce.show.closure import ROOT
from reproduce.show.rows import make_tables, related
from reproduce.verdicts.claims import Case
from reproduce.verdicts.judge import compared, judge
from reproduce.verdicts.metrics import Replicates
from reproduce.verdicts.spread import Pool, pool
from reproduce.verdicts.statistics import EPISODE, SEED, Direction, Scope, Verdict, combine, holm_levels
from tests.reproduce.test_verdict_properties import PROFILE, Synthetic, claim

TABLES = 1200
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
    assert "d" not in found.own  # a single run tells no spread


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


def test_two_thirds_of_the_degrees_of_freedom_are_trusted_and_those_of_the_pair_always() -> None:
    even, two = (pool(named(np.random.default_rng(0).normal(size=(methods, 3)))) for methods in (6, 2))
    assert even is not None
    assert two is not None
    assert even.trusted(3) == pytest.approx(2 / 3 * 10)
    assert two.trusted(3) == 2
    assert Pool(1.0, dict.fromkeys("abcd", 1.0), 100).trusted(3) == pytest.approx(2 / 3 * 3 * 2)


def test_gains_over_episodes_keep_their_own_spread() -> None:
    shared = Pool(1.0, dict.fromkeys("abcde", 1.0), 8)
    episodes = Replicates((0.1, 0.2, 0.3, 0.2), EPISODE, {0: 0.2})
    assert episodes.among(shared, "a", "b") == episodes
    seeds = Replicates((0.1, 0.2, 0.3), SEED, {0: 0.1, 1: 0.2, 2: 0.3})
    assert seeds.among(None, "a", "b") == seeds
    together = seeds.among(shared, "a", "b")
    assert (together.spread, together.freedom) == (pytest.approx(np.sqrt(2)), pytest.approx(2 / 3 * 8))
    assert seeds.p < 0.1 < together.p


def differs(values: np.ndarray, *more: np.ndarray, shared: bool = True) -> list[bool]:
    """In which of Table 4's pairs Holm's procedure finds a difference, of runs [methods, seeds] on each data set."""
    p_values: dict[Hashable, float] = {}
    for place, block in enumerate((values, *more)):
        runs = {name: {s: v for s, v in by_seed.items() if v == v} for name, by_seed in named(block).items()}
        told = pool(runs) if shared else None
        for better, worse in PAIRS:
            first, second = runs[f"m{better}"], runs[f"m{worse}"]
            gains = {seed: second[seed] - first[seed] for seed in first if seed in second}
            found = Replicates(tuple(gains.values()), SEED, gains).among(told, f"m{better}", f"m{worse}")
            p_values[place, better, worse] = found.p
    levels = holm_levels(p_values)
    return [p_values[pair] <= 1 - levels[pair] for pair in p_values]


def runs(rng: np.random.Generator, spreads: Sequence[float], seeds: int = 3) -> np.ndarray:
    """Values of six methods without any difference."""
    own = rng.standard_normal((6, seeds)) * np.array(spreads)[:, None]
    return 50 + own + 0.5 * rng.standard_normal(seeds)


@pytest.mark.parametrize(
    ("spreads", "chance"),
    [((1, 1, 1, 1, 1, 1), 0.01), ((2, 1, 1, 1, 1, 1), 0.02), ((3, 1, 1, 1, 1, 1), 0.04), ((1, 1, 1, 1, 5, 1), 0.07)],
)
def test_without_any_difference_a_table_seldom_shows_one_though_methods_scatter_otherwise(
    spreads: tuple[float, ...], chance: float
) -> None:
    rng = np.random.default_rng(3)
    shown = np.mean([any(differs(runs(rng, spreads), runs(rng, spreads))) for _ in range(TABLES)])
    assert shown <= chance + 2.5 * np.sqrt(chance * (1 - chance) / TABLES)


def test_many_seeds_of_calm_methods_do_not_make_a_pair_too_sure() -> None:
    rng = np.random.default_rng(4)
    shown = []
    for _ in range(TABLES // 2):
        values = runs(rng, (1, 1, 1, 1, 1, 3), 10)
        values[5, 3:] = np.nan
        shown.append(any(differs(values)))
    assert np.mean(shown) <= 0.05


def test_three_seeds_find_what_the_spread_of_their_own_gains_alone_does_not() -> None:
    rng = np.random.default_rng(5)
    found, alone = [], []
    for _ in range(TABLES // 2):
        values, others = runs(rng, [1] * 6), runs(rng, [1] * 6)
        values[4] -= 4
        found.append(differs(values, others)[2])
        alone.append(differs(values, others, shared=False)[2])
    assert np.mean(found) == pytest.approx(0.44, abs=0.05)
    assert np.mean(alone) == pytest.approx(0.06, abs=0.03)


def simulated(rng: np.random.Generator, spreads: np.ndarray, seeds: int, effect: float = 0.0) -> Synthetic:
    """Runs as of Table 4; the dynamic networks are better by ``effect``."""
    values = runs(rng, list(spreads), seeds)
    values[4:] -= effect
    claims = [claim("better", better, worse, "test_error") for better, worse in PAIRS]
    return Synthetic("test_error", values, np.full(6, 50.0), claims)


def test_a_verdict_names_what_the_spread_of_its_own_gains_would_say() -> None:
    rng = np.random.default_rng(5)
    named_so = {judged.verdict.alone for judged in simulated(rng, np.full(6, 0.1), 3, effect=0.6).judged()}
    assert "by the spread of its own gains alone: undecided" in named_so
    assert "" in named_so


def test_a_method_of_which_a_run_diverged_does_not_tell_the_spread() -> None:
    rng = np.random.default_rng(6)
    table = simulated(rng, np.array([1, 1, 1, 1, 1, 50.0]), 3)
    rows = table.rows()
    rows["m5"].records[1] = {**rows["m5"].records[1], "status": "diverged"}
    judged = table.judged(rows)
    assert judged[3].verdict.reason == "a run diverged"
    assert judged[2].gains is not None
    assert judged[2].gains.freedom == pytest.approx(2 / 3 * 4 * 2)
    assert judged[2].gains.spread < 5


def test_metrics_of_few_shot_learning_share_no_spread() -> None:
    rng = np.random.default_rng(7)
    values = runs(rng, [1] * 6)
    claims = [claim("better", better, worse, "accuracy") for better, worse in PAIRS]
    judged = Synthetic("accuracy", values, np.full(6, 50.0), claims).judged()
    assert {item.gains.freedom for item in judged if item.gains is not None} == {None}


def test_a_tables_peers_tell_its_spread_and_have_no_verdict_there() -> None:
    rng = np.random.default_rng(8)
    table = simulated(rng, np.ones(6), 3)
    rows = table.rows()
    few = [Case(c, PROFILE, Scope(), rows[c.better], rows[c.worse]) for c in table.claims[:1]]
    alone, among = judge(few)[0], judge(few, [rows[f"m{i}"] for i in (1, 3, 4, 5)])[0]
    assert alone.gains is not None
    assert among.gains is not None
    assert (alone.gains.freedom, among.gains.freedom) == (2, pytest.approx(2 / 3 * 10))
    assert among.gains.values == alone.gains.values
    elsewhere = [replace(rows[f"m{i}"], slot="other") for i in (1, 3, 4, 5)]
    assert judge(few, elsewhere)[0].gains == alone.gains


def test_a_row_keeps_what_its_deciding_claim_says_of_its_own_spread() -> None:
    said = "by the spread of its own gains alone: undecided"
    decided = Verdict(Direction.NO_EFFECT, alone=said)
    assert combine([decided, Verdict(Direction.AGREES)]).alone == said
    assert said in combine([decided]).short()


def test_the_papers_tables_on_one_data_set_share_its_spread_and_a_run_counts_once() -> None:
    store = Store(ROOT / "results", "cpu")
    profile = plan.profile("cpu")
    assert related(1, profile) == [2, 3, 4, "budget"]
    assert related("budget", profile) == [1, 2, 3, 4]
    assert related(5, profile) == related("dynamic", profile) == []
    # One beyond the paper that has runs of theirs judges these as they do, and tells them nothing.
    tables = make_tables((1, 2, 3, 4, "budget"), profile, store)
    assert {row.table for table in tables[:4] for row in table.peers} <= {1, 2, 3, 4}
    freedoms = set()
    for table in tables:
        keys = compared(table.experiment.claims)
        rows = [row for row in table.rows if row.method.key in keys and row.records]
        told = [row for row in (*rows, *table.peers) if row.slot == "cifar10"]
        paths = [(row.table, row.method.key) for row in told]
        assert len(set(paths)) == len(paths)
        own = {frozenset(r["checksum"] for r in row.records.values()) for row in rows}
        peers = [frozenset(r["checksum"] for r in row.records.values()) for row in table.peers]
        assert len(set(peers)) == len(peers)
        assert not own & set(peers)
        pairs = {(j.slot, j.claim.kind, j.better.key, j.worse.key): j.gains for j in table.claims}
        gains = pairs["cifar10", "better", "dynamic", "cnn"]
        assert gains is not None
        freedoms.add((gains.freedom, round(gains.spread, 9)))
    assert len(freedoms) == 1
