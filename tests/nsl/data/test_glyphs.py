from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font
from PIL import Image

from nsl.data import DataError, Dataset, load
from nsl.data.glyphs import CHARACTERS, FONTS, _atlas


@pytest.fixture(scope="module")
def glyphs() -> Dataset:
    return load("glyphs", num_classes=100, train_per_class=8, test_per_class=4)


def test_there_are_enough_different_classes_for_class_splits() -> None:
    assert len(CHARACTERS) == len(set(CHARACTERS)) == 145


def test_every_font_has_the_characters_it_is_used_for() -> None:
    folder = Path(get_data_path()) / "fonts" / "ttf"
    maps = {
        file: set(FT2Font(str(folder / file)).get_charmap()) for files in FONTS.values() for file in files
    }
    lacking = [(c, file) for c, files in FONTS.items() for file in files if ord(c) not in maps[file]]
    assert lacking == []


def test_no_two_classes_have_the_same_drawing_in_any_font() -> None:
    atlas = _atlas(32)
    seen: dict[bytes, str] = {}
    for character, files in FONTS.items():
        for i in range(atlas.first[character], atlas.first[character] + len(files)):
            assert seen.setdefault(atlas.masks[i].tobytes(), character) == character


def test_every_drawing_has_ink_and_an_empty_margin() -> None:
    masks = _atlas(32).masks
    assert masks.shape[1:] == (28, 28)
    assert (masks.max(axis=(1, 2)) > 200).all()
    inside = masks[:, 2:-2, 2:-2]
    assert inside.sum() == masks.sum()
    spans = [np.ptp(np.argwhere(mask), axis=0).max() + 1 for mask in masks]
    assert min(spans) >= 23


def test_the_set_is_balanced_and_its_classes_take_turns(glyphs: Dataset) -> None:
    assert glyphs.train_images.shape == (800, 3, 32, 32)
    assert glyphs.test_images.shape == (400, 3, 32, 32)
    assert glyphs.train_labels[:100].tolist() == list(range(100))
    assert glyphs.train_labels.bincount().tolist() == [8] * 100
    assert glyphs.class_names == CHARACTERS[:100]


def test_without_numbers_there_are_a_hundred_train_and_twenty_test_images_of_a_class() -> None:
    few = load("glyphs", num_classes=2)
    assert len(few.train_labels) == 200
    assert len(few.test_labels) == 40


def test_an_image_is_the_same_however_many_are_asked_for(glyphs: Dataset) -> None:
    few = load("glyphs", num_classes=7, train_per_class=3, test_per_class=1)
    large = glyphs.train_images.unflatten(0, (8, 100))[:3, :7]
    assert torch.equal(few.train_images.unflatten(0, (3, 7)), large)
    assert torch.equal(few.test_images, glyphs.test_images[:7])


def test_equal_seeds_give_equal_sets_and_other_seeds_others() -> None:
    options: dict[str, Any] = {"num_classes": 3, "train_per_class": 4, "test_per_class": 2}
    assert load("glyphs", **options).fingerprint == load("glyphs", seed=0, **options).fingerprint
    other = load("glyphs", seed=1, **options).train_images
    assert not (other == load("glyphs", **options).train_images).flatten(1).all(1).any()


def test_no_image_occurs_twice_in_train_and_test(glyphs: Dataset) -> None:
    everything = torch.cat([glyphs.train_images, glyphs.test_images]).flatten(1)
    assert len(torch.unique(everything, dim=0)) == len(everything)


def test_all_fonts_and_the_whole_range_of_brightness_occur(glyphs: Dataset) -> None:
    brightness = glyphs.train_images.float().mean(dim=(1, 2, 3))
    assert float(brightness.min()) < 50
    assert float(brightness.max()) > 200
    assert min(glyphs.std) > 0.2


def test_a_nearest_mean_classifier_is_above_chance_and_far_from_perfect(glyphs: Dataset) -> None:
    # Brightness edges without sign, so that light on dark and dark on light agree.
    def edges(images: torch.Tensor) -> torch.Tensor:
        grey = images.float().mean(dim=1)
        return (grey[:, 1:, :-1] - grey[:, :-1, 1:]).abs().flatten(1)

    train, test = edges(glyphs.train_images), edges(glyphs.test_images)
    means = torch.stack([train[glyphs.train_labels == label].mean(0) for label in range(100)])
    right = (torch.cdist(test, means).argmin(1) == glyphs.test_labels).float().mean()
    assert 0.02 < float(right) < 0.5


def test_plain_characters_are_lighter_than_their_ground_and_stand_alone() -> None:
    plain = load("glyphs", num_classes=20, train_per_class=8, test_per_class=4, plain=True)
    brightness = plain.train_images.float().mean(1)
    border = torch.cat([brightness[:, 0], brightness[:, -1], brightness[:, :, 0], brightness[:, :, -1]], 1)
    # The character's margin is empty, so that the border shows the ground, which is dark.
    assert border.median(1).values.max() < 130
    assert (brightness.amax((1, 2)) - border.median(1).values).min() > 40
    with pytest.raises(DataError, match="plain must be True or False, got 1"):
        load("glyphs", plain=1)


def test_other_image_sizes_show_the_same_scenes(glyphs: Dataset) -> None:
    options: dict[str, Any] = {"num_classes": 20, "train_per_class": 2, "test_per_class": 1}
    large, small = (load("glyphs", image_size=size, **options).train_images for size in (64, 32))
    assert large.shape == (40, 3, 64, 64)
    reduced = torch.nn.functional.avg_pool2d(large.float(), 2).flatten(1)
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(reduced.numpy(), small.flatten(1).numpy())]
    assert np.median(correlation) > 0.9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 1}, "num_classes must be 2 to 145, got 1"),
        ({"num_classes": 146}, "num_classes must be 2 to 145, got 146"),
        ({"image_size": 8}, "image_size must be 16 to 128, got 8"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"train_per_class": 0}, "train_per_class must be at least 1, got 0"),
        ({"test_per_class": -2}, "test_per_class must be at least 1, got -2"),
    ],
)
def test_a_number_out_of_range_is_named_with_its_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        load("glyphs", **options)


def test_a_missing_font_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    with pytest.raises(DataError, match=r"needs the font .*DejaVuSans.ttf"):
        load("glyphs", num_classes=2, image_size=24)


def test_the_warp_agrees_with_pillow_up_to_rounding() -> None:
    from nsl.data.glyphs import _inverse_warp, _warped

    atlas = _atlas(32)
    which = np.array([atlas.first["R"]], np.int32)
    one = np.ones(1)
    inverse, shift = _inverse_warp(0.8 * one, 0.3 * one, 0.2 * one, 1.1 * one), np.array([[2.5, -1.25]])
    ours = _warped(atlas, which, inverse, shift)[0]
    forward = (
        0.8
        * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
        @ np.array([[1, 0.2], [0, 1]])
        @ np.diag([1.1, 1 / 1.1])
    )
    back = np.linalg.inv(forward)
    np.testing.assert_allclose(inverse[0], back, atol=1e-12)
    # Pillow's coordinates are of pixel corners, image first: mask = back (image - 16 - shift) + 14.
    offset = 14 - back @ (16 + shift[0])
    source = Image.fromarray(atlas.masks[which[0]].astype(np.uint8))
    data = (back[0, 0], back[0, 1], offset[0], back[1, 0], back[1, 1], offset[1])
    theirs = np.asarray(source.transform((32, 32), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR))
    # Pillow gives nothing for the outermost half pixel of the mask, which is empty here anyway.
    assert np.abs(ours - theirs.astype(int)).max() <= 6
