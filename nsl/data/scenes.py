"""A rendered segmentation set: handwritten digits in several sizes and colours on an uneven ground.

Every image is a canvas with a colour gradient and noise, on which some of scikit-learn's handwritten digits are pasted;
a pixel's class is the digit whose ink covers it, or the ground. Train and test scenes hold different digits: those of
the train and of the test split of `nsl.data.load("digits")`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from nsl.data.catalogue import SEGMENTATION
from nsl.data.dataset import DataError, fingerprint
from nsl.data.loading import load_entry

GROUND = 0
CLASS_NAMES = ("ground", *(f"digit {i}" for i in range(10)))
#: Digits a scene, their sides as a share of the canvas, and from which share of full ink a pixel belongs to its digit.
FEWEST, MOST = 2, 4
SMALLEST, LARGEST = 0.3, 0.5
INK = 0.4


@dataclass(frozen=True, eq=False)
class SegmentationSet:
    """Images with a class at every pixel.

    Attributes:
        name: of the set.
        train_images, test_images: uint8 [N, 3, H, W].
        train_masks, test_masks: uint8 [N, H, W], values 0 .. num_classes - 1; 0 is the ground.
        class_names: one a class.
        fingerprint: as `nsl.data.Dataset`'s.
    """

    name: str
    train_images: Tensor
    train_masks: Tensor
    test_images: Tensor
    test_masks: Tensor
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """Classes, the ground included."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height of the images."""
        return int(self.train_images.shape[2])


def _scene(random: np.random.Generator, digits: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """One image float [3, size, size] in 0..1 and its mask uint8 [size, size]."""
    corner, other = random.uniform(0, 0.6, (2, 3))
    ramp = np.linspace(0, 1, size)[None, :, None] if random.random() < 0.5 else np.linspace(0, 1, size)[None, None, :]
    image = corner[:, None, None] * (1 - ramp) + other[:, None, None] * ramp
    image = np.broadcast_to(image, (3, size, size)) + random.normal(0, 0.05, (3, size, size))
    canvas = torch.from_numpy(np.ascontiguousarray(image))
    mask = torch.full((size, size), GROUND, dtype=torch.uint8, device="cpu")
    for _ in range(random.integers(FEWEST, MOST + 1)):
        which = int(random.integers(len(digits)))
        side = round(size * random.uniform(SMALLEST, LARGEST))
        ink = interpolate(digits[which][None, None], size=(side, side), mode="bilinear", align_corners=False)[0, 0]
        top, left = (int(random.integers(0, size - side + 1)) for _ in range(2))
        colour = torch.from_numpy(random.uniform(0.6, 1, 3))
        place = (slice(top, top + side), slice(left, left + side))
        canvas[(slice(None), *place)] = canvas[(slice(None), *place)] * (1 - ink) + colour[:, None, None] * ink
        mask[place] = torch.where(ink > INK, int(labels[which]) + 1, mask[place].long()).to(torch.uint8)
    return canvas.clamp(0, 1), mask


def _scenes(
    random: np.random.Generator, digits: Tensor, labels: Tensor, size: int, count: int
) -> tuple[Tensor, Tensor]:
    made = [_scene(random, digits, labels, size) for _ in range(count)]
    images = torch.stack([image for image, _ in made])
    return (images * 255).round().to(torch.uint8), torch.stack([mask for _, mask in made])


def _split(name: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> SegmentationSet:
    return SegmentationSet(name, *train, *test, CLASS_NAMES, fingerprint(name, CLASS_NAMES, (*train, *test)))


def load_digit_scenes(
    image_size: int = 32, train: int = 1000, test: int = 200, seed: int = 0, validation: int | None = None
) -> SegmentationSet:
    """Render the set.

    Args:
        image_size: height and width, at least 24, a multiple of 4 (two poolings).
        train, test: numbers of scenes.
        seed: of all of them.
        validation: so many further scenes of the training digits stand in place of the test scenes.

    Raises:
        DataError: an impossible value, or scikit-learn is missing.
    """
    if image_size < 24 or image_size % 4:
        raise DataError(f"digit_scenes: image_size must be a multiple of 4 of at least 24, got {image_size}.")
    if min(train, test, 1 if validation is None else validation) < 1:
        raise DataError(
            f"digit_scenes: train, test and validation must be at least 1, got {train}, {test} and {validation}."
        )
    from nsl.data.digits import load_digits

    source = load_digits(image_size=16)
    ink = source.train_images[:, 0].double() / 255
    random = np.random.Generator(np.random.PCG64(seed))
    first = _scenes(random, ink, source.train_labels, image_size, train)
    if validation is not None:
        return _split("digit_scenes", first, _scenes(random, ink, source.train_labels, image_size, validation))
    random = np.random.Generator(np.random.PCG64([seed, 1]))
    second = _scenes(random, source.test_images[:, 0].double() / 255, source.test_labels, image_size, test)
    return _split("digit_scenes", first, second)


def load_segmentation(name: str, **options: Any) -> SegmentationSet:
    """Load a segmentation set: "digit_scenes" (`load_digit_scenes`).

    Raises:
        DataError: unknown name or option, or an impossible value.
    """
    found: SegmentationSet = load_entry(SEGMENTATION, name, options)
    return found
