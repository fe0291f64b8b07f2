"""Recipes are chosen on held-out images by stored trials, and the summary says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reproduce.declare import plan
from reproduce.declare.plan import Profile
from reproduce.run import fingerprints, selection
from reproduce.run.store import Store
from reproduce.show import tables
from tests.reproduce.helpers import MARK, arguments, call, put_record, write_profile

_SELECT = """
[tiny.select.cifar10]
table = 1
methods = ["cnn", "dynamic"]
validation = 20
seeds = 2
trial = { iterations = 3 }
candidates = [{ learning_rate = 0.01 }, { learning_rate = 0.001 }, { learning_rate = 0.1 }]
"""


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    path = write_profile(tmp_path)
    path.write_text(path.read_text() + _SELECT)
    return plan.profile("tiny", path)


def store_trials(store: Store, choice: selection.Choice, errors: list[float]) -> None:
    store.folder.mkdir(parents=True)
    for candidate, error in zip(choice.candidates, errors):
        for runs in candidate.trials.values():
            for run in runs:
                put_record(store, run, error)
    marks = {fingerprints.dataset_key(run.dataset): MARK for run in choice.runs}
    (store.folder / "data.json").write_text(json.dumps(marks))


def test_trials_are_of_held_out_images_and_never_of_the_test_set(profile: Profile) -> None:
    (choice,) = selection.choices(profile, 1)
    assert len(choice.runs) == 3 * 2 * 2
    assert {run.dataset["validation"] for run in choice.runs} == {20}
    assert {run.recipe["iterations"] for run in choice.runs} == {3}
    table = plan.planned_runs(profile, (1,), 2)
    assert not {repr(run.declared("")) for run in table} & {repr(run.declared("")) for run in choice.runs}


def test_the_lowest_mean_error_is_chosen_and_compared_with_what_is_declared(tmp_path: Path, profile: Profile) -> None:
    (choice,) = selection.choices(profile, 1)
    store = Store(tmp_path / "results", "tiny")
    store_trials(store, choice, [5.0, 4.0, 6.0])
    rows = selection.rows(profile, store, 1)
    assert [row["chosen"] for row in rows] == ["", "yes", ""]
    assert [row["declared"] for row in rows] == ["", "yes", ""]
    assert rows[0]["errors"] == "cnn 5.00 5.00; dynamic 5.00 5.00"
    assert rows[0]["chosen_on"] == "20 training images held out"


def test_the_mean_over_methods_and_seeds_decides(tmp_path: Path, profile: Profile) -> None:
    """Nine in the worst trial and five in the mean are better than six and six."""
    (choice,) = selection.choices(profile, 1)
    store = Store(tmp_path / "results", "tiny")
    store_trials(store, choice, [6.0, 7.0, 6.0])
    for runs in choice.candidates[1].trials.values():
        assert [run.seed for run in runs] == [0, 1]
        for run, error in zip(runs, (1.0, 9.0)):
            put_record(store, run, error)
    found = selection.tried(choice, store)
    assert [item.mean for item in found] == [6.0, 5.0, 6.0]
    assert selection.best(found) is found[1]


def test_nothing_is_chosen_before_all_candidates_are_tried(tmp_path: Path, profile: Profile) -> None:
    (choice,) = selection.choices(profile, 1)
    store = Store(tmp_path / "results", "tiny")
    store_trials(store, choice, [5.0, 4.0])
    assert [row["chosen"] for row in selection.rows(profile, store, 1)] == ["", "", ""]


def test_a_meta_training_whose_best_state_is_its_start_is_no_choice(tmp_path: Path) -> None:
    profile, store = plan.profile("cpu"), Store(tmp_path, "cpu")
    choice = next(each for each in selection.choices(profile, 6) if each.runs[0].model["name"] == "meta_static_nsn")
    store_trials(store, choice, [30.0, 31.0, 32.0, 33.0, 34.0, 35.0])
    for record, states in zip(list(store.records()), [(60, 59), (60, 60), (60, 61), (60, 61), (60, 61), (60, 61)]):
        result = {"accuracy": 60.0, "selection": [{"iteration": 9 * n, "accuracy": s} for n, s in enumerate(states)]}
        store.write({**record, "result": {**record["result"], **result}})
    idle = [trial.idle for trial in selection.tried(choice, store)]
    assert sorted(idle) == 4 * [""] + 2 * ["the state before the training was the best and is tested"]
    chosen = selection.best(selection.tried(choice, store))
    assert chosen is not None
    assert not chosen.idle


def test_candidates_that_start_from_two_trainings_of_one_backbone_say_so(tmp_path: Path) -> None:
    profile, store = plan.profile("cpu"), Store(tmp_path, "cpu")
    choice = next(each for each in selection.choices(profile, 6) if each.runs[0].model["name"] == "meta_static_nsn")
    store_trials(store, choice, [30.0, 31.0, 32.0, 33.0, 34.0, 35.0])
    assert {trial.start for trial in selection.tried(choice, store)} == {""}

    def begin(curves: list[float]) -> set[str]:
        for record, error in zip(list(store.records()), curves):
            curve = {"pretrain": [{"iteration": 1, "test_error": error}]}
            store.write({**record, "result": {**record["result"], "curves": curve}})
        return {trial.start for trial in selection.tried(choice, store)}

    assert begin([40.0] * 6) == {""}
    assert len(begin([40.0, 40.0, 40.0, 40.0, 40.0, 41.0]) - {""}) == 2


def test_a_diverged_trial_rules_its_candidate_out(tmp_path: Path, profile: Profile) -> None:
    (choice,) = selection.choices(profile, 1)
    store = Store(tmp_path / "results", "tiny")
    store_trials(store, choice, [5.0, 4.0, 6.0])
    # Whatever is kept of its errors.
    put_record(store, choice.candidates[1].trials["dynamic"][1], 0.5, status="diverged")
    found = selection.tried(choice, store)
    assert found[1].mean is None
    chosen = selection.best(found)
    assert chosen is not None
    assert chosen.candidate.values == {"learning_rate": 0.01}


def test_select_executes_the_trials_and_the_summary_names_the_data_that_chose(tmp_path: Path) -> None:
    path = write_profile(tmp_path)
    path.write_text(path.read_text() + _SELECT)
    command = arguments("select", tmp_path)
    done = call([command[0], "tiny", "1", *command[3:]], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "learning_rate 0.001" in done.stdout
    folder = tmp_path / "results/tiny"
    assert len(list((folder / "runs").glob("*.json"))) == 12
    assert (folder / "tables/table1_selection.csv").read_text().count("\n") == 4
    assert call(arguments("run", tmp_path, "--tables", "1"), tmp_path).returncode == 0
    assert call(arguments("tables", tmp_path, "--tables", "1"), tmp_path).returncode == 0
    assert "Chosen on 20 training images held out" in (folder / "summary.md").read_text()
    none = call([command[0], "tiny", "2", *command[3:]], tmp_path)
    assert none.returncode == 2
    assert none.stderr.count("\n") == 1


def test_a_grid_is_all_combinations() -> None:
    points = selection._points({"grid": {"a": [1, 2], "b": [3, 4]}})
    assert points == [{"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}]


def test_a_table_without_trials_of_its_own_names_those_that_choose_its_recipe(tmp_path: Path) -> None:
    text = tables.summary(plan.profile("cpu"), Store(tmp_path, "cpu"))
    fourth = text.split("## Table 4")[1].split("## Table 5")[0]
    assert "For the recipe of CIFAR-10, see the trials under Table 1." in fourth
    assert "For the recipe of CIFAR-100, see the trials under Table 1 (on CIFAR-10, whose recipe it is too)." in fourth
    assert "see the trials" not in text.split("## Table 1")[1].split("## Table 2")[0]
    assert "Nothing of this recipe was chosen" not in text


def test_a_shape_that_keeps_all_taps_is_no_choice(tmp_path: Path) -> None:
    profile = plan.profile("cpu")
    (choice,) = selection.choices(profile, 2)
    store = Store(tmp_path, "cpu")
    store_trials(store, choice, [5.0, 4.0, 6.0])
    for run in choice.candidates[1].trials["static_joint"]:
        put_record(store, run, 4.0, observations={"static": [{"layer": "a", "shape": [1.0] * 9}]})
    assert [row["chosen"] for row in selection.rows(profile, store, 2)] == ["yes", "", ""]
    for run in choice.candidates[1].trials["static_joint"]:
        put_record(store, run, 4.0, observations={"static": [{"layer": "a", "shape": [1.0] * 8 + [0.0]}]})
    assert [row["chosen"] for row in selection.rows(profile, store, 2)] == ["", "yes", ""]
