"""Facts of the data sets, known without having them or torch: how they are written, how large they are."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any


def _catalogue_alone(name: str = "nsl.data.catalogue") -> None:
    """Load the catalogue's file as the module it is, without the packages above it: those import torch."""
    package = find_spec("nsl")
    assert package is not None
    assert package.origin is not None
    spec = spec_from_file_location(name, Path(package.origin).parent / "data" / "catalogue.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


if "nsl.data.catalogue" not in sys.modules:
    _catalogue_alone()

from nsl.data.catalogue import CATALOGUE, title  # noqa: E402

__all__ = ["CATALOGUE", "Shape", "shape", "title"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a data set.

    ``train`` and ``test`` are numbers of images, of a few-shot set those of base and novel classes; ``classes`` are
    those of the training. ``stored_size`` is the height of the images where they are kept decoded, else 0; ``files``
    the bytes of the original files.
    """

    image_size: int
    classes: int
    train: int
    test: int
    stored_size: int
    files: int = 0

    @property
    def bytes(self) -> int:
        """Disk for the files and, where images are kept decoded, for those."""
        return self.files + 3 * self.stored_size**2 * (self.train + self.test)


def shape(dataset: dict[str, Any]) -> Shape:
    """The sizes of the data set that a profile declares, options included."""
    if dataset["name"] not in CATALOGUE:
        raise ValueError(f"There is no data set {dataset['name']!r}; there are: {', '.join(CATALOGUE)}.")
    entry = CATALOGUE[dataset["name"]]
    size = int(dataset.get("image_size", dataset.get("length", entry.image_size)))
    classes = int(dataset.get("num_classes", entry.classes))

    def images(split: str, usual: int, of: int) -> int:
        each = dataset.get(f"{split}_per_class") or dataset.get("images_per_class")
        return of * int(each) if each else int(dataset.get(split, usual))

    train = images("train", entry.train * classes // entry.classes, classes)
    test = images("test", entry.test * classes // entry.classes, entry.novel or classes)
    return Shape(size, classes, train, test, entry.stored(size), entry.bytes)
