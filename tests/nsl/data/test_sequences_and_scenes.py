"""Sets of sequences, and the rendered segmentation set."""

from __future__ import annotations

import pytest
import torch

from nsl.data import DataError, load
from nsl.data.scenes import load_segmentation
from nsl.data.sequences import load_sequences


def test_digits_are_read_row_by_row() -> None:
    rows, images = load_sequences("digit_rows", image_size=8), load("digits", image_size=8)
    assert (rows.length, rows.channels, rows.num_classes) == (8, 8, 10)
    assert torch.equal(rows.test_inputs * 255, images.test_images[:, 0].float())
    assert torch.equal(rows.train_targets, images.train_labels)


def test_the_adding_problem_sums_one_marked_number_of_each_half() -> None:
    data = load_sequences("adding", length=11, train=500, test=100)
    marks = data.train_inputs[..., 1]
    assert torch.equal(marks[:, :5].sum(1), torch.ones(500))
    assert torch.equal(marks[:, 5:].sum(1), torch.ones(500))
    torch.testing.assert_close((data.train_inputs[..., 0] * marks).sum(1), data.train_targets)
    assert data.train_targets.var().item() == pytest.approx(1 / 6, rel=0.2)
    assert data.num_classes == 0
    assert data.fingerprint != load_sequences("adding", length=11, train=500, test=100, seed=1).fingerprint
    assert data.fingerprint == load_sequences("adding", length=11, train=500, test=100).fingerprint


def test_held_out_sequences_are_training_sequences() -> None:
    whole = load_sequences("adding", train=50, test=10)
    held = load_sequences("adding", train=50, test=10, validation=20)
    assert torch.equal(held.test_inputs, whole.train_inputs[30:])
    assert len(held.train_inputs) == 30


def test_scenes_have_a_class_at_every_pixel() -> None:
    data = load_segmentation("digit_scenes", train=20, test=10)
    assert data.train_images.shape == (20, 3, 32, 32)
    assert data.train_masks.shape == (20, 32, 32)
    assert data.num_classes == 11
    shares = [(data.train_masks == c).float().mean().item() for c in range(11)]
    assert 0.4 < shares[0] < 0.95
    assert all(2 <= len(mask.unique()) <= 5 for mask in data.train_masks)
    # A digit is lighter than the ground, on the whole.
    light = data.train_images.float().mean(1)
    assert light[data.train_masks > 0].mean() > light[data.train_masks == 0].mean() + 40
    again = load_segmentation("digit_scenes", train=20, test=10)
    assert again.fingerprint == data.fingerprint


def test_a_validation_set_of_scenes_leaves_the_test_digits_alone() -> None:
    whole = load_segmentation("digit_scenes", train=5, test=4)
    held = load_segmentation("digit_scenes", train=5, test=4, validation=4)
    assert torch.equal(whole.train_images, held.train_images)
    assert not torch.equal(whole.test_images, held.test_images)


def test_what_is_wrong_is_named() -> None:
    for name in ("rows", "adding"):
        with pytest.raises(DataError, match="known are"):
            load_sequences(name, size=3)
    with pytest.raises(DataError, match="length must be at least 2"):
        load_sequences("adding", length=1)
    with pytest.raises(DataError, match="validation must be from 1"):
        load_sequences("adding", train=5, validation=5)
    with pytest.raises(DataError, match="must be a whole number"):
        load_sequences("adding", length="long")
    with pytest.raises(DataError, match="known is digit_scenes"):
        load_segmentation("scenes")
    with pytest.raises(DataError, match="known are"):
        load_segmentation("digit_scenes", size=3)
    with pytest.raises(DataError, match="multiple of 4"):
        load_segmentation("digit_scenes", image_size=30)
