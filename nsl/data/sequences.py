"""Sequences for recurrent networks: handwritten digits read row by row, and the adding problem.

Sources: Le, Jaitly, Hinton, A Simple Way to Initialize Recurrent Networks of Rectified Linear Units, 2015 (digits as
sequences; the adding problem with one mark in each half); Hochreiter, Schmidhuber, Long Short-Term Memory, 1997 (the
adding problem).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nsl.data.catalogue import SEQUENCES
from nsl.data.dataset import DataError, fingerprint
from nsl.data.loading import load_entry


@dataclass(frozen=True, eq=False)
class SequenceSet:
    """Sequences of one length with a class or a number each.

    Attributes:
        name: of the set.
        train_inputs, test_inputs: float32 [N, T, C].
        train_targets, test_targets: int64 [N] classes, or float32 [N] numbers.
        num_classes: classes; 0: the targets are numbers.
        fingerprint: as `nsl.data.Dataset`'s.
    """

    name: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    num_classes: int
    fingerprint: str

    @property
    def channels(self) -> int:
        """C."""
        return int(self.train_inputs.shape[2])

    @property
    def length(self) -> int:
        """T."""
        return int(self.train_inputs.shape[1])


def _made(name: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int) -> SequenceSet:
    mark = fingerprint(name, [str(classes)], (*train, *test))
    return SequenceSet(name, *train, *test, classes, mark)


def load_digit_rows(image_size: int = 16) -> SequenceSet:
    """The digits of `nsl.data.load("digits")`, one row of pixels a step: T = C = image_size, values 0..1."""
    from nsl.data.digits import load_digits

    images = load_digits(image_size=image_size)

    def rows(pixels: Tensor) -> Tensor:
        return pixels[:, 0].float() / 255

    return _made(
        "digit_rows",
        (rows(images.train_images), images.train_labels),
        (rows(images.test_images), images.test_labels),
        images.num_classes,
    )


def load_adding(length: int = 30, train: int = 4000, test: int = 1000, seed: int = 0) -> SequenceSet:
    """The adding problem: C = 2, a number in [0, 1) and a mark at every step; one mark is in each half of the sequence.

    The target is the sum of the two marked numbers: mean 1, variance 1/6.

    Args:
        length: T, at least 2.
        train, test: numbers of sequences.
        seed: of all of them.

    Raises:
        DataError: a number is too small.
    """
    if length < 2 or train < 1 or test < 1:
        raise DataError(f"adding: length must be at least 2, train and test at least 1, got {length}, {train}, {test}.")
    random = np.random.Generator(np.random.PCG64(seed))
    count = train + test
    values = random.random((count, length), dtype=np.float32)
    marks = np.zeros_like(values)
    rows = np.arange(count)
    marks[rows, random.integers(0, length // 2, count)] = 1
    marks[rows, random.integers(length // 2, length, count)] = 1
    inputs = torch.from_numpy(np.stack([values, marks], 2))
    targets = torch.from_numpy((values * marks).sum(1))
    return _made("adding", (inputs[:train], targets[:train]), (inputs[train:], targets[train:]), 0)


def hold_out(whole: SequenceSet, validation: int) -> SequenceSet:
    """The set whose last training sequences, so many, stand in place of the test sequences.

    Raises:
        DataError: validation is below 1 or leaves no training sequence.
    """
    count = len(whole.train_inputs)
    if not 1 <= validation < count:
        raise DataError(f"{whole.name}: validation must be from 1 to {count - 1}, got {validation}.")
    split = count - validation
    train = (whole.train_inputs[:split], whole.train_targets[:split])
    held = (whole.train_inputs[split:], whole.train_targets[split:])
    return _made(whole.name, train, held, whole.num_classes)


def load_sequences(name: str, **options: Any) -> SequenceSet:
    """Load a set of sequences.

    Args:
        name: "digit_rows" (`load_digit_rows`) or "adding" (`load_adding`).
        options: those of the set, and `validation`: so many training sequences stand in place of the test ones.

    Raises:
        DataError: unknown name or option, or an impossible value.
    """
    found: SequenceSet = load_entry(SEQUENCES, name, options, hold_out=hold_out)
    return found
