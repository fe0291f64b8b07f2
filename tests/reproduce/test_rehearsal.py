"""A rehearsal goes through the code of the real run at full size and leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reproduce import tasks
from reproduce.declare import plan
from reproduce.declare.shapes import shape
from reproduce.run.rehearsal import STEPS, RehearsalBackend, Rehearsed, rehearse, rehearse_alone, rehearse_run
from reproduce.tasks import CLASSIFICATION
from tests.reproduce.helpers import call, write_profile
from tests.reproduce.test_costs import run_of


def test_a_shortened_run_keeps_batches_and_networks() -> None:
    for number, key in ((4, "dynamic_uns"), (6, "meta_static")):
        run = run_of(number, key, "paper")
        short = tasks.named(run.task).shortened(run, STEPS)
        assert (short.model, short.dataset, short.seed) == (run.model, run.dataset, run.seed)
        for part, settings in run.recipe.items():
            if isinstance(settings, dict):
                changed = {name for name, value in settings.items() if short.recipe[part][name] != value}
                assert changed <= {"iterations", "evaluations", "count", "shot_count", "step_counts", "step_episodes"}


@pytest.mark.parametrize("table", [1, 5, 6])
def test_noise_has_the_shape_of_the_real_set(table: int) -> None:
    run = run_of(table, "cnn" if table != 6 else "proto", "paper")
    run = run if table != 5 else replace(run, recipe={**run.recipe, "batch_size": 4})
    data, sizes = tasks.named(run.task).noise(run, STEPS), shape(run.dataset)
    assert data.image_size == sizes.image_size
    assert (data.base if table == 6 else data).num_classes == sizes.classes
    if table == 5:
        assert data.train_images.shape[-1] == 256


@pytest.mark.parametrize("key", ["cnn", "dynamic"])
def test_a_training_is_resumed_and_measured(tmp_path: Path, key: str) -> None:
    found = rehearse_run(run_of(5, key), None, tmp_path)
    assert found.problem == ""
    assert found.absent == ""
    assert found.step_seconds > 0
    assert found.peak > 2**20
    assert found.input_rate > 0


@pytest.mark.parametrize("key", [method.key for method in plan.experiment(6).methods])
def test_every_few_shot_method_is_rehearsed(tmp_path: Path, key: str) -> None:
    assert rehearse_run(run_of(6, key), None, tmp_path).problem == ""


@pytest.mark.parametrize("key", [method.key for method in plan.experiment(6).methods])
def test_noise_has_the_classes_that_every_few_shot_methods_episodes_take(key: str) -> None:
    run = run_of(6, key, "paper")
    noise, episodes = tasks.named(run.task).noise(run, STEPS), run.recipe["episodes"]
    assert min(part.num_classes for part in (noise.base, noise.validation, noise.novel)) >= episodes["way"]


def test_absent_data_are_replaced_by_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSL_DATA", str(tmp_path))
    backend = RehearsalBackend(run_of(1, "cnn", "cpu"), None)
    assert "cifar10" in backend.absent
    assert backend.found.name == "cifar10 (noise)"


def test_a_run_that_fails_is_a_problem_and_not_the_end() -> None:
    run = run_of(5, "cnn")
    found = rehearse_alone(replace(run, model={"name": "cnn11"}), None)
    assert "cnn11" in found.problem


def test_the_command_stores_nothing(tmp_path: Path) -> None:
    profiles = write_profile(tmp_path, seeds=1)
    common = ["--profile", "tiny", "--profiles", str(profiles)]
    done = call(["rehearse", "--tables", "3", "--methods", "cnn,shared", *common], tmp_path, NSL_COMPILE="0")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 configurations rehearsed" in done.stdout
    assert not (tmp_path / "results").exists()


def test_every_table_is_in_the_rehearsal_of_the_paper_profile() -> None:
    paper = plan.profile("paper")
    runs = plan.planned_runs(paper, plan.tables(), 1)
    assert {run.task for run in runs} == {CLASSIFICATION, "few-shot"}
    assert len(runs) >= 42


def test_why_there_is_noise_is_said_once_of_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that are damaged are not taken for absent ones in silence."""
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"half")
    backend = RehearsalBackend(run_of(1, "cnn", "cpu"), str(tmp_path))
    assert "has only a part of cifar10" in backend.absent
    monkeypatch.setattr(
        "reproduce.run.rehearsal.rehearse_alone", lambda run, data: Rehearsed(run.name, absent=backend.absent)
    )
    said: list[str] = []
    assert rehearse([run_of(1, "cnn", "cpu"), run_of(1, "dynamic", "cpu")], None, said.append) == []
    assert [f"noise ({backend.absent})" in line for line in said] == [True, False, False]
    assert said[1].endswith(", noise")
