"""Sets for few-shot learning: their classes are split into base, validation and novel ones.

    data = load_fewshot("cifar_fs", root)       # CIFAR-FS, Mini-ImageNet, Tiny-ImageNet-25, glyphs
    data = split_classes("mine", images, labels, names, {"base": [...], "validation": [...], "novel": [...]})
"""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nsl.data.catalogue import CATALOGUE, FEWSHOT, names
from nsl.data.dataset import DataError, check_labelled, fingerprint, first_per_class
from nsl.data.files import annotated_files, is_image, opened_image, text_of
from nsl.data.loading import load_entry
from nsl.data.splits import CIFAR_FS, MINI_IMAGENET, PARTS

#: What `load_fewshot` knows.
FEWSHOT_NAMES = names(FEWSHOT)
#: Images a class of Mini-ImageNet, and their size (Vinyals et al., NeurIPS 2016).
MINI_IMAGES, MINI_SIZE = 600, CATALOGUE["mini_imagenet"].image_size


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one part of the classes.

    Attributes:
        name: of the set and the part, for messages.
        images: uint8 [N, 3, H, W].
        labels: int64 [N], values 0 .. len(class_names) - 1.
        class_names: one name a class, in label order.

    Raises:
        DataError: images or labels of another type or shape, a label out of range, or a class name given twice.
    """

    name: str
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        _check(self.name, self.images, self.labels, self.class_names)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        return int(self.images.shape[-1])


def _check(name: str, images: Tensor, labels: Tensor, class_names: Sequence[str]) -> None:
    """Raise `DataError` unless these are labelled images of these classes, each with a name of its own."""
    check_labelled(f"{name}: ", images, labels, class_names)
    twice = next((item for item, count in Counter(class_names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{name}: class name {twice!r} is given twice; give every class a name of its own.")


@dataclass(frozen=True, eq=False)
class FewShotData:
    """A set whose classes are split in three; no class is in two parts.

    Attributes:
        name: of the set.
        base, validation, novel: the parts, each with labels from 0.
        fingerprint: changes when any image, label, class name or the split changes.
    """

    name: str
    base: ImageSet
    validation: ImageSet
    novel: ImageSet
    fingerprint: str

    @property
    def image_size(self) -> int:
        return self.base.image_size


def split_classes(
    name: str,
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    split: Mapping[str, Iterable[str]],
) -> FewShotData:
    """A few-shot set from any labelled images and a split of their class names.

    Args:
        name: of the set.
        images: uint8 [N, 3, H, W].
        labels: int64 [N], values 0 .. len(class_names) - 1.
        class_names: one different name a class.
        split: class names by part: "base", "validation" and "novel". Classes in no part are left out.

    Raises:
        DataError: a part is missing, a class is unknown, in two parts, named twice or without images, or a label is
            outside 0 .. len(class_names) - 1.
    """
    _check(name, images, labels, class_names)
    if set(split) != set(PARTS):
        raise DataError(f"{name}: the split must have the parts {', '.join(PARTS)}, got {', '.join(sorted(split))}.")
    number = {class_name: label for label, class_name in enumerate(class_names)}
    seen: dict[str, str] = {}
    parts: dict[str, ImageSet] = {}
    for part in PARTS:
        chosen = tuple(split[part])
        if not chosen:
            raise DataError(f"{name}: the part {part!r} of the split has no classes.")
        relabel = torch.full((len(class_names) + 1,), -1, dtype=torch.int64, device="cpu")
        for label, class_name in enumerate(chosen):
            if class_name not in number:
                raise DataError(f"{name}: the split names the class {class_name!r}, which the set does not have.")
            if class_name in seen:
                raise DataError(f"{name}: class {class_name!r} is in two parts, {seen[class_name]} and {part}.")
            seen[class_name] = part
            relabel[number[class_name]] = label
        new = relabel[labels]
        where = torch.nonzero(new >= 0).flatten()
        counts = torch.bincount(new[where], minlength=len(chosen))
        if int(counts.min()) == 0:
            raise DataError(f"{name}: class {chosen[int(counts.argmin())]!r} has no images.")
        parts[part] = ImageSet(f"{name} ({part} classes)", images[where], new[where], chosen)
    names = [f"{part}/{class_name}" for part in PARTS for class_name in parts[part].class_names]
    tensors = [tensor for part in PARTS for tensor in (parts[part].images, parts[part].labels)]
    mark = fingerprint(name, names, tensors)
    return FewShotData(name, parts["base"], parts["validation"], parts["novel"], mark)


def load_fewshot(
    name: str, root: str | os.PathLike[str] | None = None, *, download: bool = True, **options: Any
) -> FewShotData:
    """Load a few-shot set into memory.

    Args:
        name: "cifar_fs" (CIFAR-100 split 64 / 16 / 20, all 600 images a class), "mini_imagenet" (see
            `load_mini_imagenet`), "tiny_imagenet_25_fs" (14 / 6 / 5 of Mini-ImageNet's classes, 64x64) or "glyphs_fs"
            (rendered characters, 64 / 16 / 20).
        root: folder of the data, see `nsl.data.data_root`.
        download: fetch missing CIFAR files.
        options: images_per_class (None: all; glyphs: 60) and image_size (glyphs: 32; mini_imagenet and
            tiny_imagenet_25_fs: resized on reading); glyphs also seed (0) and plain (False).

    Raises:
        DataError: unknown name or option, or missing, damaged or incomplete data.
    """
    found: FewShotData = load_entry(FEWSHOT, name, options, root, download)
    return found


def load_cifar_fs(root: Path, *, download: bool = True, images_per_class: int | None = None) -> FewShotData:
    """CIFAR-100's train and test images, its classes split 64 / 16 / 20 (Bertinetto et al., ICLR 2019)."""
    from nsl.data.cifar import load_cifar

    whole = load_cifar("cifar100", root, download=download)
    images = torch.cat([whole.train_images, whole.test_images])
    labels = torch.cat([whole.train_labels, whole.test_labels])
    if images_per_class is not None:
        keep = first_per_class(labels, images_per_class, whole.class_names, "cifar_fs")
        images, labels = images[keep], labels[keep]
    return split_classes("cifar_fs", images, labels, whole.class_names, CIFAR_FS)


def load_glyphs_fs(
    *, images_per_class: int | None = None, image_size: int = 32, seed: int = 0, plain: bool = False
) -> FewShotData:
    """The first hundred rendered characters, 64 / 16 / 20, with the options of `load_glyphs` (60 images a class)."""
    from nsl.data.glyphs import load_glyphs

    count = 60 if images_per_class is None else images_per_class
    drawn = load_glyphs(
        num_classes=100, train_per_class=count, test_per_class=1, seed=seed, image_size=image_size, plain=plain
    )
    # Taken in turns, so that every part has digits, letters and symbols; 64 / 16 / 20 of each hundred.
    turns = ["novel" if i % 5 == 4 else "validation" if i % 6 == 1 else "base" for i in range(100)]
    turns = _with_counts(turns, {"base": 64, "validation": 16, "novel": 20})
    split = {part: [c for c, turn in zip(drawn.class_names, turns) if turn == part] for part in PARTS}
    return split_classes("glyphs_fs", drawn.train_images, drawn.train_labels, drawn.class_names, split)


def _with_counts(turns: list[str], wanted: dict[str, int]) -> list[str]:
    """The same turns with the last ones of a part that is too large given to base, or taken from it."""
    turns = list(turns)
    for part in ("validation", "novel"):
        surplus = turns.count(part) - wanted[part]
        source, target = (part, "base") if surplus > 0 else ("base", part)
        places = [i for i, turn in enumerate(turns) if turn == source]
        for i in places[len(places) - abs(surplus) :] if surplus else []:
            turns[i] = target
    return turns


def _folder(name: str, root: Path) -> Path:
    return next((root / place for place in CATALOGUE[name].folders if (root / place).is_dir()), root)


def load_mini_imagenet(root: Path, image_size: int = MINI_SIZE, images_per_class: int | None = None) -> FewShotData:
    """Mini-ImageNet in the split of Ravi and Larochelle (ICLR 2017): 64 / 16 / 20 classes of 600 images.

    Args:
        root: a folder with (or that is) `mini-imagenet`, in one of two forms:

            * one folder a class, named by its wnid, at any depth (`train/n01532829/*.jpg`), of already cropped
              images; every class must have 600;
            * ImageNet's folders a class, and beside them `train.csv`, `val.csv` and `test.csv` of the split
              (columns filename,label). A name such as n0153282900000005.jpg stands for the image whose number is
              the fifth of its class, which is how these files count; where a file of that very name exists (all
              images in one folder), it is taken.
        image_size: height and width; images of another size are resized (area average).
        images_per_class: keep only the first ones.

    Raises:
        DataError: a class is missing, or a class has not 600 images.
    """
    folder = _folder("mini_imagenet", root)
    lists = [folder / f"{part}.csv" for part in ("train", "val", "test")]
    if all(path.is_file() for path in lists):
        files = _listed(folder, lists)
    else:
        files = _class_folders(folder, [wnid for part in PARTS for wnid in MINI_IMAGENET[part]])
    if not files and (pickles := sorted(folder.glob("mini-imagenet-cache-*.pkl"))):
        raise DataError(
            f"{pickles[0]} is a pickle, which could run any code and is not read; put there one folder of images a "
            "class, named by its wnid, or ImageNet's folders and the split's train.csv, val.csv and test.csv."
        )
    for part in PARTS:
        for wnid in MINI_IMAGENET[part]:
            count = len(files.get(wnid, []))
            if count != MINI_IMAGES:
                raise DataError(
                    f"mini_imagenet: class {wnid} ({part}) has {count} images under {folder}, expected "
                    f"{MINI_IMAGES}; complete it, or put train.csv, val.csv and test.csv of the split there."
                )
    return _from_files("mini_imagenet", files, MINI_IMAGENET, image_size, images_per_class)


def _listed(folder: Path, lists: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by wnid as the csv files of the split name them."""
    found: dict[str, list[Path]] = {}
    ranked: dict[str, list[Path]] = {}
    flat = [folder / "images", folder]
    for path in lists:
        rows = csv.DictReader(text_of(path).split("\n"))
        for row in rows:
            if not {"filename", "label"} <= set(row):
                raise DataError(f"{path} must have the columns filename and label.")
            name, wnid = row["filename"], row["label"]
            if not name or not wnid:
                raise DataError(f"{path}: line {rows.line_num} has no file name or no label.")
            if ".." in Path(name).parts or Path(name).is_absolute() or not re.fullmatch(r"[\w.-]+", wnid):
                raise DataError(f"{path}: line {rows.line_num} names a file or a class outside {folder}.")
            direct = next((base / name for base in flat if (base / name).is_file()), None)
            if direct is None:
                if wnid not in ranked:
                    ranked |= _class_folders(folder, [wnid])
                digits = re.fullmatch(r"n\d{8}(\d{8})\.\w+", name)
                rank = int(digits[1]) if digits else 0
                if not 1 <= rank <= len(ranked.get(wnid, [])):
                    raise DataError(
                        f"{path} names {name}, which is not among the {len(ranked.get(wnid, []))} images of "
                        f"{wnid} under {folder}."
                    )
                direct = ranked[wnid][rank - 1]
            found.setdefault(wnid, []).append(direct)
    return found


def _class_folders(folder: Path, wnids: Sequence[str]) -> dict[str, list[Path]]:
    """Image files by wnid from one folder a class, in the order of their numbers."""
    found: dict[str, list[Path]] = {}
    for wnid in wnids:
        places = [folder / wnid, *(folder / part / wnid for part in ("train", "val", "test", "images"))]
        place = next((p for p in places if p.is_dir()), None)
        if place is not None:
            inner = place / "images" if (place / "images").is_dir() else place
            files = [p for p in inner.iterdir() if is_image(p)]
            found[wnid] = sorted(files, key=lambda p: ([int(n) for n in re.findall(r"\d+", p.stem)][-1:], p.name))
    return found


def load_tiny_imagenet_fs(root: Path, image_size: int = 64, images_per_class: int | None = None) -> FewShotData:
    """Tiny-ImageNet's images of 25 classes of Mini-ImageNet: 200 train and 50 val images a class, 14 / 6 / 5."""
    folder = _folder("tiny_imagenet_25_fs", root)
    notes = folder / "val" / "val_annotations.txt"
    if not notes.is_file():
        raise DataError(
            f"tiny_imagenet_25_fs is not under {root}: expected tiny-imagenet-25/val/val_annotations.txt there."
        )
    files = _class_folders(folder, [wnid for part in PARTS for wnid in MINI_IMAGENET[part]])
    for _, name, wnid in annotated_files(notes):
        if wnid in files:
            files[wnid].append(folder / "val" / "images" / name)
    listed = folder / "wnids.txt"
    wanted = set(listed.read_text("utf-8").split()) if listed.is_file() else set(files)
    if missing := sorted(wanted & {wnid for part in PARTS for wnid in MINI_IMAGENET[part]} - set(files)):
        raise DataError(
            f"tiny_imagenet_25_fs: {listed} names {len(missing)} classes without a folder, the first {missing[0]}; "
            "unpack the data again."
        )
    published = CATALOGUE["tiny_imagenet_25_fs"]
    each = published.train // published.classes
    few = [wnid for wnid in files if len(files[wnid]) < each]
    if few:
        warnings.warn(
            f"{folder} has fewer than the published {each} images of {len(few)} classes, the first {few[0]}; numbers "
            "are of other data.",
            stacklevel=2,
        )
    split = {part: tuple(wnid for wnid in MINI_IMAGENET[part] if wnid in files) for part in PARTS}
    return _from_files("tiny_imagenet_25_fs", files, split, image_size, images_per_class)


def _from_files(
    name: str,
    files: Mapping[str, Sequence[Path]],
    split: Mapping[str, Sequence[str]],
    image_size: int,
    images_per_class: int | None,
) -> FewShotData:
    if image_size < 1 or (images_per_class is not None and images_per_class < 1):
        raise DataError(f"{name}: image_size and images_per_class must be at least 1.")
    classes = [wnid for part in PARTS for wnid in split[part]]
    chosen = [(path, label) for label, wnid in enumerate(classes) for path in files[wnid][:images_per_class]]
    images = np.empty((len(chosen), 3, image_size, image_size), np.uint8)
    for place, (path, _) in enumerate(chosen):
        images[place] = _read_image(path, image_size)
    labels = torch.tensor([label for _, label in chosen], device="cpu")
    return split_classes(name, torch.from_numpy(images), labels, classes, split)


def _read_image(path: Path, size: int) -> np.ndarray:
    """One image file as uint8 [3, size, size], resized by area average where it has another size."""
    try:
        from PIL import Image
    except ImportError:
        raise DataError("Image files are read with Pillow, which is not installed; run `make env`.") from None
    try:
        with opened_image(path) as opened:
            image = opened.convert("RGB")
            if image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.BOX)
            return np.asarray(image).transpose(2, 0, 1)
    except DataError:
        raise
    except Exception:
        # Damaged files make Pillow's plugins raise many kinds of exceptions, struct.error among them.
        raise DataError(f"{path} cannot be read as an image; put back the original file.") from None
