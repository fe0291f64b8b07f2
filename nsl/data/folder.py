"""Images of your own: a folder with one folder of JPEGs and PNGs a class."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from nsl.data.dataset import DataError, Dataset, make_dataset
from nsl.data.files import decode_chunk, is_image
from nsl.folders import expanded
from nsl.numbers import is_number, is_whole

#: What `load_folder` takes beside the folder.
OPTIONS = ("image_size", "test_share", "seed")
#: Names of the folder of test images beside `train`.
_TEST = ("test", "val")


def load_folder(
    folder: str | os.PathLike[str], image_size: int, *, test_share: float = 0.25, seed: int = 0
) -> Dataset:
    """A set of the images in a folder, whole in memory.

    Args:
        folder: with one folder of images a class, or with `train` and `test` (or `val`) that have those.
        image_size: height and width: the shorter side is brought to it and the central square cut out.
        test_share: of every class's images without such a split, above 0 and below 1: at least one is a test image and
            one trained. Which ones, `seed` says.

    Raises:
        DataError: there is no such folder, a class has too few images, a file is no image, or an argument is out of
            range.
    """
    place = expanded(folder)
    if not is_whole(seed, 0):
        raise DataError(f"load_folder: seed must be a whole number from 0 on, got {seed!r}.")
    if not is_number(test_share) or not 0 < test_share < 1:
        raise DataError(f"load_folder: test_share must be above 0 and below 1, got {test_share!r}.")
    train = place / "train"
    if train.is_dir() and any(path.is_dir() for path in train.iterdir()):  # else a class of that name
        tests = [place / name for name in _TEST if (place / name).is_dir()]
        if not tests:
            raise DataError(f"{place} has a folder train and neither test nor val; add one, or name {train} itself.")
        images, labels, names = read_folder(train, image_size)
        test_images, test_labels, test_names = read_folder(tests[0], image_size)
        if names != test_names:
            wrong = sorted(set(names) ^ set(test_names))[0]
            raise DataError(f"{place}: the class {wrong!r} is not both in train and in {tests[0].name}.")
        return make_dataset(place.resolve().name, images, labels, test_images, test_labels, names)
    images, labels, names = read_folder(place, image_size)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(int(seed)), device="cpu")
    tested = torch.zeros(len(labels), dtype=torch.bool, device="cpu")
    for label, name in enumerate(names):
        own = order[labels[order] == label]
        if len(own) < 2:
            raise DataError(f"{place / name} has one image, of which none is left for a test; add another.")
        tested[own[: min(len(own) - 1, max(1, round(test_share * len(own))))]] = True
    return make_dataset(place.resolve().name, images[~tested], labels[~tested], images[tested], labels[tested], names)


def read_folder(folder: str | os.PathLike[str], image_size: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images uint8 [N, 3, S, S], labels int64 [N] and class names of a folder with one folder a class, by their names.

    Raises:
        DataError: there is no such folder, it has no folder of images, a file is no image, or the size is none.
    """
    place = expanded(folder)
    if not is_whole(image_size, 1):
        raise DataError(f"read_folder: image_size must be a whole number of at least 1, got {image_size!r}.")
    if not place.is_dir():
        raise DataError(f"{place} is no folder; name one that has a folder of images a class.")
    classes = {
        path.name: sorted(file for file in path.iterdir() if is_image(file))
        for path in sorted(place.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
    if not classes:
        raise DataError(f"{place} has no folders in it; it must have one folder of images a class.")
    if empty := [name for name, files in classes.items() if not files]:
        raise DataError(f"{place / empty[0]} has no JPEG or PNG files.")
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise DataError("Reading images needs Pillow, which is not installed: pip install pillow.") from None
    files = [file for own in classes.values() for file in own]
    images, reasons = decode_chunk(files, int(image_size))
    for file, reason in zip(files, reasons):
        if reason is not None:
            raise DataError(f"{file} cannot be read as an image ({reason}); remove or replace it.")
    counts = torch.tensor([len(own) for own in classes.values()], device="cpu")
    labels = torch.arange(len(classes), device="cpu").repeat_interleave(counts)
    return torch.from_numpy(images), labels, tuple(classes)
