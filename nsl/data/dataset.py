"""An image classification set that lives in memory, its fingerprint, and class-balanced subsets of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor


class DataError(ValueError):
    """The data, or what was asked of them, is wrong; the message is one sentence that says what to do."""


def check_types(what: str, images: Any, labels: Any, class_names: Sequence[Any]) -> None:
    """Raise `DataError` unless these are tensors and texts at all, as `fingerprint` needs them."""
    for name, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise DataError(f"{what}{name} must be a tensor, got {type(value).__name__}; use torch.as_tensor.")
    if not all(isinstance(name, str) for name in class_names):
        raise DataError(f"class names must be texts, got {list(class_names)!r:.60}.")


def check_labelled(what: str, images: Tensor, labels: Tensor, class_names: Sequence[str]) -> None:
    """Raise `DataError` unless these are labelled images of these classes; `what` stands before "images"."""
    check_types(what, images, labels, class_names)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"{what}images must be uint8 [N, 3, H, W], got {images.dtype} {list(images.shape)}.")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise DataError(f"{what}labels must be int64 [{len(images)}], got {labels.dtype} {list(labels.shape)}.")
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0 or high >= len(class_names):
        raise DataError(
            f"{what}label {low if low < 0 else high} is outside 0 to {len(class_names) - 1}, the labels of the "
            f"{len(class_names)} class names; number the classes from 0."
        )


def check_dataset(dataset: Any) -> None:
    """Raise `TypeError` unless it is one."""
    if not isinstance(dataset, Dataset):
        got = type(dataset).__name__
        raise TypeError(f"dataset must be a Dataset, got {got}; make one of your images by nsl.data.make_dataset")


def moments_of(
    total: Sequence[int], squares: Sequence[int], pixels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel, in units of 0..1, of so many values 0..255 with these sums."""
    means = [value / pixels for value in total]
    variances = [value / pixels - mean * mean for value, mean in zip(squares, means)]
    return tuple(mean / 255 for mean in means), tuple(max(value, 0.0) ** 0.5 / 255 for value in variances)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A set of labelled images, all of one size, split into train and test.

    N and M are the numbers of train and test images, H and W their height and width.

    Attributes:
        name: the name `nsl.data.load` knows the set by.
        train_images: uint8 [N, 3, H, W], channels red, green, blue, values 0..255.
        train_labels: int64 [N], values 0 .. num_classes - 1.
        test_images: uint8 [M, 3, H, W].
        test_labels: int64 [M].
        class_names: one name a class, in label order.
        fingerprint: 16 hexadecimal digits that change when anything above changes (see `fingerprint`).
        crop_size: height and width of the network's input, when it is cut out of larger stored images; else None.
        moments: mean and std of the train images where they are known already; else None, and they are computed.

    Raises:
        DataError: a tensor has the wrong type, shape or label range.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    fingerprint: str
    crop_size: int | None = None
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            check_labelled(f"{self.name}: {split} ", images, labels, self.class_names)
            if len(images) == 0:
                raise DataError(f"{self.name}: the {split} split has no images.")
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise DataError(
                f"{self.name}: train images are {list(self.train_images.shape[1:])}, "
                f"test images {list(self.test_images.shape[1:])}; they must have one size."
            )
        if self.crop_size is not None and not 0 < self.crop_size <= min(self.train_images.shape[2:]):
            raise DataError(
                f"{self.name}: crop_size must be 1 to {min(self.train_images.shape[2:])}, got {self.crop_size}."
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, including any without an image."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height of the network's input in pixels: H, or `crop_size` where there is one."""
        return int(self.train_images.shape[2]) if self.crop_size is None else self.crop_size

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if self.moments is not None:
            return self.moments
        # Integer sums: exact, so the same on every machine, thread count and chunk size.
        total, squares = torch.zeros(2, 3, dtype=torch.int64, device="cpu")
        for chunk in self.train_images.split(1024):
            values = chunk.to(torch.int32)
            total += values.sum(dim=(0, 2, 3))
            squares += (values * values).sum(dim=(0, 2, 3))
        return moments_of(total.tolist(), squares.tolist(), self.train_images.numel() // 3)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the train images, one value a channel, in 0..1."""
        return self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation over all pixels of the train images, one value a channel, in units of 0..1."""
        return self._moments[1]


def fingerprint(name: str, class_names: Sequence[str], tensors: Sequence[Tensor]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of names, then each tensor's type, shape and contents."""
    digest = hashlib.sha256("\0".join([name, *class_names]).encode())
    for tensor in tensors:
        digest.update(f"\0{tensor.dtype}{list(tensor.shape)}\0".encode())
        if tensor.numel():  # a view of no bytes is refused
            digest.update(tensor.contiguous().numpy().data.cast("B"))
    return digest.hexdigest()[:16]


def make_dataset(
    name: str,
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    class_names: Sequence[str],
) -> Dataset:
    """The `Dataset` of these parts (shapes and errors as there) with its fingerprint computed."""
    parts = (train_images, train_labels, test_images, test_labels)
    check_types(f"{name}: train ", train_images, train_labels, class_names)
    check_types(f"{name}: test ", test_images, test_labels, class_names)
    return Dataset(name, *parts, tuple(class_names), fingerprint(name, class_names, parts))


def first_per_class(labels: Tensor, count: int, class_names: Sequence[str], what: str) -> Tensor:
    """Indices of the first `count` images of every class, in stored order.

    Args:
        labels: int64 [N].
        count: images wanted of each class, at least 1.
        class_names: one name a class.
        what: names the labels in the error, for example "cifar10 train".

    Returns:
        int64 [num_classes * count], increasing.

    Raises:
        DataError: `count` is below 1, or a class has fewer images.
    """
    if count < 1:
        raise DataError(f"{what}: the number of images per class must be at least 1, got {count}.")
    chosen = []
    for label, class_name in enumerate(class_names):
        where = torch.nonzero(labels == label).flatten()
        if len(where) < count:
            raise DataError(
                f"{what}: {count} images per class were asked for, "
                f"but class {class_name!r} has {len(where)}; ask for at most that many."
            )
        chosen.append(where[:count])
    return torch.cat(chosen).sort().values


def subset(
    dataset: Dataset, train_per_class: int | None = None, test_per_class: int | None = None
) -> Dataset:
    """The first images of every class in stored order; None keeps a split whole.

    The fingerprint is that of the subset.  Raises DataError as `first_per_class`.
    """
    if train_per_class is None and test_per_class is None:
        return dataset

    def part(split: str, images: Tensor, labels: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
        if count is None:
            return images, labels
        keep = first_per_class(labels, count, dataset.class_names, f"{dataset.name} {split}")
        return images[keep], labels[keep]

    train = part("train", dataset.train_images, dataset.train_labels, train_per_class)
    test = part("test", dataset.test_images, dataset.test_labels, test_per_class)
    made = make_dataset(dataset.name, *train, *test, dataset.class_names)
    return replace(made, crop_size=dataset.crop_size)


#: Seed of the choice of the images that are held out.
_HOLD_OUT_SEED = 0
#: Bytes of training images beyond which none are held out: both parts are copied into memory, where ILSVRC-2012 would
#: take 235 GiB. Tiny-ImageNet takes 1.1 GiB.
HOLD_OUT_BYTES = 16 << 30


def hold_out(dataset: Dataset, count: int) -> Dataset:
    """A validation split: `count` training images take the place of the test images, which are left out altogether.

    Args:
        dataset: its test images are not looked at.
        count: images to hold out, the same ones every time: the first of a fixed shuffle.

    Returns:
        The set with N - count training and `count` "test" images, with a fingerprint of its own.

    Raises:
        DataError: `count` is below 1 or leaves no training image, or the training images have more than
            `HOLD_OUT_BYTES` bytes.
    """
    total, size = len(dataset.train_images), dataset.train_images.numel()
    if size > HOLD_OUT_BYTES:
        raise DataError(
            f"{dataset.name}: holding images out would copy {size / 2**30:.0f} GiB of training images into memory, "
            f"more than the {HOLD_OUT_BYTES >> 30} GiB that are allowed; take fewer images by train_per_class."
        )
    if not 1 <= count < total:
        raise DataError(
            f"{dataset.name}: validation must be 1 to {total - 1} of the {total} training images, got {count}."
        )
    order = torch.from_numpy(np.random.Generator(np.random.PCG64(_HOLD_OUT_SEED)).permutation(total))
    held, kept = order[:count].sort().values, order[count:].sort().values
    images, labels = dataset.train_images, dataset.train_labels
    parts = (images[kept], labels[kept], images[held], labels[held])
    made = make_dataset(dataset.name, *parts, dataset.class_names)
    return replace(made, crop_size=dataset.crop_size)
