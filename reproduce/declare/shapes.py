"""How large the data sets are, known without having them: for costs and rehearsals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Sizes of a data set.

    ``train`` and ``test`` are numbers of images, of a few-shot set those of base and novel classes; ``classes`` are
    those of the training. ``stored_size`` is the height of the images as they are kept, ``files`` the bytes of the
    original files.
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
        decoded = 3 * self.stored_size**2 * (self.train + self.test) if self.files else 0
        return self.files + decoded


_GIB = 1 << 30
#: Image size, classes, train and test images, stored size, bytes of the official archives unpacked.
_FIXED = {
    "cifar10": Shape(32, 10, 50_000, 10_000, 0, 185_000_000),
    "cifar100": Shape(32, 100, 50_000, 10_000, 0, 185_000_000),
    "imagenet": Shape(224, 1000, 1_281_167, 50_000, 256, 145 * _GIB),
    "tiny_imagenet": Shape(64, 200, 100_000, 10_000, 64, 480_000_000),
    "tiny_imagenet_25": Shape(64, 25, 5_000, 1_250, 64, 30_000_000),
    "cifar_fs": Shape(32, 64, 38_400, 12_000, 0, 185_000_000),
    "mini_imagenet": Shape(84, 64, 38_400, 12_000, 0, 7 * _GIB),
    "tiny_imagenet_25_fs": Shape(64, 14, 3_500, 1_250, 0, 30_000_000),
}
#: Sets that are made or bundled; classes, and images of each for training and testing, unless the options say more.
_MADE = {"digits": (10, 144, 36, 16), "glyphs": (100, 100, 20, 32)}
#: All of them.
KNOWN = (*_FIXED, *_MADE, "glyphs_fs")


def shape(dataset: dict[str, Any]) -> Shape:
    """The sizes of the data set that a profile declares, options included."""
    name = dataset["name"]
    if name == "glyphs_fs":
        count, size = int(dataset.get("images_per_class") or 60), int(dataset.get("image_size", 32))
        return Shape(size, 64, 64 * count, 20 * count, size)
    if name in _MADE:
        classes, train, test, size = _MADE[name]
        classes, size = int(dataset.get("num_classes", classes)), int(dataset.get("image_size", size))
        train, test = int(dataset.get("train_per_class") or train), int(dataset.get("test_per_class") or test)
        return Shape(size, classes, classes * train, classes * test, size)
    found = _FIXED[name]
    size = int(dataset.get("image_size", found.image_size))
    train = found.classes * int(dataset["train_per_class"]) if dataset.get("train_per_class") else found.train
    test = found.classes * int(dataset["test_per_class"]) if dataset.get("test_per_class") else found.test
    stored = found.stored_size * size // found.image_size
    return Shape(size, found.classes, train, test, stored, found.files)
