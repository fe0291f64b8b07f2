"""Known contents of published sets: their images with labels, as a set, whatever the order of the files."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
from numpy.typing import NDArray

from nsl.data.catalogue import CATALOGUE
from nsl.data.dataset import DataError, Dataset

#: So many images of one colour in a split are damage: the published sets have none.
BLANK = 50


def record_digest(labels: NDArray[np.int64], images: NDArray[np.uint8]) -> str:
    """32 hexadecimal digits of a set of labelled images, equal for every order of them.

    Args:
        labels: int64 [N], 0 to 255.
        images: uint8 [N, bytes an image].
    """
    records = np.concatenate([labels.astype(np.uint8)[:, None], images], axis=1)
    each = sorted(hashlib.blake2b(row.data, digest_size=16).digest() for row in records)
    return hashlib.blake2b(b"".join(each), digest_size=16).hexdigest()


def check_known(name: str, split: str, labels: NDArray[np.int64], images: NDArray[np.uint8], digest: str) -> None:
    """Compare a split with the published one, whose `record_digest` is `digest`; warn where it has other images.

    Raises:
        DataError: many images are of one value throughout, as after a lost block of a disk.
    """
    blank = int((images == images[:, :1]).all(1).sum())
    if blank >= BLANK:
        raise DataError(f"{name}: {blank} {split} images have one value in all pixels; put back the official files.")
    if record_digest(labels, images) != digest:
        warnings.warn(
            f"The {split} images of {name} are not those of the published set; numbers are of other data.",
            stacklevel=2,
        )


def is_published(data: Dataset) -> bool:
    """Whether a set holds all images of the published one, in whatever order; False of sets whose digests are unknown.

    A trained network errs on them as often in every order, while `Dataset.fingerprint`, which a training depends on,
    is another in each.
    """
    entry = CATALOGUE.get(data.name)
    if entry is None or entry.layout is None:
        return False
    splits = {"train": (data.train_labels, data.train_images), "test": (data.test_labels, data.test_images)}
    return all(
        record_digest(labels.numpy(), images.reshape(len(images), -1).numpy()) == entry.layout.digests[split]
        for split, (labels, images) in splits.items()
    )
