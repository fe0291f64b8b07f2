"""The way from declared experiments to records with real trainings, small ones."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path

import pytest

from reproduce import tasks
from reproduce.declare import plan
from reproduce.declare.runs import Run
from reproduce.run.files import canonical_json
from reproduce.run.store import Store, differences
from reproduce.run.worker import DEFAULT_BACKEND
from tests.reproduce.helpers import arguments, call, start, write_profile
from tests.reproduce.test_execution import wait_for

METHODS = ("cnn", "dynamic")
ROWS = ("--tables", "1", "--methods", ",".join(METHODS))
EAGER = "reproduce.torture.victims:EagerBackend"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the uninterrupted runs of two rows of Table 1."""
    folder = tmp_path_factory.mktemp("whole")
    write_profile(folder, seeds=1, iterations=30)
    done = call(arguments("run", folder, *ROWS, backend=EAGER), folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_records_of_trainings_hold_what_tables_and_notebooks_read(whole: Path) -> None:
    records = list(Store(whole / "results", "tiny").records())
    assert len(records) == len(METHODS)
    for record in records:
        assert record["status"] == "finished"
        assert 0 <= record["result"]["test_error"] <= 100
        assert [point["images"] for point in record["result"]["curve"]] == [120, 240]
        assert record["parameters"] > 1000
        dynamic = record["config"]["model"]["name"] != "cnn9"
        assert ("dynamic" in record["observations"]) == dynamic
        assert {"python", "torch", "cpu", "cores", "threads"} <= record["attempts"][-1].keys()


def test_a_training_killed_in_the_middle_gives_the_same_record(whole: Path, tmp_path: Path) -> None:
    write_profile(tmp_path, seeds=1, iterations=30)
    command = arguments("run", tmp_path, *ROWS, backend=EAGER)
    store = Store(tmp_path / "results", "tiny")
    process = start(command, tmp_path)
    wait_for(lambda: any(store.runs.glob("*.json")) and any(store.checkpoints.glob("*.pt")))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(store.running(path.stem) for path in store.locks.glob("*.lock")))
    assert len(list(store.runs.glob("*.json"))) < len(METHODS)
    done = call(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert differences(store, Store(whole / "results", "tiny")) == []


def test_a_command_that_is_told_to_end_saves_what_it_trains_and_goes_on_to_the_same_records(tmp_path: Path) -> None:
    """A machine that is taken back sends SIGTERM; no checkpoint is due by time here."""
    stores = []
    for name in ("whole", "told"):
        folder = tmp_path / name
        folder.mkdir()
        write_profile(folder, seeds=1, iterations=150)
        command = arguments("run", folder, "--tables", "connected", backend=DEFAULT_BACKEND)
        stores.append(Store(folder / "results", "tiny"))
        if name == "told":
            process = start(command, folder, NSL_COMPILE="0")
            store = stores[1]

            def midway(store: Store = store) -> bool:
                begun = {path.name.partition(".")[0] for path in store.checkpoints.glob("*.attempts.json")}
                done = {path.stem for path in store.runs.glob("*.json")}
                return bool(done and begun - done)

            wait_for(midway)
            process.terminate()
            output, errors = process.communicate()
            assert process.returncode == 128 + signal.SIGTERM, output + errors
            assert errors == "Told to end; the same command goes on from here.\n"
            assert any(stores[1].checkpoints.glob("*.pt"))
        done = call(command, folder, NSL_COMPILE="0")
        assert done.returncode == 0, done.stderr
    assert differences(*stores) == []
    assert any(record["attempts"][0].get("interrupted") for record in stores[1].records())


def test_a_corrupt_checkpoint_is_one_clear_line(whole: Path, tmp_path: Path) -> None:
    write_profile(tmp_path, seeds=1, iterations=30)
    store = Store(tmp_path / "results", "tiny")
    store.checkpoints.mkdir(parents=True)
    for record in Store(whole / "results", "tiny").records():
        store.checkpoint(record["id"]).write_bytes(b"not a checkpoint")
    done = call(arguments("run", tmp_path, *ROWS, backend=EAGER), tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert f"checkpoint {store.checkpoints}" in done.stderr
    assert "delete it to start this run again" in done.stderr


def test_a_task_without_a_file_is_named() -> None:
    with pytest.raises(ValueError, match=r"'a-toy' has no file in reproduce/tasks"):
        tasks.named("a-toy")


@cache
def distinct_runs() -> dict[str, Run]:
    """A run of every declared network and task, in the small profile."""
    every = plan.planned_runs(plan.profile("demo"), plan.every(), 1)
    return {f"{run.task} {canonical_json(run.model)}": run for run in every}


@pytest.mark.parametrize("key", distinct_runs())
def test_every_declared_network_is_kept_in_a_file_that_says_what_it_is(key: str, tmp_path: Path) -> None:
    """The file is written before the record: one that could not be written would lose the run."""
    run = distinct_runs()[key]
    task = tasks.named(run.task)
    outcome = task.train(task.shortened(run, 2), task.load(run.dataset, None), tmp_path / "run.pt", 5.0, False)
    if outcome.keep is None:
        assert outcome.result.get("diverged") or run.task in ("metric", "segmentation", "sequences")
    else:
        outcome.keep(tmp_path / "network.safetensors", {})
        assert (tmp_path / "network.safetensors").stat().st_size > 0
