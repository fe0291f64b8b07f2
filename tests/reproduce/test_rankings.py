"""Ranks are what paired differences leave to each method, with Holm over all pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reproduce.declare import plan
from reproduce.run.store import Store
from reproduce.show import rankings
from reproduce.show.rows import make_table
from reproduce.show.tables import write_tables
from tests.reproduce.helpers import METRICS, fill
from tests.reproduce.test_fewshot_table import put


def store_with(folder: Path, strengths: dict[str, int], episodes: int = 40) -> Store:
    """Records of the few-shot table whose right answers of 75 vary around these numbers, with the episode in common."""
    store, rng = Store(folder, "cpu"), np.random.default_rng(0)
    common = rng.integers(-6, 7, episodes)
    for key, strength in strengths.items():
        right = strength + common + rng.integers(-1, 2, episodes)
        put(store, plan.profile("cpu"), key, [int(value) for value in right])
    return store


def ranked(store: Store) -> list[rankings.Ranked]:
    return rankings.rankings(make_table(6, plan.profile("cpu"), store))[0]


def test_methods_apart_have_one_rank_and_equal_ones_share_a_range(tmp_path: Path) -> None:
    keys = [method.key for method in plan.experiment(6).methods][:5]
    store = store_with(tmp_path, dict(zip(keys, (60, 55, 55, 55, 40))))
    found = ranked(store)
    assert [item.row.method.key for item in found][0] == keys[0]
    assert [(item.best, item.worst) for item in found] == [(1, 1), (2, 4), (2, 4), (2, 4), (5, 5)]
    assert [len(item.better_than) for item in found] == [4, 1, 1, 1, 0]
    assert {item.unit for item in found} == {"episode"}


def test_a_ranking_of_chance_alone_leaves_every_rank_to_every_method(tmp_path: Path) -> None:
    keys = [method.key for method in plan.experiment(6).methods][:6]
    found = ranked(store_with(tmp_path, dict.fromkeys(keys, 50)))
    assert {(item.best, item.worst) for item in found} == {(1, 6)}


def test_too_few_methods_or_runs_have_no_ranking(tmp_path: Path) -> None:
    keys = [method.key for method in plan.experiment(6).methods][:4]
    store = store_with(tmp_path, dict.fromkeys(keys, 50))
    table = make_table(6, plan.profile("cpu"), store)
    assert rankings.rankings(table) == []
    assert rankings.markdown(table) == ""
    one = [row for row in table.rows if row.records][:1]
    assert [item.worst for item in rankings.rank(one, METRICS["accuracy"])] == [1]


def test_the_ranking_is_written_beside_the_table_and_says_of_which_trainings(tmp_path: Path) -> None:
    keys = [method.key for method in plan.experiment(6).methods][:5]
    store = store_with(tmp_path, dict(zip(keys, (60, 55, 50, 45, 40))))
    table = write_tables((6,), plan.profile("cpu"), store)[0]
    lines = (store.folder / "tables" / "table6_ranking.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == ",".join(rankings.COLUMNS)
    assert len(lines) == 6
    assert "of these trainings, paired over episodes" in rankings.markdown(table)


def test_over_seeds_methods_share_their_spread(tmp_path: Path) -> None:
    """By the spread of single pairs' three gains Holm's procedure over ten pairs would part no two methods."""
    store, profile, rng = Store(tmp_path, "paper"), plan.profile("paper"), np.random.default_rng(1)
    means = {"cnn": 9.0, "cnnpp": 8.0, "static": 7.0, "static_uns": 7.0, "dynamic": 6.0}
    fill(store, profile, 4, {key: list(mean + 0.1 * rng.standard_normal(3)) for key, mean in means.items()})
    table = make_table(4, profile, store)
    found = rankings.rank([row for row in table.rows if row.slot == "cifar10" and row.records], table.metric)
    places = {item.row.method.key: (item.best, item.worst) for item in found}
    assert places == {"dynamic": (1, 1), "static": (2, 3), "static_uns": (2, 3), "cnnpp": (4, 4), "cnn": (5, 5)}
    assert {item.unit for item in found} == {"seed"}
