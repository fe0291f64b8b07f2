"""Records are written whole, checked when read, and claimed by one process at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce.declare import plan
from reproduce.declare.runs import Run, run_id
from reproduce.run.store import RecordError, Store, differences, essence
from tests.reproduce.helpers import EXECUTION, MARK, ROOT, put_record, write_profile


@pytest.fixture
def run(tmp_path: Path) -> Run:
    profile = plan.profile("tiny", write_profile(tmp_path))
    return profile.run(plan.experiment(1).method("cnn"), "cifar10", 0)


def test_a_record_reads_back_as_it_was_written(tmp_path: Path, run: Run) -> None:
    store = Store(tmp_path, "tiny")
    written = put_record(store, run, 12.5)
    read = store.read(written["id"])
    assert read is not None
    assert {key: read[key] for key in written} == written
    assert [record["id"] for record in store.records()] == [run_id(run.config(MARK, EXECUTION))]


def test_a_file_is_read_once_as_long_as_it_stays_as_it_is(tmp_path: Path, run: Run) -> None:
    store = Store(tmp_path, "tiny")
    identity = put_record(store, run, 12.5)["id"]
    read = store.read(identity)
    assert store.read(identity) is read
    assert next(store.records()) is read
    put_record(store, run, 13.5)
    assert store.read(identity)["result"]["test_error"] == 13.5  # type: ignore[index]
    path = store.path(identity)
    path.write_text(path.read_text("utf-8").replace("13.5", "13.6"), encoding="utf-8")
    with pytest.raises(RecordError, match="checksum"):
        store.read(identity)


def test_numbers_that_json_does_not_have_become_null(tmp_path: Path, run: Run) -> None:
    store = Store(tmp_path, "tiny")
    written = put_record(store, run, float("nan"), status="diverged")
    assert store.read(written["id"])["result"]["test_error"] is None  # type: ignore[index]


def test_storing_a_record_leaves_no_checkpoint_and_no_temporary_file(tmp_path: Path, run: Run) -> None:
    store = Store(tmp_path, "tiny")
    store.checkpoints.mkdir(parents=True)
    checkpoint = store.checkpoint(run_id(run.config(MARK, EXECUTION)))
    part = checkpoint.with_suffix(".0.pt")
    checkpoint.touch()
    part.touch()
    put_record(store, run, 1.0)
    assert not checkpoint.exists()
    assert not part.exists()
    assert [path.suffix for path in store.runs.iterdir()] == [".json"]


def test_what_a_process_left_that_died_right_after_its_record_is_removed(tmp_path: Path, run: Run) -> None:
    store = Store(tmp_path, "tiny")
    identity = put_record(store, run, 1.0)["id"]
    (store.checkpoints / "shared-2").mkdir(parents=True)
    unfinished = store.checkpoint("0123456789abcdef")
    for path in (store.checkpoint(identity), store.attempts(identity), unfinished):
        path.touch()
    store.tidy()
    assert sorted(path.name for path in store.checkpoints.iterdir()) == [unfinished.name, "shared-2"]


@pytest.mark.parametrize("damage", ["truncated", "edited", "renamed", "binary", "other schema"])
def test_a_damaged_record_is_refused_with_its_name_and_what_to_do(tmp_path: Path, run: Run, damage: str) -> None:
    store = Store(tmp_path, "tiny")
    identity = put_record(store, run, 12.5)["id"]
    path = store.path(identity)
    content = path.read_text(encoding="utf-8")
    if damage == "truncated":
        path.write_text(content[: len(content) // 2], encoding="utf-8")
    elif damage == "edited":
        path.write_text(content.replace("12.5", "2.5"), encoding="utf-8")
    elif damage == "binary":
        path.write_bytes(b"\xff\x00")
    elif damage == "other schema":
        path.write_text(json.dumps({"schema": 0}), encoding="utf-8")
    else:
        identity = "0" * 16
        path = path.rename(store.path(identity))
    with pytest.raises(RecordError, match=r"Run record .*\.json .*delete the file to run it again") as raised:
        store.read(identity)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_record_of_a_newer_version_is_not_to_be_deleted_and_a_hidden_file_is_none(tmp_path: Path, run: Run) -> None:
    store = Store(tmp_path, "tiny")
    identity = put_record(store, run, 12.5)["id"]
    (store.runs / f"._{identity}.json").write_bytes(b"\x00")
    assert [record["id"] for record in store.records()] == [identity]
    store.path(identity).write_text(json.dumps({"schema": 99}), encoding="utf-8")
    with pytest.raises(RecordError, match="is of the newer schema 99; update this checkout"):
        store.read(identity)


def test_a_claimed_run_cannot_be_claimed_again_until_it_is_released(tmp_path: Path) -> None:
    first, second = Store(tmp_path, "tiny"), Store(tmp_path, "tiny")
    with first.claim("a", "a") as mine:
        assert mine
        assert second.running("a")
        with second.claim("a", "a") as theirs:
            assert not theirs
        with second.claim("b", "b") as other:
            assert other
    assert not second.running("a")
    with second.claim("a", "a") as mine:
        assert mine


def test_a_killed_process_leaves_no_claim_behind(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from reproduce.run.store import Store\n"
        "with Store(Path(sys.argv[1]), 'tiny').claim('a', 'a') as mine:\n"
        "    print(mine, flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "True"
    store = Store(tmp_path, "tiny")
    assert store.running("a")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with store.claim("a", "a") as mine:
        assert mine


def test_stores_that_differ_in_timings_alone_are_equal(tmp_path: Path, run: Run) -> None:
    stores = [Store(tmp_path / name, "tiny") for name in ("a", "b")]
    for store, seconds in zip(stores, (1.0, 2.0)):
        record = put_record(store, run, 5.0)
        record["result"]["train_seconds"] = seconds
        record["attempts"] = [{"started": f"2026-01-01T00:00:{seconds:02.0f}+00:00", "seconds": seconds}]
        store.write(record)
    assert differences(*stores) == []


def test_stores_that_differ_in_a_number_or_a_run_are_told_apart(tmp_path: Path, run: Run) -> None:
    first, second = Store(tmp_path / "a", "tiny"), Store(tmp_path / "b", "tiny")
    identity = put_record(first, run, 5.0)["id"]
    assert differences(first, second) == [f"Run {identity} is missing in {second.folder}."]
    assert differences(first, second, common=True) == []
    put_record(second, run, 5.5)
    for common in (False, True):
        assert differences(first, second, common) == [f"Run {identity} differs in: result."]


def test_the_essence_of_a_record_keeps_every_number_of_the_training(tmp_path: Path, run: Run) -> None:
    record = put_record(Store(tmp_path, "tiny"), run, 5.0)
    assert essence(record)["result"].keys() == {"test_error", "curve", "diverged"}


def test_claiming_a_run_sweeps_away_what_a_killed_process_left_half_written(tmp_path: Path) -> None:
    store = Store(tmp_path, "tiny")
    for folder in (store.checkpoints, store.runs):
        folder.mkdir(parents=True)
    names = (".abc.pt.x1.partial", "abc.pt.7.partial")
    mine = [*(store.checkpoints / name for name in names), store.runs / ".abc.json.y.partial"]
    other = store.checkpoints / ".def.pt.x1.partial"
    for path in (*mine, other):
        path.write_text("half")
    with store.claim("abc", "abc") as held:
        assert held
        assert not any(path.exists() for path in mine)
    assert other.exists()
