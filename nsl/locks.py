"""Locks between processes: those of the operating system, of an open file, which end with the process that has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nsl.outputs import OutputError


def hold(stream: IO[Any], meanwhile: Callable[[], None] | None = None) -> None:
    """Wait for the lock of an open file and hold it until the file is closed; where there are no such locks, as on
    Windows, do nothing.

    Args:
        meanwhile: called again and again while another holds the lock; default: the thread sleeps.
    """
    try:
        import fcntl
    except ImportError:
        return
    if meanwhile is None:
        fcntl.flock(stream, fcntl.LOCK_EX)
        return
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            meanwhile()


@contextmanager
def locked(path: Path, meanwhile: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of the file `path`, which is made with the folders above it; `meanwhile`: see `hold`.

    Raises:
        OutputError: it cannot be made or locked.
    """
    with _held(path, meanwhile):
        yield


def _held(path: Path, meanwhile: Callable[[], None] | None) -> IO[Any]:
    """The file, open and locked."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a")
        try:
            hold(stream, meanwhile)
        except BaseException:
            stream.close()
            raise
        return stream
    except OSError as error:
        told = f"{path} cannot be locked ({error.strerror}); name another folder."
        raise OutputError(error.errno, told) from error
