"""``data.json`` can be lost or damaged without emptying a table."""

from __future__ import annotations

import json
from multiprocessing import get_context
from pathlib import Path

import pytest

from reproduce.declare import plan
from reproduce.run import fingerprints
from reproduce.run.store import Store
from reproduce.show.rows import make_table
from tests.reproduce.helpers import MARK, fill, put_record, run_on


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Records of one row of Table 1."""
    found = Store(tmp_path, "paper")
    fill(found, plan.profile("paper"), 1, {"cnn": [8.0]})
    return found


def shown(store: Store) -> list[float | None]:
    row = make_table(1, plan.profile("paper"), store).row("cifar10", "cnn")
    return [record["result"]["test_error"] for record in row.records.values()]


@pytest.mark.parametrize("content", [None, "", '{"a', "[]"])
def test_tables_are_made_from_the_records_where_data_json_is_gone(store: Store, content: str | None) -> None:
    path = store.folder / "data.json"
    path.unlink() if content is None else path.write_text(content, encoding="utf-8")
    assert shown(store) == [8.0]


def test_a_changed_character_of_data_json_is_noticed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = plan.profile("paper").slots["cifar10"].data
    fingerprints.current(store.folder, [run_on(dataset | {"extra": 1})], None, lambda *_: MARK, "a test")
    path = store.folder / "data.json"
    path.write_text(path.read_text(encoding="utf-8").replace(MARK, "e" + MARK[1:], 1), encoding="utf-8")
    assert shown(store) == [8.0]
    assert f"{path} is damaged" in capsys.readouterr().err


def test_records_of_several_data_need_a_data_json_that_chooses(store: Store) -> None:
    run = plan.profile("paper").run(plan.experiment(1).method("cnn"), "cifar10", 1)
    put_record(store, run, 9.0, mark="f" * 16)
    assert shown(store) == [8.0]
    (store.folder / "data.json").unlink()
    with pytest.raises(ValueError, match=r"does not say which data .* delete the records of other data"):
        shown(store)


def remember(folder: Path, number: int) -> None:
    """Enter a data set of this number's."""
    fingerprints.current(folder, [run_on({"name": f"set{number}"})], None, lambda *_: MARK, "a test")


def test_two_commands_that_write_data_json_at_once_lose_nothing(tmp_path: Path) -> None:
    workers = [get_context("spawn").Process(target=remember, args=(tmp_path, number)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 6
    assert len(fingerprints.recorded(tmp_path)) == 6
    assert "checksum" in json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))


def test_commands_that_remember_and_forget_at_once_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = (run_on({"name": name}) for name in ("one", "two"))

    def meanwhile(*_: object) -> str:
        fingerprints.current(tmp_path / "other", [second], None, lambda *_: MARK, "a test")
        fingerprints.forget("wrong")
        return "mark of the first"

    fingerprints.current(tmp_path / "results", [first], None, lambda *_: "wrong", "another")
    fingerprints.current(tmp_path / "results", [first], None, meanwhile, "a test")
    known = json.loads((tmp_path / "nsl" / "fingerprints.json").read_text("utf-8"))
    assert sorted(known.values()) == sorted([MARK, "mark of the first"])


def test_what_is_remembered_and_half_written_files_are_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("NSL_DATA", raising=False)
    folder, run, loads = tmp_path / "nsl", run_on({"name": "set of a task"}), []
    folder.mkdir()
    (folder / ".images.bin.x1.partial").write_bytes(b"half")
    (folder / ".set.x2.partial").mkdir()
    (folder / ".set.x2.partial" / "images.bin").write_bytes(b"half unpacked")
    (folder / "images.bin").write_bytes(b"whole")
    for _ in range(3):
        fingerprints.current(tmp_path / "results", [run], str(folder), lambda *_: loads.append(1) or MARK, "a test")
    assert loads == [1]
    assert (folder / "files.json").exists()
    assert fingerprints.changed([run], str(folder)) == []
    (folder / ".set.x2.partial" / "images.bin").write_bytes(b"unpacked, or so")
    assert fingerprints.changed([run], str(folder)) == []
    (folder / "images.bin").write_bytes(b"other")
    assert fingerprints.changed([run], str(folder)) == [str(folder / "images.bin")]
    assert fingerprints._states([folder / "gone"]) == []


def test_other_data_are_of_the_tables_only_once_a_record_of_them_is_stored(store: Store) -> None:
    profile = plan.profile("paper")
    run = profile.run(plan.experiment(1).method("cnn"), "cifar10", 0)
    new = "f" * 16
    marks = fingerprints.current(store.folder, [run], None, lambda *_: new, "a test of other data")
    assert marks == {fingerprints.dataset_key(run.dataset): new}
    assert shown(store) == [8.0]
    (line,) = fingerprints.replaced(store.folder, marks)
    assert new in line
    assert "are not those of the stored records" in line
    put_record(store, run, 9.0, mark=new)
    fingerprints.keep(store.folder, marks)
    assert shown(store) == [9.0]
    assert fingerprints.replaced(store.folder, marks) == []
