"""Reading the files of a data set: lists as text, folders of images, and the images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nsl.data.dataset import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

#: Endings of image files, in lower case.
SUFFIXES = (".jpeg", ".jpg", ".png")
#: What an image file may hold, whatever its name: Pillow would start Ghostscript for an EPS.
FORMATS = ("JPEG", "PNG")
#: Pixels of an image, at most: what Pillow by itself begins to warn of. Decoding so many takes 0.3 GB and more.
MAX_PIXELS = 89_000_000

Decoded = tuple[NDArray[np.uint8], list[str | None]]


def text_of(path: Path) -> str:
    """A text file without the byte-order mark that spreadsheets put before it; line ends are "\\n".

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error}); put back the official file.") from None


def annotated_files(path: Path) -> list[tuple[int, str, str]]:
    """Line number (from 1), file name and wnid of every line of Tiny-ImageNet's `val_annotations.txt`.

    Blank lines are passed over.

    Raises:
        DataError: a line is not a file name, a tab and a wnid, names a file of another folder, or one named before.
    """
    found: list[tuple[int, str, str]] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < 2:
            raise DataError(f"{path}: line {number} is not a file name, a tab and a class of wnids.txt.")
        if fields[0] in ("", ".", "..") or "/" in fields[0] or "\\" in fields[0] or "\0" in fields[0]:
            raise DataError(f"{path}: line {number} names {fields[0][:40]!r}, which is no file of its folder images.")
        if fields[0] in seen:
            raise DataError(f"{path}: line {number} names {fields[0][:40]!r}, as line {seen[fields[0]]} does.")
        seen[fields[0]] = number
        found.append((number, fields[0], fields[1]))
    return found


def is_image(path: Path) -> bool:
    """Whether the name is that of an image; hidden files are none (macOS puts a `._x.JPEG` beside an `x.JPEG`)."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


@contextmanager
def opened_image(path: Path) -> Iterator[Picture]:
    """A JPEG or PNG, opened by Pillow and not decoded yet.

    Raises:
        DataError: it has more than `MAX_PIXELS` pixels.
        OSError, ValueError, SyntaxError: the file cannot be read or is no such image (Pillow's own errors).
    """
    from PIL import Image

    refusal = DataError(
        f"{path} has more than {MAX_PIXELS // 10**6} million pixels, which images of data sets do not have; "
        "put back the original file or a smaller image."
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            source = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError:
            raise refusal from None
    with source:
        if source.width * source.height > MAX_PIXELS:
            raise refusal
        yield source


def decode(path: Path, size: int) -> NDArray[np.uint8]:
    """One image file as uint8 [3, size, size].

    The shorter side is brought to `size` (bilinear, antialiased) and the central square is cut out, as AlexNet's
    authors did (Krizhevsky et al. 2012, section 2). JPEGs much larger than that are decoded at a fraction of their
    size. Grey and CMYK images become RGB.

    Raises:
        DataError: it has too many pixels.
        OSError, ValueError, SyntaxError: the file cannot be read or is no JPEG or PNG (Pillow's own errors).
    """
    from PIL import Image

    with opened_image(path) as source:
        # Never below twice the wanted size: the last step of the reduction stays the antialiased one.
        source.draft("RGB", (2 * size, 2 * size))
        image = source.convert("RGB")
    width, height = image.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        left, top = (width - size / scale) / 2, (height - size / scale) / 2
        box = (left, top, width - left, height - top)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))


def decode_chunk(paths: Sequence[Path], size: int) -> Decoded:
    """Images uint8 [n, 3, size, size] (zeros where one failed), and for each None or the reason."""
    images = np.zeros((len(paths), 3, size, size), np.uint8)
    reasons: list[str | None] = []
    for place, path in enumerate(paths):
        try:
            images[place] = decode(path, size)
            reasons.append(None)
        except Exception as error:
            # Damaged files make Pillow's plugins raise many kinds of exceptions, struct.error among them.
            reasons.append(" ".join(f"{type(error).__name__}: {error}".split()))
    return images, reasons
