"""The data sets: `load(name)` returns a `Dataset`, whole in memory or memory-mapped from a packed cache."""

from __future__ import annotations

import os
from typing import Any

from nsl.data import catalogue
from nsl.data.augment import centre_crop, crop_flip, normalise, resized_crop, window_flip
from nsl.data.dataset import DataError, Dataset, fingerprint, hold_out, make_dataset, subset
from nsl.data.episodes import Episode, EpisodeSampler
from nsl.data.fewshot import FEWSHOT_NAMES, FewShotData, ImageSet, load_fewshot, split_classes
from nsl.data.folder import load_folder, read_folder
from nsl.data.loading import load_entry
from nsl.data.root import data_root

__all__ = [
    "FEWSHOT_NAMES",
    "NAMES",
    "DataError",
    "Dataset",
    "Episode",
    "EpisodeSampler",
    "FewShotData",
    "ImageSet",
    "catalogue",
    "centre_crop",
    "crop_flip",
    "data_root",
    "fingerprint",
    "hold_out",
    "load",
    "load_fewshot",
    "load_folder",
    "make_dataset",
    "normalise",
    "read_folder",
    "resized_crop",
    "split_classes",
    "subset",
    "window_flip",
]

#: What `load` knows.
NAMES = catalogue.names(catalogue.IMAGES)


def load(
    name: str, root: str | os.PathLike[str] | None = None, *, download: bool = True, **options: Any
) -> Dataset:
    """Load a data set.

    Args:
        name: "digits" (handwritten, 10 classes), "glyphs" (rendered characters, many classes), "cifar10",
            "cifar100", "imagenet" (ILSVRC-2012), "tiny_imagenet" (200 classes) or "tiny_imagenet_25".
        root: folder of the data, see `data_root`; a folder that was named must exist for every set.
        download: fetch missing CIFAR files from the official address.
        options: for every set `train_per_class` and `test_per_class`, the number of images of each class (the
            first ones; None or absent: all, of the unlimited glyphs as many as `load_glyphs` says).
            `validation`: so many training images, always the same, stand in place of the test images (see `hold_out`).
            digits: `image_size` (16).  glyphs: `num_classes` (100), `seed` (0) and `image_size` (32), `plain` (False).
            The ImageNet sets: `image_size` (224, or 64 for the tiny ones), see `nsl.data.imagenet`.

    Returns:
        The set, train and test images uint8 [N, 3, H, W]; the ImageNet sets' are memory-mapped.

    Raises:
        DataError: unknown name or option, bad option value, missing folder, missing or damaged files, or a
            failed download.
    """
    found: Dataset = load_entry(catalogue.IMAGES, name, options, root, download, hold_out)
    return found
