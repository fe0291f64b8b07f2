"""The index of a packed cache, `index.json`, with a checksum of its own: what it says is what was written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nsl.data.dataset import DataError
from nsl.outputs import write_text


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file: to a temporary name, then renamed."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def _checksum(index: dict[str, Any]) -> str:
    """Of everything in the index but the checksum."""
    rest = {key: value for key, value in index.items() if key != "checksum"}
    return hashlib.blake2b(json.dumps(rest, sort_keys=True).encode(), digest_size=16).hexdigest()


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Write `index.json` with its checksum."""
    write_json(folder / "index.json", {**index, "checksum": _checksum(index)})


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index; None where there is none.

    Raises:
        DataError: it is no JSON object, or does not match its checksum.
    """
    path = folder / "index.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        right = isinstance(found, dict) and found.get("checksum") == _checksum(found)
    except FileNotFoundError:
        return None
    except ValueError:
        right = False
    if not right:
        raise DataError(f"{path} is damaged; delete the folder to have it packed again.")
    return dict(found)


def is_whole(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether the folder holds a finished cache of this identity that leaves no image out."""
    index = read_index(folder)
    if index is None or {key: index.get(key) for key in identity} != identity:
        return False
    return not any(split.get("bad") for split in index["splits"].values())
