"""Reading the files of a data set: lists as text, folders of images."""

from __future__ import annotations

from pathlib import Path

from nsl.data.dataset import DataError

#: Endings of image files, in lower case.
SUFFIXES = (".jpeg", ".jpg", ".png")


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
        DataError: a line is not a file name, a tab and a wnid.
    """
    found = []
    for number, line in enumerate(text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < 2:
            raise DataError(f"{path}: line {number} is not a file name, a tab and a class of wnids.txt.")
        found.append((number, fields[0], fields[1]))
    return found


def is_image(path: Path) -> bool:
    """Whether the name is that of an image; hidden files are none (macOS puts a `._x.JPEG` beside an `x.JPEG`)."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
