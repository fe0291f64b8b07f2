"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official binary layout.

A file is a sequence of records: one label byte (CIFAR-10) or a coarse and a fine label byte (CIFAR-100), then
3072 bytes, the 32x32 red, green and blue planes in row-major order.  CIFAR-100's class is the fine label.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nsl.data.catalogue import CATALOGUE, Layout
from nsl.data.dataset import DataError, Dataset, make_dataset, subset
from nsl.data.download import fetch, unpack
from nsl.data.known import check_known

OFFICIAL_ADDRESS = "https://www.cs.toronto.edu/~kriz/"
_PIXELS = 3 * 32 * 32


def load_cifar(
    name: str,
    root: Path,
    *,
    download: bool = True,
    address: str = OFFICIAL_ADDRESS,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
) -> Dataset:
    """CIFAR-10 (`name` "cifar10") or CIFAR-100 with its 100 fine labels ("cifar100").

    Args:
        name: "cifar10" or "cifar100".
        root: the folder that contains `cifar-10-batches-bin` or `cifar-100-binary`, or that folder itself.
        download: fetch the official archive into `root` when none of the set's files are there. One that lies there
            already is unpacked instead.
        address: where the archives lie, ending in a slash.
        train_per_class, test_per_class: keep only the first images of every class.

    Returns:
        50,000 train and 10,000 test images [N, 3, 32, 32] in the files' order.

    Raises:
        DataError: files missing, of the wrong size, with wrong labels or blank images, or the download failed.
    """
    layout = _layout(name)
    folder = _find(name, layout, root, download, address)
    names = _read_names(folder / layout.names_file, layout.num_classes)
    train_images, train_labels = _read_split(folder, layout.train, layout.label_ranges)
    test_images, test_labels = _read_split(folder, layout.test, layout.label_ranges)
    if names_digest(names) != layout.names_digest:
        warnings.warn(f"The class names of {name} are not those of the published set.", stacklevel=2)
    for split, labels, images in (("train", train_labels, train_images), ("test", test_labels, test_images)):
        check_known(name, split, labels.numpy(), images.view(len(images), -1).numpy(), layout.digests[split])
    whole = make_dataset(name, train_images, train_labels, test_images, test_labels, names)
    return subset(whole, train_per_class, test_per_class)


def _layout(name: str) -> Layout:
    layout = CATALOGUE[name].layout
    assert layout is not None
    return layout


def _find(name: str, layout: Layout, root: Path, download: bool, address: str) -> Path:
    """The folder that has all of the set's files, downloading them when it has none."""
    # Someone who points at one set's own folder still means its parent when another set is wanted.
    base = root.parent if root.name in {known.layout.folder for known in CATALOGUE.values() if known.layout} else root
    candidates = [root, base / layout.folder]
    for folder in candidates:
        missing = [file for file in layout.files if not (folder / file).is_file()]
        if not missing:
            return folder
        if len(missing) < len(layout.files):
            raise DataError(
                f"{folder} has only a part of {name}: {', '.join(missing)} missing; "
                f"put back the whole official binary set, or remove the folder to have it downloaded."
            )
    target = base / layout.folder
    for place in (root, base):
        if (place / layout.archive.file).is_file():
            unpack(place / layout.archive.file, layout.archive, target, layout.files)
            return target
    pickled = next((base / other for other in layout.pickled if (base / other).exists()), None)
    told = "" if pickled is None else (
        f" {pickled} is the Python version, whose pickles could run any code and are not read; put the official binary "
        f"version {address}{layout.archive.file} beside it."
    )
    if not download:
        raise DataError(
            f"{name} is not under {root}: expected the folder {layout.folder} there "
            f"with {', '.join(layout.files)} (the official binary version, {address}{layout.archive.file}).{told}"
        )
    try:
        fetch(layout.archive, target, layout.files, address)
    except DataError as error:
        raise DataError(f"{error}{told}") from None
    return target


def names_digest(names: Sequence[str]) -> str:
    """Of class names in the order of their labels."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _read_names(path: Path, count: int) -> list[str]:
    try:
        names = path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text file of class names; put back the official one.") from None
    if len(names) != count:
        raise DataError(f"{path} has {len(names)} class names, expected {count}; put back the official one.")
    return names


def _read_split(folder: Path, files: dict[str, int], label_ranges: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N] of the files, one after the other."""
    total = sum(files.values())
    images = np.empty((total, _PIXELS), np.uint8)
    labels = np.empty(total, np.int64)
    start = 0
    for file, count in files.items():
        records = _read_records(folder / file, count, label_ranges)
        images[start : start + count] = records[:, len(label_ranges) :]
        labels[start : start + count] = records[:, len(label_ranges) - 1]
        start += count
    return torch.from_numpy(images).view(total, 3, 32, 32), torch.from_numpy(labels)


def _read_records(path: Path, count: int, label_ranges: tuple[int, ...]) -> np.ndarray:
    """Checked records of one file, uint8 [count, number of label bytes + 3072]."""
    record_bytes = len(label_ranges) + _PIXELS
    try:
        found = path.stat().st_size
        data = np.fromfile(path, np.uint8) if found == count * record_bytes else None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    if data is None or data.size != count * record_bytes:
        problem = "truncated" if found < count * record_bytes else "too long"
        raise DataError(
            f"{path} is {problem}: expected {count * record_bytes} bytes "
            f"({count} records of {record_bytes}), found {found}; put back the official file."
        )
    records = data.reshape(count, record_bytes)
    for byte, values in enumerate(label_ranges):
        bad = np.flatnonzero(records[:, byte] >= values)
        if bad.size:
            kind = "" if len(label_ranges) == 1 else ("coarse ", "fine ")[byte]
            raise DataError(
                f"{path}: record {bad[0]} (counting from 0) has {kind}label {records[bad[0], byte]}, "
                f"expected 0 to {values - 1}; put back the official file."
            )
    return records
