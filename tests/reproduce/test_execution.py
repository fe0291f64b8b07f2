"""Runs execute once, in their own processes, whatever fails or is killed on the way."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reproduce.__main__ import main
from reproduce.declare import plan
from reproduce.run import executors, fingerprints
from reproduce.run.executors import LocalExecutor
from reproduce.run.store import Store, differences
from reproduce.run.worker import execute
from tests.reproduce.fake_backend import FakeBackend
from tests.reproduce.helpers import TABLE_1, TABLE_1_TWICE, arguments, call, start, write_profile


def wait_for(condition: Callable[[], bool], seconds: float = 3600) -> None:
    """Wait until ``condition()`` holds; the limit only keeps a broken test from hanging."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_every_missing_run_executes_once_and_a_second_call_executes_nothing(tmp_path: Path) -> None:
    profile = plan.profile("tiny", write_profile(tmp_path, jobs=2))
    count = len(plan.planned_runs(profile, plan.tables(), 2))
    log = tmp_path / "log"
    first = call(arguments("run", tmp_path), tmp_path, FAKE_LOG=str(log))
    assert first.returncode == 0, first.stderr
    assert len(log.read_text().splitlines()) == count
    second = call(arguments("run", tmp_path), tmp_path, FAKE_LOG=str(log))
    assert f"{count} of {count} runs are stored" in second.stdout
    assert len(log.read_text().splitlines()) == count


def test_a_run_killed_in_the_middle_gives_the_same_records_after_a_restart(tmp_path: Path) -> None:
    write_profile(tmp_path, jobs=2, iterations=40)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        write_profile(folder, jobs=2, iterations=40)
    assert call(arguments("run", whole, "--tables", "1"), tmp_path).returncode == 0
    store = Store(broken / "results", "tiny")
    for already in (1, 3):
        process = start(arguments("run", broken, "--tables", "1"), tmp_path, FAKE_STEP_SECONDS="0.05")

        def midway(records: int = already) -> bool:
            return len(list(store.runs.glob("*.json"))) >= records and any(store.checkpoints.glob("*.pt"))

        wait_for(midway)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        # The workers notice that their parent is gone, and let go of their runs.
        wait_for(lambda: not any(store.running(path.stem) for path in store.locks.glob("*.lock")))
        assert len(list(store.runs.glob("*.json"))) < TABLE_1_TWICE
    log = tmp_path / "log"
    last = call(arguments("run", broken, "--tables", "1"), tmp_path, FAKE_LOG=str(log))
    assert last.returncode == 0, last.stderr
    assert len(log.read_text().splitlines()) < TABLE_1_TWICE
    assert differences(store, Store(whole / "results", "tiny")) == []
    assert list(store.checkpoints.iterdir()) == []
    folders = [str(folder / "results" / "tiny") for folder in (whole, broken)]
    compared = call(["compare", *folders], tmp_path)
    assert compared.stdout == f"The {TABLE_1_TWICE} records are equal, timings and environment aside.\n"


def test_two_invocations_side_by_side_share_the_runs(tmp_path: Path) -> None:
    write_profile(tmp_path, jobs=2)
    log = tmp_path / "log"
    command = arguments("run", tmp_path, "--tables", "1")
    both = [start(command, tmp_path, FAKE_LOG=str(log), FAKE_STEP_SECONDS="0.03") for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=3600)
        assert process.returncode == 0, out + err
    assert len(log.read_text().splitlines()) == TABLE_1_TWICE
    assert len(list(Store(tmp_path / "results", "tiny").records())) == TABLE_1_TWICE


@pytest.mark.parametrize(
    ("cause", "reason"),
    [("FAKE_FAILS", "the fake was told to fail."), ("FAKE_DIES", "its process ended with code 9")],
)
def test_a_failing_run_is_reported_and_does_not_stop_the_others(tmp_path: Path, cause: str, reason: str) -> None:
    write_profile(tmp_path, seeds=1)
    done = call(arguments("run", tmp_path, "--tables", "1"), tmp_path, **{cause: "cnn9"})
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert lines == [f"error: 1 of {TABLE_1} runs failed. Baseline CNN on digits, seed 0 failed: {reason}"]
    assert len(list(Store(tmp_path / "results", "tiny").records())) == TABLE_1 - 1


def test_tables_and_notebooks_follow_though_a_worker_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(tmp_path, seeds=1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("FAKE_DIES", "cnn9")
    asked: list[Any] = []
    monkeypatch.setattr("reproduce.show.notebooks.execute_all", lambda *given: asked.append(given) or [])
    assert main(arguments("all", tmp_path, "--tables", "1")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "its process ended with code 9" in line
    assert (tmp_path / "results/tiny/tables/table1.csv").exists()
    assert len(asked) == 1


def test_why_runs_failed_is_told_though_the_tables_fail_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(tmp_path, seeds=1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("FAKE_FAILS", "cnn9")

    def refuse(*_: Any) -> None:
        raise OSError("there is no room for tables.")

    asked: list[Any] = []
    monkeypatch.setattr("reproduce.show.tables.write_tables", refuse)
    monkeypatch.setattr("reproduce.show.notebooks.execute_all", lambda *given: asked.append(given) or [])
    assert main(arguments("all", tmp_path, "--tables", "1")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Baseline CNN on digits, seed 0 failed: the fake was told to fail. there is no room for tables." in line
    assert asked == []


def test_a_diverged_run_is_stored_and_not_executed_again(tmp_path: Path) -> None:
    write_profile(tmp_path, seeds=1)
    command = arguments("run", tmp_path, "--tables", "1")
    assert "diverged (loss is not finite at iteration 3)" in call(command, tmp_path, FAKE_DIVERGES="cnn9").stdout
    assert f"{TABLE_1} of {TABLE_1} runs are stored" in call(command, tmp_path).stdout
    statuses = [record["status"] for record in Store(tmp_path / "results", "tiny").records()]
    assert sorted(statuses) == ["diverged", *(TABLE_1 - 1) * ["finished"]]


def test_ctrl_c_ends_all_processes_with_one_line(tmp_path: Path) -> None:
    write_profile(tmp_path, jobs=2)
    process = start(arguments("run", tmp_path), tmp_path, FAKE_STEP_SECONDS="0.2")
    store = Store(tmp_path / "results", "tiny")
    wait_for(lambda: any(store.checkpoints.glob("*.pt")))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=3600)
    assert process.returncode == 130
    assert err.strip() == "Interrupted; the same command goes on from here."
    wait_for(lambda: not any(store.running(path.stem) for path in store.locks.glob("*.lock")))


def test_workers_get_the_declared_number_of_threads(tmp_path: Path) -> None:
    write_profile(tmp_path, seeds=1)
    assert call(arguments("run", tmp_path, "--tables", "1"), tmp_path, OMP_NUM_THREADS="7").returncode == 0
    for record in Store(tmp_path / "results", "tiny").records():
        assert record["attempts"][-1]["threads"] == 1


def test_a_worker_that_dies_while_idle_is_replaced_and_the_command_goes_on(tmp_path: Path) -> None:
    profile = plan.profile("tiny", write_profile(tmp_path))
    runs = plan.planned_runs(profile, plan.tables(), 1)[:3]
    backend = "tests.reproduce.fake_backend:FakeBackend"
    jobs = [(run, FakeBackend().fingerprint(run, None)) for run in runs]
    killed = []

    def say(line: str) -> None:
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
            killed.append(line)

    report = LocalExecutor(Store(tmp_path / "results", "tiny"), 1, 1, backend, None).execute(jobs, say)
    assert report.failures == []
    assert len(report.finished) == len(killed) == 3


def test_a_wrong_remembered_fingerprint_is_dropped_and_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    profile = plan.profile("tiny", write_profile(tmp_path))
    run = plan.planned_runs(profile, plan.tables(), 1)[0]
    store, backend = Store(tmp_path / "results", "tiny"), FakeBackend()

    def remembered(load: fingerprints.Loader) -> str:
        return next(iter(fingerprints.current(store.folder, [run], str(tmp_path), load, "fake").values()))

    wrong = remembered(lambda run, data: "0" * 16)
    with pytest.raises(ValueError, match=r"fingerprints\.json was wrong; its entry is dropped, start again"):
        execute(run, wrong, store, backend, None, False)
    mark = remembered(backend.fingerprint)
    assert mark == backend.fingerprint(run, None)
    assert execute(run, mark, store, backend, None, False) is not None


def test_runs_of_one_card_share_a_process_and_none_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = plan.profile("tiny", write_profile(tmp_path, iterations=20))
    runs = plan.planned_runs(profile, plan.tables(), 1)[:4]
    backend = "tests.reproduce.fake_backend:FakeBackend"
    jobs = [(run, FakeBackend().fingerprint(run, None)) for run in runs]
    monkeypatch.setattr(executors, "cards", lambda: 1)
    executor = LocalExecutor(Store(tmp_path / "results", "tiny"), 3, 1, backend, None)
    assert (executor.processes, executor.slots(0)) == (1, 3)
    seen: set[int | None] = set()
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.01")
    report = executor.execute(jobs, lambda line: seen.update(p.pid for p in multiprocessing.active_children()))
    assert report.failures == []
    assert sorted(report.finished) == sorted(run.name for run in runs)
    assert len(seen) == 1


def test_jobs_are_shared_out_over_the_cards_each_seen_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "cards", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    many = LocalExecutor(Store(Path("nowhere"), "tiny"), 10, 1, "", None)
    assert [many.slots(card) for card in range(many.processes)] == [3, 3, 2, 2]
    five = LocalExecutor(Store(Path("nowhere"), "tiny"), 5, 1, "", None)
    assert [five.slots(card) for card in range(five.processes)] == [2, 1, 1, 1]
    few = LocalExecutor(Store(Path("nowhere"), "tiny"), 2, 1, "", None)
    assert [few.slots(card) for card in range(few.processes)] == [1, 1]
    assert executors._only_card(1) == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert executors._only_card(1) == {"CUDA_VISIBLE_DEVICES": "7"}
    monkeypatch.setattr(executors, "cards", lambda: 0)
    cpu = LocalExecutor(Store(Path("nowhere"), "tiny"), 3, 1, "", None)
    assert (cpu.processes, {cpu.slots(number) for number in range(3)}, executors._only_card(0)) == (3, {1}, {})


@pytest.mark.parametrize("wrong", ["cache", "file"])
def test_the_same_command_goes_on_after_a_wrong_remembered_fingerprint_and_names_the_file(
    wrong: str, tmp_path: Path
) -> None:
    profiles = write_profile(tmp_path, seeds=1)
    profiles.write_text(profiles.read_text("utf-8").replace("digits", "cifar10"), "utf-8")
    file, cache = tmp_path / "data/batch.bin", tmp_path / "cache/nsl/fingerprints.json"
    file.parent.mkdir()
    file.write_bytes(b"images")
    command = arguments("run", tmp_path, "--tables", "1", "--data", str(file.parent))
    assert call(command, tmp_path).returncode == 0
    shutil.rmtree(tmp_path / "results")
    if wrong == "cache":
        cache.write_text(json.dumps(dict.fromkeys(json.loads(cache.read_text("utf-8")), "0" * 16)), "utf-8")
    else:  # bit rot: size and date are as before
        date = file.stat().st_mtime_ns
        file.write_bytes(b"imagez")
        os.utime(file, ns=(date, date))
    done = call(command, tmp_path)
    assert done.returncode == 0, done.stderr
    why = f"{file} changed" if wrong == "file" else "no file is known to have changed"
    assert f"fingerprint was wrong ({why}); it is computed anew and the runs go on." in done.stdout
    assert len(list(Store(tmp_path / "results", "tiny").records())) == TABLE_1
