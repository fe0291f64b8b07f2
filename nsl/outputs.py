"""Files that a command writes: tried before the work, written under a temporary name, renamed, never on a device; and
its temporary folders."""

from __future__ import annotations

import glob
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class OutputError(OSError):
    """A file cannot be written; the sentence names it and what to do."""

    def __str__(self) -> str:
        return str(self.strerror)


#: Temporary files older than this, in seconds, belong to a process that was killed.
LEFT_OVER = 3600.0
#: The same of temporary folders: what works in one for hours need not change it.
FOLDER_LEFT_OVER = 24 * 3600.0


def check_regular(path: Path, what: str) -> None:
    """Refuse a path that is there and is no file.

    Raises:
        ValueError: it is a folder, a device, a pipe, ...; the sentence begins with `what`.
    """
    if path.is_dir():
        raise ValueError(f"{what} {path} is a folder; name a file in it.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{what} {path} is no regular file; name one, or a name that is not taken.")


def check_folder(folder: Path, what: str) -> None:
    """Make the folder where it is missing, and try to write into it.

    Raises:
        ValueError: it is no folder, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise ValueError(f"{what} {folder}: {error.filename} is no folder; name another.") from None
    except OSError as error:
        raise ValueError(f"{what} {folder} cannot be written ({error.strerror}); name another folder.") from None


def check_output(path: Path, what: str) -> None:
    """Try, before hours of work, whether its result can be written to `path`; folders above it are made.

    Raises:
        ValueError: it is no regular file, or its folder cannot be written.
    """
    check_regular(path, what)
    check_folder(path.parent, f"{what} {path}:")


def remove_left_overs(path: Path) -> None:
    """Remove the temporary files of `path` that killed processes left beside it."""
    with suppress(OSError):
        for left in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > LEFT_OVER:
                    left.unlink()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path` to write to; renamed to `path` where the block ends well, else removed.

    Raises:
        OutputError: it cannot be written, the disk being full for example.
        ValueError: `path` is a folder, a device, ...
    """
    path = Path(path).expanduser()
    check_regular(path, "the file")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_left_overs(path)
        yield temporary
        with temporary.open("rb+") as written:  # else a machine that crashes can leave the new name without its content
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.strerror is None:
            raise
        told = f"{path} cannot be written ({error.strerror}); free some space there, or name another place."
        raise OutputError(error.errno, told) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def scratch(prefix: str, where: Path | None = None) -> Iterator[Path]:
    """A temporary folder for the block, after removing those that killed processes of this user left a day ago.

    Args:
        prefix: how its name begins; of nothing else there.
        where: the folder it is made in; default: that of all temporary files.
    """
    where = Path(tempfile.gettempdir()) if where is None else where
    for left in where.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):
            found = left.lstat()
            mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
            if mine and time.time() - found.st_mtime > FOLDER_LEFT_OVER:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=where) as folder:
        yield Path(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8 through `replacing`; raises as it does."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
