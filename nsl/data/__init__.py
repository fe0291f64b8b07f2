"""The data sets: `load(name)` returns a `Dataset`, whole in memory or memory-mapped from a packed cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nsl.data.augment import centre_crop, crop_flip, normalise, resized_crop, window_flip
from nsl.data.dataset import DataError, Dataset, check_names, check_option, fingerprint, hold_out, make_dataset, subset
from nsl.data.episodes import Episode, EpisodeSampler
from nsl.data.fewshot import FEWSHOT_NAMES, FewShotData, ImageSet, load_fewshot, split_classes
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
    "centre_crop",
    "crop_flip",
    "data_root",
    "fingerprint",
    "hold_out",
    "load",
    "load_fewshot",
    "make_dataset",
    "normalise",
    "resized_crop",
    "split_classes",
    "subset",
    "window_flip",
]

# The options of every set; the two numbers of images per class, and the validation split, are common to all.
_COMMON = ("train_per_class", "test_per_class", "validation")
_OPTIONS: dict[str, tuple[str, ...]] = {
    "digits": ("image_size", *_COMMON),
    "glyphs": ("num_classes", *_COMMON, "seed", "image_size", "plain"),
    "cifar10": _COMMON,
    "cifar100": _COMMON,
    "imagenet": ("image_size", *_COMMON),
    "tiny_imagenet": ("image_size", *_COMMON),
    "tiny_imagenet_25": ("image_size", *_COMMON),
}
NAMES = tuple(_OPTIONS)


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
    if name not in _OPTIONS:
        raise DataError(f"Unknown data set {name!r}; known are {', '.join(NAMES)}.")
    check_names(f"Data set {name!r}", options, _OPTIONS[name])
    for option, value in options.items():
        if not (option in _COMMON and value is None):
            check_option(f"Data set {name!r}", option, value)
    validation = options.pop("validation", None)
    loaded = _load(name, data_root(root), download, options)
    return loaded if validation is None else hold_out(loaded, validation)


def _load(name: str, folder: Path, download: bool, options: dict[str, Any]) -> Dataset:
    if name == "digits":
        from nsl.data.digits import load_digits

        return load_digits(**options)
    if name == "glyphs":
        from nsl.data.glyphs import load_glyphs

        return load_glyphs(**options)
    if "imagenet" in name:
        from nsl.data.imagenet import load_imagenet

        return load_imagenet(name, folder, **options)
    from nsl.data.cifar import load_cifar

    return subset(load_cifar(name, folder, download=download), **options)
