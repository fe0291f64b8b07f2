from __future__ import annotations

import pytest
import torch

from nsl.data import DataError, load


def test_the_digits_are_split_by_class_four_to_one() -> None:
    digits = load("digits")
    assert digits.train_images.shape == (1438, 3, 16, 16)
    assert digits.test_images.shape == (359, 3, 16, 16)
    share = digits.test_labels.bincount() / (digits.test_labels.bincount() + digits.train_labels.bincount())
    assert share.min() > 0.19
    assert share.max() < 0.21
    assert digits.class_names == tuple("0123456789")


def test_the_digits_use_the_whole_range_of_grey_and_equal_channels() -> None:
    images = load("digits").train_images
    assert int(images.max()) == 255
    assert int(images.min()) == 0
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])


def test_loading_the_digits_twice_gives_the_same_set() -> None:
    assert load("digits").fingerprint == load("digits").fingerprint


def test_the_digits_of_the_source_size_are_the_source() -> None:
    from sklearn.datasets import load_digits

    source = {tuple(image.flatten().astype(int)) for image in load_digits().images}
    ours = load("digits", image_size=8)
    grey = torch.cat([ours.train_images, ours.test_images])[:, 0].flatten(1)
    assert {tuple(round(v * 16 / 255) for v in image) for image in grey.tolist()} == source


def test_the_digits_come_in_other_sizes_and_smaller_subsets() -> None:
    digits = load("digits", image_size=32, train_per_class=7, test_per_class=2)
    assert digits.train_images.shape == (70, 3, 32, 32)
    assert digits.test_labels.bincount().tolist() == [2] * 10


def test_the_digits_cannot_be_smaller_than_the_source() -> None:
    with pytest.raises(DataError, match="image_size must be at least 8"):
        load("digits", image_size=7)
