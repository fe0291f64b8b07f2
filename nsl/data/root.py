"""Where data sets lie when nothing else is said."""

from __future__ import annotations

import os
from pathlib import Path

from nsl.data.dataset import DataError
from nsl.folders import home_cache


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the data: `root`, else the environment variable NSL_DATA, else `~/.cache/nsl`.

    Without a home folder the last is one of the user's among the temporary files, see `nsl.folders`.

    Raises:
        DataError: the folder was named (by `root` or NSL_DATA) and does not exist.
    """
    named = [("the argument root", root), ("NSL_DATA", os.environ.get("NSL_DATA") or None)]
    for source, value in named:
        if value is not None:
            # Not Path.expanduser: a `~` without a home folder stays, and is a folder that does not exist.
            folder = Path(os.path.expanduser(value))
            if not folder.is_dir():
                raise DataError(
                    f"The data folder {folder} (from {source}) does not exist; "
                    f"name an existing folder, or none to use ~/.cache/nsl."
                )
            return folder
    return home_cache() / "nsl"
