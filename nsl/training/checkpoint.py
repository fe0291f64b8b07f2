"""Checkpoints: written atomically, loaded without running code, refused with one sentence when damaged.

A file ends in the SHA-256 of what stands before: torch does not compare the check sums in its own archives, and one
flipped bit would go on training as another network.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

#: Files of format 1, of earlier versions, have no check sum.
FORMAT = 2

#: Stands before the 64 hexadecimal digits at the end of a file.
_MARK = b"\nnsl-sha256 "
_TRAILER = len(_MARK) + 64


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the sentence names the file and what to do."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        stream = io.BytesIO()
        torch.save({"format": FORMAT, **state}, stream)
        body = stream.getbuffer()
        with temporary.open("wb") as file:
            file.write(body)
            file.write(_MARK + hashlib.sha256(body).hexdigest().encode())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _checked(content: bytes) -> Any:
    """The state in a file's bytes.

    Raises:
        ValueError: the content is not what was written; `torch.load` raises others.
    """
    body, trailer = content[:-_TRAILER], content[-_TRAILER:]
    whole = trailer == _MARK + hashlib.sha256(body).hexdigest().encode()
    state = torch.load(io.BytesIO(body if whole else content), map_location="cpu", weights_only=True)
    if not whole and isinstance(state, dict) and state.get("format") == FORMAT:
        raise ValueError("the check sum differs")
    return state


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote.

    Raises:
        CheckpointError: damaged, not a checkpoint, or of another format.
    """
    try:
        state = _checked(path.read_bytes())
    except Exception as error:  # a damaged stream of objects can raise anything
        raise CheckpointError(f"checkpoint {path} is damaged; delete it to start this run again") from error
    if not isinstance(state, dict) or state.get("format") not in (1, FORMAT):
        raise CheckpointError(
            f"checkpoint {path} is not a training checkpoint of format {FORMAT}; delete it to start this run again"
        )
    return state
