from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from nsl.data import DataError, Dataset, hold_out, make_dataset, subset


def small(seed: int = 0, **changes: object) -> Dataset:
    """Three classes, 12 train and 6 test images of 4x5 pixels."""
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, object] = {
        "name": "small",
        "train_images": torch.randint(0, 256, (12, 3, 4, 5), dtype=torch.uint8, generator=generator),
        "train_labels": torch.tensor([2, 0, 1, 1, 0, 2, 0, 1, 2, 2, 1, 0]),
        "test_images": torch.randint(0, 256, (6, 3, 4, 5), dtype=torch.uint8, generator=generator),
        "test_labels": torch.tensor([0, 1, 2, 0, 1, 2]),
        "class_names": ("a", "b", "c"),
    }
    return make_dataset(**{**parts, **changes})  # type: ignore[arg-type]


def test_mean_and_std_are_those_of_the_train_images() -> None:
    dataset = small()
    values = dataset.train_images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(dataset.mean, values.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, values.std(axis=(0, 2, 3)), rtol=1e-12)


def test_size_and_number_of_classes_come_from_the_parts() -> None:
    dataset = small()
    assert dataset.num_classes == 3
    assert dataset.image_size == 4


def test_a_dataset_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().name = "other"  # type: ignore[misc]


def test_equal_contents_have_equal_fingerprints() -> None:
    assert small().fingerprint == small().fingerprint
    assert len(small().fingerprint) == 16
    assert int(small().fingerprint, 16) >= 0


@pytest.mark.parametrize(
    "part", ["name", "train_images", "train_labels", "test_images", "test_labels", "class_names"]
)
def test_the_fingerprint_changes_with_every_part(part: str) -> None:
    dataset = small()
    value = getattr(dataset, part)
    if isinstance(value, torch.Tensor):
        changed: object = value.clone()
        changed.view(-1)[0] = (int(value.view(-1)[0]) + 1) % 3  # type: ignore[attr-defined]
    else:
        changed = "other" if part == "name" else ("a", "b", "d")
    assert small(**{part: changed}).fingerprint != dataset.fingerprint


def test_the_fingerprint_does_not_depend_on_the_memory_format() -> None:
    dataset = small()
    images = dataset.train_images.contiguous(memory_format=torch.channels_last)
    assert small(train_images=images).fingerprint == dataset.fingerprint


def test_a_subset_is_the_first_images_of_every_class_in_stored_order() -> None:
    dataset = small()
    part = subset(dataset, train_per_class=2, test_per_class=1)
    assert part.train_labels.tolist() == [2, 0, 1, 1, 0, 2]
    assert torch.equal(part.train_images, dataset.train_images[:6])
    assert part.test_labels.tolist() == [0, 1, 2]
    assert part.fingerprint != dataset.fingerprint


def test_a_subset_without_numbers_is_the_set_itself() -> None:
    dataset = small()
    assert subset(dataset) is dataset


def test_a_subset_may_keep_one_split_whole() -> None:
    dataset = small()
    assert torch.equal(subset(dataset, train_per_class=1).test_images, dataset.test_images)


@pytest.mark.parametrize(("count", "words"), [(5, "class 'a' has 4"), (0, "at least 1, got 0")])
def test_a_subset_that_cannot_be_had_says_why(count: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        subset(small(), train_per_class=count)


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("train_images", torch.zeros(12, 3, 4, 5), "train images must be uint8"),
        ("train_images", torch.zeros(12, 1, 4, 5, dtype=torch.uint8), r"uint8 \[N, 3, H, W\]"),
        ("test_images", torch.zeros(6, 3, 5, 5, dtype=torch.uint8), "must have one size"),
        ("test_labels", torch.zeros(5, dtype=torch.int64), r"test labels must be int64 \[6\]"),
        ("train_labels", torch.full((12,), 3), "train label 3 is outside 0 to 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(part: str, value: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        small(**{part: value})


def test_nothing_is_held_out_of_a_set_that_would_fill_the_memory() -> None:
    """ILSVRC-2012, which is memory-mapped, was copied whole."""
    images, labels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    many = (images.expand(2_000_000, -1, -1, -1), labels.expand(2_000_000))
    large = Dataset("large", *many, images, labels, ("a",), "0")
    with pytest.raises(DataError, match=r"copy 23 GiB of training images into memory.* the 16 GiB .* train_per_class"):
        hold_out(large, 5)
    assert len(hold_out(small(), 5).test_images) == 5


def test_importing_the_package_loads_no_plotting_and_no_learning_library() -> None:
    code = (
        "import sys, nsl.data; "
        "print([m for m in ('sklearn', 'matplotlib', 'PIL', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
