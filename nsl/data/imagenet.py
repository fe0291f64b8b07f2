"""ImageNet: ILSVRC-2012, Tiny-ImageNet, and the 25 classes of the latter, from their folders of JPEGs.

ILSVRC-2012 ("imagenet"), in DATA, DATA/imagenet, DATA/ILSVRC2012 or DATA/ILSVRC/Data/CLS-LOC:

    train/<wnid>/*.JPEG
    val/<wnid>/*.JPEG                                    or
    val/*.JPEG and, beside or above it, one of
        ILSVRC2012_validation_ground_truth.txt  official: a number 1..1000 a line; the development kit's meta.mat
                                                (ILSVRC2012_devkit_t12/data) says which class a number is
        *_synset_labels.txt                     a wnid a line

Tiny-ImageNet ("tiny_imagenet" in tiny-imagenet-200, "tiny_imagenet_25" in tiny-imagenet-25):

    wnids.txt, train/<wnid>/images/*.JPEG, val/images/*.JPEG, val/val_annotations.txt

Images are decoded once into a packed cache (`nsl.data.packed`) below NSL_CACHE, else ~/.cache/nsl, in `packed`.
ILSVRC-2012 is stored with the shorter side at 8/7 of the network's input, cut to the central square: 256 for 224, as
in AlexNet; 252 GB. Classes are in the order of their wnids.

    python -m nsl.data.imagenet pack NAME --root DIR      # build the cache before the first training
    python -m nsl.data.imagenet verify NAME --root DIR    # compare every checksum
    python -m nsl.data.imagenet bench NAME --root DIR     # images per second, JPEGs against the cache
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nsl.arguments import Parser, check_apart, whole
from nsl.data.catalogue import CATALOGUE
from nsl.data.dataset import DataError, Dataset, first_per_class
from nsl.data.files import annotated_files, decode_chunk, is_image, text_of
from nsl.data.packed import BAD_LIMIT, Split, build_packed, open_packed, verify_packed
from nsl.folders import expand_paths, expanded, home_cache

#: The sets that are read here.
NAMES = tuple(entry.name for entry in CATALOGUE.values() if entry.stored_size)
_WNID = re.compile(r"n\d{8}")
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"

Labelled = list[tuple[Path, int]]


def cache_root() -> Path:
    """Where packed caches go: `packed` in the folder NSL_CACHE, else in ~/.cache/nsl.

    Raises:
        DataError: NSL_CACHE begins with a `~` and there is no home folder.
    """
    named = os.environ.get("NSL_CACHE")
    try:
        return (expanded(named) if named else home_cache() / "nsl") / "packed"
    except ValueError as error:
        raise DataError(f"NSL_CACHE={error}") from None


def find(name: str, root: Path) -> Path:
    """The folder of the data set below `root`.

    Raises:
        DataError: no candidate has `train` and `val`.
    """
    entry = CATALOGUE[name]
    for candidate in entry.folders:
        folder = root / candidate
        listed = (folder / "wnids.txt").is_file()
        if (folder / "train").is_dir() and (folder / "val").is_dir() and listed == entry.class_list:
            return folder
    shown = " or ".join(str(root / candidate) for candidate in entry.folders)
    files = "wnids.txt, train/ and val/" if entry.class_list else "train/<wnid>/*.JPEG and val/"
    raise DataError(f"{name} is not under {root}: expected {files} in {shown}; name its folder by DATA.")


def _images(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if is_image(path)]


def _lines(path: Path) -> list[str]:
    return text_of(path).split("\n")


def _by_class(folder: Path, wnids: Sequence[str], inner: str = ".") -> Labelled:
    """The images of `folder/<wnid>/inner`, class by class."""
    found: Labelled = []
    for label, wnid in enumerate(wnids):
        place = folder / wnid / inner
        images = _images(place) if place.is_dir() else []
        if not images:
            raise DataError(f"{place} has no images; put back the official set, or remove the class everywhere.")
        found += [(path, label) for path in images]
    return found


def _ground_truth(path: Path, wnids: Sequence[str]) -> list[int]:
    """Labels in the order of the official validation file: its numbers are the development kit's, not ours."""
    inner = ("meta.mat", "data/meta.mat", "ILSVRC2012_devkit_t12/data/meta.mat")
    places = [base / name for base in path.parents[:2] for name in inner if (base / name).is_file()]
    if not places:
        raise DataError(
            f"{path} numbers the classes as the development kit does; put its ILSVRC2012_devkit_t12/data/meta.mat "
            f"beside it, or sort the validation images into val/<wnid>/."
        )
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DataError(f"Reading {places[0]} needs scipy, which is not installed; pip install scipy.") from None
    synsets = np.atleast_1d(loadmat(places[0], squeeze_me=True)["synsets"])
    numbers = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    order = {wnid: label for label, wnid in enumerate(wnids)}
    found = []
    for line, text in enumerate(_lines(path), start=1):
        if not text.strip():
            continue
        wnid = numbers.get(int(text)) if text.strip().isdecimal() else None
        if wnid not in order:
            raise DataError(f"{path}: line {line} ({text.strip()[:20]!r}) names no class of train/.")
        found.append(order[wnid])
    return found


def _flat_val(folder: Path, wnids: Sequence[str]) -> Labelled:
    """The images of an unsorted `val` with their labels from a file beside or above it."""
    images = _images(folder)
    bases = (folder, folder.parent, folder.parent / "ILSVRC2012_devkit_t12" / "data")
    for base in bases:
        if (base / GROUND_TRUTH).is_file():
            path = base / GROUND_TRUTH
            labels = _ground_truth(path, wnids)
            break
        if named := sorted(base.glob("*_synset_labels.txt")):
            path = named[0]
            order = {wnid: label for label, wnid in enumerate(wnids)}
            words = [text.strip() for text in _lines(path) if text.strip()]
            unknown = next((word for word in words if word not in order), None)
            if unknown is not None:
                raise DataError(f"{path}: {unknown[:20]!r} is no class of train/.")
            labels = [order[word] for word in words]
            break
    else:
        raise DataError(
            f"{folder} has no class folders, and no {GROUND_TRUTH} lies beside it; put that file there, "
            f"or sort the images into {folder}/<wnid>/."
        )
    if len(labels) != len(images):
        raise DataError(f"{path} has {len(labels)} labels, but {folder} has {len(images)} images.")
    return list(zip(images, labels))


def _annotated_val(folder: Path, wnids: Sequence[str]) -> Labelled:
    """Tiny-ImageNet's `val/images` by `val/val_annotations.txt`: file name and wnid, separated by tabs."""
    path = folder / "val_annotations.txt"
    order = {wnid: label for label, wnid in enumerate(wnids)}
    found: Labelled = []
    for number, image, wnid in annotated_files(path):
        if wnid not in order:
            raise DataError(f"{path}: line {number} is not a file name, a tab and a class of wnids.txt.")
        found.append((folder / "images" / image, order[wnid]))
    return found


def _first(labelled: Labelled, count: int | None, wnids: Sequence[str], what: str) -> Labelled:
    """The first `count` images of every class."""
    if count is None:
        return labelled
    labels = torch.tensor([label for _, label in labelled], device="cpu")
    return [labelled[place] for place in first_per_class(labels, count, wnids, what)]


def _count(name: str, folder: Path, classes: int, train: int, test: int) -> None:
    """Warn where the folder has not as many images as the published set: an unpacking may have been interrupted."""
    entry = CATALOGUE[name]
    if (classes, train, test) != (entry.classes, entry.train, entry.test):
        warnings.warn(
            f"{folder} has {classes} classes, {train} training and {test} validation images, {entry.title} "
            f"{entry.classes}, {entry.train} and {entry.test}; numbers are of other data.",
            stacklevel=2,
        )


def list_images(
    name: str, folder: Path, train_per_class: int | None = None, test_per_class: int | None = None
) -> tuple[dict[str, Split], list[str]]:
    """The files of the data set in `folder` with their labels, and the wnids in label order.

    Raises:
        DataError: a file or folder is missing or contradicts another; the sentence names it.
    """
    if CATALOGUE[name].class_list:
        wnids = sorted(line.strip() for line in _lines(folder / "wnids.txt") if line.strip())
        train, test = _by_class(folder / "train", wnids, "images"), _annotated_val(folder / "val", wnids)
    else:
        wnids = sorted(path.name for path in (folder / "train").iterdir() if _WNID.fullmatch(path.name))
        if not wnids:
            raise DataError(f"{folder / 'train'} has no class folders such as n01440764; unpack the official archive.")
        train = _by_class(folder / "train", wnids)
        tested = {path.name for path in (folder / "val").iterdir() if _WNID.fullmatch(path.name)}
        if extra := sorted(tested - set(wnids)):
            raise DataError(f"{folder / 'val' / extra[0]} has no training images; put back the official set.")
        sorted_val = any((folder / "val" / name).is_dir() for name in tested)
        test = _by_class(folder / "val", wnids) if sorted_val else _flat_val(folder / "val", wnids)
    _count(name, folder, len(wnids), len(train), len(test))
    splits = {}
    for part, labelled, count in (("train", train, train_per_class), ("test", test, test_per_class)):
        kept = _first(labelled, count, wnids, f"{name} {part}")
        splits[part] = Split([path for path, _ in kept], [label for _, label in kept])
    return splits, wnids


def _signature(folder: Path, splits: dict[str, Split]) -> str:
    """A hash of every file's place, size and label: where one of these has changed, the folder is packed anew.

    Contents are not read, which would take as long as packing: an image replaced by another of the same size in bytes
    is not seen. Delete the cache then.
    """
    total = hashlib.sha256()
    for split in splits.values():
        for path, label in zip(split.paths, split.labels):
            try:
                size = path.stat().st_size
            except OSError:
                size = -1  # named by the builder with its reason
            total.update(f"{path.relative_to(folder)}\0{size}\0{label}\n".encode())
    return total.hexdigest()[:32]


def cache_folder(name: str, folder: Path, image_size: int, limits: tuple[int | None, int | None]) -> Path:
    """Where the cache of a data set in `folder` lies."""
    mark = hashlib.sha256(f"{folder.resolve()}\0{limits}".encode()).hexdigest()[:8]
    return cache_root() / f"{name}-{CATALOGUE[name].stored(image_size)}-{mark}"


def load_imagenet(
    name: str,
    root: Path,
    *,
    image_size: int | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    workers: int | None = None,
    bad_limit: float = BAD_LIMIT,
    verify: bool | None = None,
) -> Dataset:
    """One of `NAMES`, packed first if that has not been done.

    Args:
        name: "imagenet", "tiny_imagenet" or "tiny_imagenet_25".
        root: the folder of data.
        image_size: of the network's input; 224, or 64 for the tiny sets.
        train_per_class, test_per_class: keep only the first images of every class.
        workers: decoding processes (None: one a core).
        bad_limit: largest share of undecodable images of a split; fewer are named and left out.
        verify: compare all checksums (None: of splits up to 4 GiB).

    Returns:
        Images uint8 [N, 3, S, S], memory-mapped; for ILSVRC-2012 S is 8/7 of `image_size`, which is `crop_size`.

    Raises:
        DataError: files are missing, too many are undecodable, the cache is damaged, or there is no Pillow.
    """
    wanted = CATALOGUE[name].image_size if image_size is None else image_size
    if not 8 <= wanted <= 1024:
        raise DataError(f"{name}: image_size must be 8 to 1024, got {wanted}.")
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise DataError(f"Decoding {name} needs Pillow, which is not installed; pip install pillow.") from None
    folder = find(name, root)
    size = CATALOGUE[name].stored(wanted)
    cache = cache_folder(name, folder, wanted, (train_per_class, test_per_class))
    splits, wnids = list_images(name, folder, train_per_class, test_per_class)
    source = _signature(folder, splits)
    build_packed(cache, splits, wnids, size, source, workers=workers, bad_limit=bad_limit)
    return open_packed(name, cache, crop_size=None if size == wanted else wanted, verify=verify)


def measure(name: str, root: Path, seconds: float = 2.0) -> dict[str, float]:
    """Images per second of decoding JPEGs and of gathering random batches of 128 from the cache, one thread each."""
    dataset = load_imagenet(name, root)
    folder = find(name, root)
    splits, _ = list_images(name, folder)
    paths, size = splits["train"].paths, CATALOGUE[name].stored(dataset.image_size)
    # The cache may leave out images that cannot be decoded: it has no more rows than there are files.
    rng, count = np.random.default_rng(0), len(dataset.train_images)

    def rate(step: int, work: Callable[[NDArray[np.int64]], object]) -> float:
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            work(rng.integers(count, size=step))
            done += step
        return done / (time.perf_counter() - started)

    decoded = rate(16, lambda rows: decode_chunk([paths[row] for row in rows], size))
    packed = rate(128, lambda rows: dataset.train_images[np.sort(rows)])
    return {"decoded": decoded, "packed": packed, "ratio": packed / decoded}


def parser() -> Parser:
    """The command line."""
    made = Parser(prog="python -m nsl.data.imagenet", description=__doc__.splitlines()[0])
    made.add_argument("command", choices=("pack", "verify", "bench"))
    made.add_argument("name", choices=NAMES)
    made.add_argument("--root", type=Path, required=True, help="folder of the data")
    side = whole(1, 10_000)
    made.add_argument("--image-size", type=side, default=None, help="of the network's input (224, tiny sets 64)")
    made.add_argument("--workers", type=whole(1, 1024), default=None, help="decoding processes (default: one a core)")
    return made


#: Options that a command would ignore.
_APART = {"pack": (), "verify": ("workers",), "bench": ("workers", "image_size")}


def main(arguments: list[str] | None = None) -> None:
    """Pack, verify or measure a data set."""
    goes_on = False
    try:
        chosen = parser().read(arguments)
        check_apart(chosen.given, _APART[chosen.command], f"is not for {chosen.command}; leave it out.")
        expand_paths(chosen)
        wanted = chosen.image_size or CATALOGUE[chosen.name].image_size
        folder = find(chosen.name, chosen.root)
        cache = cache_folder(chosen.name, folder, wanted, (None, None))
        if chosen.command == "pack":
            goes_on = True
            dataset = load_imagenet(chosen.name, chosen.root, image_size=wanted, workers=chosen.workers)
            print(f"{cache}: {len(dataset.train_images)} train and {len(dataset.test_images)} test images.")
        elif chosen.command == "verify":
            print(f"{cache}: {verify_packed(cache)} images match their checksums.")
        else:
            found = measure(chosen.name, chosen.root)
            print(
                f"{chosen.name}: {found['decoded']:.0f} images/s from JPEGs, {found['packed']:.0f} from the cache, "
                f"{found['ratio']:.1f} times as many (one thread)."
            )
    except (ValueError, OSError) as error:
        parser().exit(2, f"error: {' '.join(str(error).split())}\n")
    except KeyboardInterrupt:
        parser().exit(130, "Interrupted; the same command goes on from here.\n" if goes_on else "Interrupted.\n")


if __name__ == "__main__":
    main()
