"""A damaged checkpoint or export is named, never used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import nsl
import nsl.data
from nsl.training import CheckpointError, load_checkpoint, save_checkpoint
from nsl.training.export import SHARED, ExportError, load_model, read_tensors, save_model, write_tensors

STATE = {"model": {"weight": torch.arange(300.0)}, "iteration": 7}


def flipped(content: bytes, place: int) -> bytes:
    """The content with one bit changed."""
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def exported(path: Path, name: str, width: int) -> nn.Module:
    """A network that was written to `path` and comes back from there as it was."""
    dataset, options = nsl.data.load("digits"), {"width": width}
    model = nsl.create_model(name, dataset.num_classes, image_size=dataset.image_size, **options)
    save_model(path, model, name, options, dataset)
    loaded, about = load_model(path)
    assert set(about) == {"model", "data", "training"}
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    return model


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, STATE)
    found = load_checkpoint(path)
    assert found["iteration"] == 7
    assert torch.equal(found["model"]["weight"], STATE["model"]["weight"])
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_no_flipped_bit_of_a_checkpoint_is_used(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, STATE)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(flipped(whole, place))
        with pytest.raises(CheckpointError, match="delete it to start this run again"):
            load_checkpoint(path)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.97, 0.99, 0.999])
def test_no_truncated_checkpoint_is_used(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(path)


def test_no_flipped_bit_of_an_export_is_used(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    exported(path, "cnn9", 2)
    whole = path.read_bytes()
    for place in range(len(whole) // 2, len(whole), 401):
        path.write_bytes(flipped(whole, place))
        with pytest.raises(ExportError, match="does not match its check sum"):
            load_model(path)


def test_what_layers_share_is_exported_once_and_comes_back_under_every_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = exported(path, "hyper9", 4)
    once = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    named = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert once < path.stat().st_size < once + 32_000 < named


@pytest.mark.parametrize("shared", ['{"a": "none"}', '["a"]', '{"a": []}', "7"])
def test_an_export_that_shares_what_it_does_not_hold_is_refused(tmp_path: Path, shared: str) -> None:
    path = tmp_path / "tensors.safetensors"
    write_tensors(path, {"weight": torch.arange(3.0)}, {"model": {}, SHARED: json.loads(shared)})
    with pytest.raises(ExportError, match="does not say of what network"):
        read_tensors(path)
