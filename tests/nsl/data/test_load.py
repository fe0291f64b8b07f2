from __future__ import annotations

from pathlib import Path

import pytest

from nsl.data import FEWSHOT_NAMES, NAMES, DataError, data_root, load


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mnist", {}, "Unknown data set 'mnist'; known are digits, glyphs, cifar10, cifar100"),
        ("digits", {"size": 3}, "'digits' has no option size; known are image_size, train_per_class"),
        ("cifar10", {"image_size": 16}, "'cifar10' has no option image_size; known are train_per_class"),
        ("digits", {"image_size": "16"}, "image_size must be a whole number, got '16'"),
        ("digits", {"image_size": None}, "image_size must be a whole number, got None"),
        ("digits", {"train_per_class": 1.5}, "train_per_class must be a whole number, got 1.5"),
    ],
)
def test_a_wrong_name_or_option_is_named_with_what_is_known(name: str, options: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load(name, **options)


@pytest.mark.parametrize("name", ["digits", "glyphs", "cifar10", "cifar100"])
def test_a_named_folder_that_does_not_exist_is_refused_for_every_set(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere \(from the argument root\) does not exist"):
        load(name, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_missing_folder_in_the_environment_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NSL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere \(from NSL_DATA\) does not exist"):
        load("cifar10")


def test_the_argument_goes_before_the_environment_and_that_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NSL_DATA", str(tmp_path))
    assert data_root() == tmp_path
    (tmp_path / "other").mkdir()
    assert data_root(tmp_path / "other") == tmp_path / "other"
    monkeypatch.setenv("NSL_DATA", "")
    assert data_root() == Path("~/.cache/nsl").expanduser()


def test_no_name_means_both_a_classification_and_a_few_shot_set() -> None:
    assert not set(NAMES) & set(FEWSHOT_NAMES)
