"""Files that were made to do harm, or that a full disk prevents, end in one sentence and take no memory."""

from __future__ import annotations

import errno
import io
import json
import os
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nsl
import nsl.data
from nsl.data import DataError
from nsl.data.files import annotated_files
from nsl.outputs import LEFT_OVER, OutputError, replacing, scratch
from nsl.seals import seal
from nsl.training import CheckpointError, Execution, Recipe, load_checkpoint, train
from nsl.training.checkpoint import FORMAT, check_optimiser, save_checkpoint
from nsl.training.export import ExportError, _checksum, load_model, save_model, write_tensors
from reproduce.run.files import write_text
from theory.__main__ import claims as theory_claims
from theory.claims import ledger


def exported(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """An exported network's tensors and what is said of them."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    dataset = nsl.data.load("digits", train_per_class=2, test_per_class=2)
    save_model(path, nsl.create_model("cnn9", 10, image_size=16, width=2), "cnn9", {"width": 2}, dataset)
    with safe_open(path, framework="pt") as opened:
        metadata = dict(opened.metadata())
    metadata.pop("checksum")
    return load_file(path), metadata


def forge(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write them with a right check sum, as a forger would."""
    from safetensors.torch import save_file

    save_file(tensors, path, {**metadata, "checksum": _checksum(tensors, metadata)})


def forge_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state with a right check sum that `save_checkpoint` would refuse."""
    stream = io.BytesIO()
    torch.save({"format": FORMAT, **state}, stream)
    path.write_bytes(stream.getvalue() + seal(stream.getvalue()))


FORGED: list[tuple[str, Any]] = [
    ("model", {"name": "cnn9", "options": {"width": 3000}}),
    ("model", {"name": "cnn9", "options": {"width": 10**18}}),
    ("model", {"name": "cnn9", "options": {"width": "x"}}),
    ("model", {"name": "cnn9", "options": [1]}),
    ("model", {"name": ["cnn9"], "options": {}}),
    ("model", {"name": "cnn11", "options": {}}),
    ("model", {"name": "cnn9pp", "options": {"width": 10**6}}),
    ("model", {"name": "cnn9", "options": {"width": 2, "image_size": 10**9}}),
    ("model", []),
    ("model", None),
    ("data", {}),
    ("data", {"name": ["x"]}),
    ("data", "text"),
]


@pytest.mark.parametrize(("key", "value"), FORGED)
def test_a_forged_export_is_refused_before_anything_is_built(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "net.safetensors"
    tensors, metadata = exported(path)
    forge(path, tensors, {**metadata, key: json.dumps(value)})
    with pytest.raises(ExportError, match=r"net\.safetensors"):
        load_model(path)


def test_an_export_without_some_tensor_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    tensors, metadata = exported(path)
    name = next(iter(tensors))
    for changed in ({**tensors, name: torch.zeros(7)}, {key: tensors[key] for key in tensors if key != name}):
        forge(path, changed, metadata)
        with pytest.raises(ExportError, match="does not fit the network that it names"):
            load_model(path)


def test_a_checkpoint_that_unpacks_to_more_than_its_size_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"format": FORMAT, "model": torch.zeros(10**6)}, stream)
    path, packed = tmp_path / "run.pt", io.BytesIO()
    with zipfile.ZipFile(stream) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as small:
        for item in whole.infolist():
            small.writestr(item.filename, whole.read(item))
    path.write_bytes(packed.getvalue() + seal(packed.getvalue()))
    with pytest.raises(CheckpointError, match="is damaged") as refused:
        load_checkpoint(path)
    assert "compressed" in str(refused.value.__cause__)


def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    forge_checkpoint(path, {"model": torch.zeros(1).expand(10**10)})
    with pytest.raises(CheckpointError, match="is damaged") as refused:
        load_checkpoint(path)
    assert "larger than the file" in str(refused.value.__cause__)


def test_a_checkpoint_that_names_anything_but_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    forge_checkpoint(path, {"model": bytearray(8)})
    with pytest.raises(CheckpointError, match="is damaged") as refused:
        load_checkpoint(path)
    assert "which no checkpoint does" in str(refused.value.__cause__)


@pytest.mark.parametrize(
    "part",
    [
        torch.nn.Parameter(torch.zeros(2)), np.float64(0.1), bytearray(8), torch.eye(3).to_sparse(),
        {"deep": [torch.nn.Parameter(torch.zeros(2))]},
    ],
)  # fmt: skip
def test_what_would_not_be_read_again_is_not_written(tmp_path: Path, part: Any) -> None:
    """It was written, and called damaged when it was wanted: after hours, with the advice to delete it."""
    with pytest.raises(ValueError, match="'mine' cannot be kept in a checkpoint"):
        save_checkpoint(tmp_path / "run.pt", {"model": torch.zeros(2), "mine": part})
    with pytest.raises(ValueError, match="cannot have the key 'format'"):
        save_checkpoint(tmp_path / "run.pt", {"format": part})
    assert list(tmp_path.iterdir()) == []
    kept = [1, 0.5, "a", None, True]
    small = torch.arange(3).to(torch.uint16)
    wide = {"deep": (torch.arange(3.0)[:, None].expand(3, 400), small)}
    save_checkpoint(tmp_path / "run.pt", {"model": torch.zeros(2), "mine": kept, "wide": wide})
    found = load_checkpoint(tmp_path / "run.pt")
    assert found["mine"] == kept
    assert all(torch.equal(left, right) for left, right in zip(found["wide"]["deep"], wide["deep"]))


def test_a_training_whose_state_cannot_be_kept_says_so_before_its_first_step(tmp_path: Path) -> None:
    class Told(torch.nn.Flatten):
        def get_extra_state(self) -> Any:
            return np.float64(1)

        def set_extra_state(self, state: Any) -> None:
            pass

    steps: list[int] = []
    dataset = nsl.data.load("digits", train_per_class=2, test_per_class=2)
    model = torch.nn.Sequential(Told(), torch.nn.Linear(768, 10))
    recipe = Recipe(iterations=3, batch_size=8, evaluations=1, augment="none")
    execution = Execution(checkpoint=tmp_path / "run.pt", progress=False)
    with pytest.raises(ValueError, match="the state's 'model' cannot be kept in a checkpoint"):
        train(model, dataset, recipe, seed=0, execution=execution, before_step=steps.append)
    assert steps == []


def test_an_optimisers_state_of_another_shape_is_refused() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimiser = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    optimiser.state[parameter]["momentum_buffer"] = torch.zeros(3)
    check_optimiser(optimiser)
    optimiser.state[parameter]["momentum_buffer"] = torch.zeros(4)
    with pytest.raises(ValueError, match=r"momentum_buffer has the shape \[4\]"):
        check_optimiser(optimiser)


def test_a_checkpoint_on_a_full_disk_warns_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    dataset = nsl.data.load("digits", train_per_class=2, test_per_class=2)
    model = nsl.create_model("cnn9", 10, image_size=16, width=2)
    recipe = Recipe(iterations=3, batch_size=8, evaluations=1, augment="none")
    execution = Execution(checkpoint=tmp_path / "run.pt", checkpoint_minutes=0, progress=False)
    found = train(model, dataset, recipe, seed=0, execution=execution)
    assert found.iterations_done == 3
    said = capsys.readouterr().err
    assert f"warning: {tmp_path / 'run.pt'} cannot be written (No space left on device)" in said
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_with_the_path_that_did_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'data.json'}'"):
        write_text(tmp_path / "data.json", "{}")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_does_not_fit_on_the_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "net.safetensors"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OutputError, match=f"{path} cannot be written \\(File too large\\); free some space"):
            write_tensors(path, {"weight": torch.zeros(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_no_claim_is_lost_where_the_ledger_could_not_be_written_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, full = ledger.write, [OutputError(errno.ENOSPC, "the disk is full.")]
    finding = ledger.run(ledger.find("flow-equations"), quick=True, mutate=False).finding

    def write(*given: Any) -> None:
        if full:
            raise full.pop()
        real(*given)

    monkeypatch.setattr(ledger, "write", write)
    monkeypatch.setattr(ledger, "run_group", lambda group, quick: [(number, finding, {}, 0.1) for number in group])
    monkeypatch.setattr("nsl.processes.workers", ThreadPoolExecutor)
    assert theory_claims(["1", "4"], quick=True, out=tmp_path, jobs=1) == 0
    assert capsys.readouterr().err == "warning: the disk is full. The claims go on.\n"
    assert [row["number"] for row in ledger.read(tmp_path)] == [1, 4]


def test_left_over_temporary_files_are_removed_and_those_in_use_are_not(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    old, new = tmp_path / "run.pt.1.partial", tmp_path / "run.pt.2.partial"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 2 * LEFT_OVER,) * 2)
    with replacing(path) as temporary:
        temporary.write_text("x")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.pt", "run.pt.2.partial"]
    with pytest.raises(ValueError, match="is a folder"), replacing(tmp_path):
        pass
    with pytest.raises(ValueError, match="no regular file"), replacing(Path("/dev/null")):
        pass
    with pytest.raises(OutputError, match="cannot be written"), replacing(path / "under"):
        pass


def test_folders_of_killed_processes_are_removed_and_those_in_use_or_of_others_are_not(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in ("work-old", "work-new", "else-old"))
    for folder in (old, new, other):
        folder.mkdir()
        (folder / "x").touch()
    for folder in (old, other):
        os.utime(folder, (0, 0))
    (tmp_path / "work-link").symlink_to(other)
    with scratch("work-", tmp_path) as mine:
        assert {mine, new, other, tmp_path / "work-link"} == set(tmp_path.iterdir())
    assert not mine.exists()


def test_no_line_of_val_annotations_names_a_file_outside_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "val_annotations.txt"
    for name in ("../secret.JPEG", "/etc/x.JPEG", "..", "a/b.JPEG"):
        path.write_text(f"val_0.JPEG\tn01443537\n{name}\tn01443537\n", encoding="utf-8")
        with pytest.raises(DataError, match="line 2 names"):
            annotated_files(path)


def test_no_flipped_bit_of_the_ledger_is_believed(tmp_path: Path) -> None:
    ledger.write([ledger.run(ledger.find("flow-equations"), quick=True, mutate=False)], tmp_path)
    path = tmp_path / "claims.json"
    whole, rows = path.read_bytes(), ledger.read(tmp_path)
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert ledger.read(tmp_path) == rows  # a sign between values
        except ValueError as error:
            assert "claims.json" in str(error)  # noqa: PT017


def test_no_flipped_bit_of_an_executed_notebook_counts_as_up_to_date(tmp_path: Path) -> None:
    from reproduce.show import notebooks

    path = tmp_path / "x.ipynb"
    text = json.dumps({"cells": [{"source": "1 + 1"}], "metadata": {notebooks.STAMP: "abc"}, "nbformat": 4})
    path.write_text(notebooks.seal(text), encoding="utf-8")
    assert notebooks.stamp(path) == "abc"
    whole = path.read_bytes()
    for place in range(len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert notebooks.stamp(path) is None
    for content in ("[]", "1", "null", '{"metadata": []}'):
        path.write_text(content, encoding="utf-8")
        assert notebooks.stamp(path) is None
