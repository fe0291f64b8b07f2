"""A fitted method written to a file and read again classifies as before, every method of them."""

from __future__ import annotations

from pathlib import Path

import pytest

import nsl
from nsl.fewshot import METHODS, evaluate
from nsl.fewshot.export import load_method, save_method
from nsl.training.export import ExportError, load_model, read_tensors, write_tensors
from tests.nsl.fewshot.toy import method, toy


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_that_was_saved_and_loaded_has_the_same_accuracies(name: str, tmp_path: Path) -> None:
    found = method(name, iterations=2)
    found.fit(toy().base)
    before = evaluate(found, toy().novel, 2, 3, 4, 0)
    save_method(tmp_path / "method.safetensors", found, {"seed": 0})
    loaded, about = load_method(tmp_path / "method.safetensors")
    assert about["training"] == {"seed": 0}
    assert loaded.parameters == found.parameters
    assert evaluate(loaded, toy().novel, 2, 3, 4, 0).accuracies == before.accuracies


def test_a_method_that_is_not_fitted_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="proto: call fit before save_method"):
        save_method(tmp_path / "method.safetensors", method("proto"))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("static_nsn", "backbone_rate", 5.0), ("static_nsn", "steps", 7), ("matching", "scale", 1.0)],
)
def test_a_method_that_was_changed_after_it_was_made_is_not_saved_as_what_it_was(
    name: str, option: str, value: float, tmp_path: Path
) -> None:
    found = method(name, iterations=1)
    found.fit(toy().base)
    setattr(found, option, value)
    with pytest.raises(ValueError, match=f"{option} is {value} and was made as"):
        save_method(tmp_path / "method.safetensors", found)
    assert not list(tmp_path.iterdir())


def test_a_file_of_the_other_kind_or_of_another_method_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "method.safetensors"
    found = method("proto", iterations=1)
    found.fit(toy().base)
    save_method(path, found)
    assert isinstance(nsl.load(path), type(found))
    with pytest.raises(ExportError, match="holds a few-shot method"):
        load_model(path)
    tensors, about = read_tensors(path)
    about["model"]["settings"]["width"] = 8
    write_tensors(path, tensors, about)
    with pytest.raises(ExportError, match="does not fit the network that it names"):
        load_method(path)
    write_tensors(path, tensors, {**about, "data": {}})
    with pytest.raises(ExportError, match="does not say of what network and data it is"):
        load_method(path)
    write_tensors(path, tensors, {"model": {"name": "cnn9"}, "data": {}})
    with pytest.raises(ExportError, match="no few-shot method"):
        load_method(path)
