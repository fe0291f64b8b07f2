"""Where things are kept for the user: the cache folder of the home, and what takes its place where there is no home."""

from __future__ import annotations

import argparse
import os
import stat
import tempfile
from pathlib import Path


def temporary_folder() -> Path:
    """The user's own folder among the temporary files: `nsl-UID`, the same one for all processes of the user.

    Compiled code is loaded from it, so one that others could have filled is not used: where the name is taken by
    another user, a link or a folder that others may write to, a new folder is made for this process.
    """
    folder = Path(tempfile.gettempdir()) / f"nsl-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="nsl-"))


def home_cache() -> Path:
    """`~/.cache`; where HOME is unset and the user is unknown, as in containers, `temporary_folder`."""
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return temporary_folder()


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with a leading `~` or `~user` replaced by that home folder.

    Raises:
        ValueError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path} begins with a home folder that cannot be found; write the whole path.") from None


def expand_paths(arguments: argparse.Namespace) -> None:
    """Apply `expanded` to every path of a parsed command line; raises as that does."""
    for name, value in vars(arguments).items():
        if isinstance(value, Path):
            setattr(arguments, name, expanded(value))
