"""Writing files so that a reader never sees half of one, and the canonical form that hashes are taken of.

`nsl.outputs` does so for ``nsl``; importing it imports torch, which ``status`` does without.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

#: A temporary file this old belongs to a process that was killed while it wrote.
ABANDONED_SECONDS = 3600.0


def visible(folder: Path, pattern: str) -> list[Path]:
    """Files of that name which are not hidden: macOS puts a ``._NAME`` beside every file it copies."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` atomically: to a temporary name in the same folder, then ``os.replace``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{path.parent} is no folder and cannot be made ({error.strerror}); name another.") from None
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException as error:
        Path(partial).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            # "No space left on device" alone does not say where.
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS:
                leftover.unlink()


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of the file ``path``; yields False where another process holds it and it is not to ``wait``.

    Raises:
        OSError: nothing can be locked there, as on some network file systems.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait)
    except Timeout:
        yield False
        return
    except OSError as error:
        why = f"{path} cannot be locked ({error.strerror})"
        raise OSError(f"{why}; name a folder of results that can be written and has locks.") from None
    try:
        yield True
    finally:
        lock.release()


def last_line(error: BaseException) -> str:
    """The last line of a message, which is the reason in papermill's of a cell and submitit's of a job that died."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else repr(error)


def canonical_json(value: Any) -> str:
    """``value`` as JSON with sorted keys and no spaces: equal values give equal text. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def digest(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def finite(value: Any) -> Any:
    """``value`` with every NaN or infinite float replaced by None: JSON has no such numbers."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def path_argument(text: str) -> Path:
    """A path of the command line; a leading ``~`` is the home folder, also where the shell left it (``DATA=~/data``).

    Raises:
        argparse.ArgumentTypeError: there is no such home folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(
            f"{text} begins with a home folder that cannot be found; write the whole path"
        ) from None
