"""A record says who made it and on what; a change of what identifies a run carries records along."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reproduce.declare import plan
from reproduce.declare.runs import Run, declared_id, run_id
from reproduce.run.attempts import Attempts
from reproduce.run.store import Store
from reproduce.run.worker import execute
from reproduce.show import rows
from reproduce.tasks.task import Outcome
from tests.reproduce.fake_backend import FakeBackend
from tests.reproduce.helpers import EXECUTION, MARK, arguments, call, fill, put_record, write_profile


@pytest.fixture
def run(tmp_path: Path) -> Run:
    profile = plan.profile("tiny", write_profile(tmp_path))
    return profile.run(plan.experiment(1).method("cnn"), "cifar10", 0)


def records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((folder / "results/tiny/runs").glob("*.json"))]


def test_every_attempt_at_a_run_is_in_its_record(tmp_path: Path) -> None:
    write_profile(tmp_path, seeds=1)
    failed = call(arguments("run", tmp_path, "--tables", "1"), tmp_path, FAKE_DIES="cnn9")
    assert failed.returncode == 2
    assert call(arguments("run", tmp_path, "--tables", "1"), tmp_path).returncode == 0
    by_model = {record["config"]["model"]["name"]: record for record in records(tmp_path)}
    assert [attempt.get("interrupted", False) for attempt in by_model["cnn9"]["attempts"]] == [True, False]
    assert all(attempt["seconds"] is not None for attempt in by_model["cnn9"]["attempts"])
    assert {"commit", "started", "cpu", "platform"} <= by_model["cnn9"]["attempts"][0].keys()
    assert not list((tmp_path / "results/tiny/checkpoints").iterdir())


def test_a_killed_attempt_counts_until_its_last_checkpoint(tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "a.json", tmp_path / "a.pt"
    first = Attempts(path, checkpoint)
    first.begin({})
    checkpoint.touch()
    started = checkpoint.stat().st_mtime
    os.utime(checkpoint, (started + 100, started + 100))
    second = Attempts(path, checkpoint)
    second.begin({})
    assert 98 < second.end()[0]["seconds"] < 102
    path.write_text("{")
    third = Attempts(path, checkpoint)
    third.begin({})
    assert len(third.end()) == 1


def test_kernels_enter_the_identity_and_a_stored_run_is_not_repeated_on_others(tmp_path: Path) -> None:
    write_profile(tmp_path, seeds=1)
    for kernels in ("native", "plain"):
        assert call(arguments("run", tmp_path, "--tables", "1"), tmp_path, FAKE_KERNELS=kernels).returncode == 0
    assert {record["config"]["execution"]["kernels"] for record in records(tmp_path)} == {"native"}


def test_a_run_begun_on_other_kernels_starts_anew_and_names_what_it_leaves(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, backend = Store(tmp_path, "tiny"), FakeBackend()
    mark = backend.fingerprint(run, None)
    with monkeypatch.context() as patched:
        patched.setenv("FAKE_KERNELS", "native")
        patched.setattr(FakeBackend, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(run, mark, store, backend, None, False)
    (begun,) = store.checkpoints.glob("*.pt")
    record = execute(run, mark, store, backend, None, False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"{run.name} starts anew with kernels plain, since its checkpoint {begun} was made with kernels native."
    )
    assert record is not None
    assert record["id"] != begun.stem
    assert list(store.checkpoints.iterdir()) == []


def interrupted(self: FakeBackend, run: Run, data: str | None, checkpoint: Path, progress: bool) -> Outcome:
    checkpoint.write_text("begun")
    raise KeyboardInterrupt


def test_a_table_takes_one_record_a_run_whatever_it_was_executed_on(tmp_path: Path, run: Run) -> None:
    profile = plan.profile("tiny", write_profile(tmp_path))
    store = Store(tmp_path, "tiny")
    fill(store, profile, 1, {"cnn": [5.0]})
    other = put_record(store, run, 7.0)
    other["config"]["execution"] = {**EXECUTION, "device": "another"}
    other["id"] = run_id(other["config"])
    other.pop("checksum", None)
    store.write(other)
    assert len(list(store.records())) == 2
    row = rows.make_table(1, profile, store).row("cifar10", "cnn")
    assert [record["result"]["test_error"] for record in row.records.values()] == [7.0]
    found = Store(tmp_path, "tiny").find(declared_id(run.declared(MARK)))
    assert found is not None
    assert found["id"] == other["id"]
