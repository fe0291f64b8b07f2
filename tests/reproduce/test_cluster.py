"""Runs submitted as jobs give the records that worker processes give, and survive preemption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce.declare.plan import planned_runs, profile
from reproduce.run.cluster import ClusterExecutor, RunJob, read_parameters
from reproduce.run.store import Store, differences
from tests.reproduce.fake_backend import FakeBackend
from tests.reproduce.helpers import FAKE, TABLE_1_TWICE, arguments, call, start, write_profile
from tests.reproduce.test_execution import wait_for

pytest.importorskip("submitit")


def test_jobs_give_the_records_that_processes_give(tmp_path: Path) -> None:
    stores = []
    for name, more in (("processes", ()), ("submitted", ("--executor", "submitit-local"))):
        folder = tmp_path / name
        folder.mkdir()
        write_profile(folder, jobs=2)
        done = call(arguments("run", folder, "--tables", "1", *more), tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"[{TABLE_1_TWICE}/{TABLE_1_TWICE}]" in done.stdout
        stores.append(Store(folder / "results", "tiny"))
    assert len(list(stores[0].records())) == TABLE_1_TWICE
    assert differences(*stores) == []
    # The runs got as many threads from both.
    assert {record["attempts"][-1]["threads"] for store in stores for record in store.records()} == {1}


def test_a_preempted_job_is_queued_again_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.05")
    monkeypatch.setenv("FAKE_LOG", str(log))
    tiny = profile("tiny", write_profile(tmp_path, iterations=60))
    run = planned_runs(tiny, (1,), 1)[0]
    mark = FakeBackend().fingerprint(run, None)
    store = Store(tmp_path / "results", "tiny")
    executor = ClusterExecutor(store, "submitit-local", 1, 1, FAKE, None)
    job = executor._submit(run, mark)
    wait_for(lambda: any(store.checkpoints.glob("*.pt")))
    # What the scheduler does before it takes the node away: the signal goes to the task.
    children = subprocess.run(["pgrep", "-P", job.job_id], capture_output=True, text=True, check=True).stdout.split()
    for child in children:
        os.kill(int(child), signal.SIGUSR2)
    wait_for(job.done)
    assert executor._answer(job)[0] == "done"
    assert len(log.read_text().splitlines()) == 2  # started twice
    record = next(iter(store.records()))
    whole = Store(tmp_path / "whole", "tiny")
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0")
    RunJob(run, mark, whole, FAKE, None)()
    assert record["result"]["test_error"] == next(iter(whole.records()))["result"]["test_error"]
    assert differences(store, whole) == []


def test_a_failing_and_a_dying_job_are_named_and_the_others_finish(tmp_path: Path) -> None:
    write_profile(tmp_path, jobs=2)
    command = arguments("run", tmp_path, "--tables", "2", "--seeds", "1", "--executor", "submitit-local")
    done = call(command, tmp_path, FAKE_FAILS="nsn9_static_diagonal", FAKE_DIES="cnn9")
    assert done.returncode == 2
    assert "the fake was told to fail." in done.stderr
    assert "ended without an answer" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert len(list(Store(tmp_path / "results", "tiny").records())) > 0


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--executor", "mainframe"), "EXECUTOR='mainframe' is unknown; choose one of: local, slurm, submitit-local."),
        (("--executor", "slurm"), "EXECUTOR=slurm cannot be used"),
        (("--executor", "submitit-local", "--cluster", "nowhere.toml"), "CLUSTER=nowhere.toml does not exist"),
        (("--cluster", "some.toml"), "CLUSTER=some.toml belongs to EXECUTOR=slurm"),
    ],
)
def test_an_executor_that_cannot_be_used_is_one_sentence(tmp_path: Path, more: tuple[str, ...], sentence: str) -> None:
    write_profile(tmp_path)
    done = call(arguments("run", tmp_path, *more), tmp_path, PATH=str(Path(sys.executable).parent))
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_parameter_that_submitit_does_not_know_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text("timeout_mins = 3\n", encoding="utf-8")
    assert read_parameters(path) == {"timeout_mins": 3}
    with pytest.raises(ValueError, match=r"CLUSTER=.*cluster\.toml cannot be used: .*timeout_mins"):
        ClusterExecutor(Store(tmp_path, "tiny"), "submitit-local", 1, 1, FAKE, None, path)
    path.write_text("timeout_min = \n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"cluster\.toml is not valid TOML"):
        read_parameters(path)


def test_a_run_may_time_out_more_than_three_times_and_cluster_says_how_often(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text("slurm_max_num_timeout = 7\n", encoding="utf-8")
    for parameters, wanted in ((None, 1000), (path, 7)):
        made = ClusterExecutor(Store(tmp_path, "tiny"), "submitit-local", 1, 1, FAKE, None, parameters)
        assert made.executor._executor.max_num_timeout == wanted
    path.write_text("slurm_max_num_timeout = 1.5\n", encoding="utf-8")
    with pytest.raises(ValueError, match="slurm_max_num_timeout must be a whole number"):
        ClusterExecutor(Store(tmp_path, "tiny"), "submitit-local", 1, 1, FAKE, None, path)


def test_jobs_are_taken_back_where_the_command_that_submitted_them_is_told_to_end(tmp_path: Path) -> None:
    write_profile(tmp_path, jobs=2, iterations=400)
    store = Store(tmp_path / "results", "tiny")
    command = arguments("run", tmp_path, "--tables", "1", "--executor", "submitit-local")
    process = start(command, tmp_path, FAKE_STEP_SECONDS="0.2")
    wait_for(lambda: any(store.checkpoints.glob("*.pt")))
    process.terminate()
    _, err = process.communicate(timeout=3600)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.startswith("Told to end; the same command goes on from here.\n")  # then submitit's, of its own jobs
    wait_for(lambda: not any(store.running(path.stem) for path in store.locks.glob("*.lock")))
