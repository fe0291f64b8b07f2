"""Checkpoints: written atomically, loaded without running code, refused with one sentence when damaged.

A file ends in the SHA-256 of what stands before: torch does not compare the check sums in its own archives, and one
flipped bit would go on training as another network. Nor is anything taken from a file that tensors, numbers, texts and
their containers are not, nor a tensor that is larger than its file.
"""

from __future__ import annotations

import copy
import io
import os
import pickletools
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nsl import seals
from nsl.outputs import check_regular, replacing

FORMAT = 2


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the sentence names the file and what to do."""


#: What stands in a checkpoint beside numbers, texts, lists and dicts: tensors in their storages.
_GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",  # of the smallest types, with
    "torch.storage UntypedStorage",
    "torch Size",
} | {str(kind).replace(".", " ") for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
_FETCHING = ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")


def save_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) under a temporary name, then rename.

    Raises:
        OSError: it cannot be written, because the disk is full for example.
        ValueError: `path` is no regular file, or the state holds what `load_checkpoint` would not read again.
    """
    stream = check_state(state)
    # Let go of before an error leaves: collected in a cycle with its traceback, it crashes Python 3.12.
    with stream.getbuffer() as body, replacing(path) as temporary, temporary.open("wb") as file:
        file.write(body)
        file.write(seals.seal(body))


def check_state(state: dict[str, Any]) -> io.BytesIO:
    """What `save_checkpoint` writes before the check sum.

    Raises:
        ValueError: the state holds what `load_checkpoint` would not read again.
    """
    if "format" in state:
        raise ValueError("the state of a checkpoint cannot have the key 'format', which is the file's own")
    try:
        return _written({"format": FORMAT, **state})
    except ValueError:
        for name, part in state.items():
            try:
                _written(part)
            except ValueError as error:
                raise ValueError(
                    f"the state's {name!r} cannot be kept in a checkpoint ({error}), which takes tensors, numbers, "
                    "texts and their lists and dicts: of a parameter its detach(), of numpy's numbers item()"
                ) from None
        raise


def _written(state: Any) -> io.BytesIO:
    """The archive of a state; raises ValueError where `load_checkpoint` would refuse it."""
    stream, state = io.BytesIO(), _unfolded(state)
    torch.save(state, stream)
    _check_archive(stream)
    _check_sizes(state, stream.getbuffer().nbytes)
    return stream


def _unfolded(state: Any) -> Any:
    """The state with tensors that repeat their numbers (`expand`) as ones that have them all; else the same object."""
    if isinstance(state, Tensor):
        folded = state.layout is torch.strided and any(
            step == 0 and size > 1 for step, size in zip(state.stride(), state.shape)
        )
        return state.contiguous() if folded else state
    if type(state) is tuple:
        inside = tuple(map(_unfolded, state))
        return state if all(new is old for new, old in zip(inside, state)) else inside
    if not isinstance(state, dict | list):
        return state
    places = list(state) if isinstance(state, dict) else range(len(state))
    changed = {place: new for place in places if (new := _unfolded(state[place])) is not state[place]}
    if changed:
        state = copy.copy(state)  # of its own kind, with the versions that a state dict carries
        for place, new in changed.items():
            state[place] = new
    return state


@contextmanager
def training_goes_on() -> Iterator[None]:
    """Around saving one of a training's many checkpoints: where it cannot be written, warn instead of raising.

    The file of the time before stays, and the next one is tried again.
    """
    try:
        yield
    except OSError as error:
        print(f"warning: {error} The training goes on without this checkpoint.", file=sys.stderr, flush=True)


def _checked(content: bytes) -> Any:
    """The state in a file's bytes.

    Raises:
        ValueError: the content is not what was written; `torch.load` raises others.
    """
    body = seals.unsealed(content)
    if body is None:
        raise ValueError("the check sum differs")
    _check_archive(io.BytesIO(body))
    # First without memory: a forged tensor may claim any size.
    _check_sizes(torch.load(io.BytesIO(body), map_location="meta", weights_only=True), len(body))
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)


def _check_sizes(state: Any, size: int) -> None:
    """Raise ValueError where a tensor is larger than the archive that it is in."""
    for tensor in _tensors(state):
        if max(tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()) > size:
            raise ValueError("a tensor is larger than the file")


def _check_archive(stream: io.BytesIO) -> None:
    """Raise ValueError unless the archive unpacks to its own size and names nothing but tensors and containers."""
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if any(item.compress_type != zipfile.ZIP_STORED for item in members):
            raise ValueError("it is compressed, which checkpoints are not")
        if sum(item.file_size for item in members) > stream.getbuffer().nbytes:
            raise ValueError("it unpacks to more than its size")
        for item in members:
            if not item.filename.endswith("/data.pkl"):
                continue
            for code, argument, _ in pickletools.genops(archive.read(item)):
                known = argument in _GLOBALS or (str(argument).startswith("torch ") and "Storage" in str(argument))
                if code.name in _FETCHING or (code.name == "GLOBAL" and not known):
                    raise ValueError(f"it names {argument}, which no checkpoint does")


def _tensors(state: Any) -> Iterator[Tensor]:
    """All tensors in dicts and lists, each container once."""
    seen, left = set(), [state]
    while left:
        item = left.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, dict | list | tuple | set) and id(item) not in seen:
            seen.add(id(item))
            left += item.values() if isinstance(item, dict) else item


def check_optimiser(optimiser: torch.optim.Optimizer) -> None:
    """After loading an optimiser's state: every tensor of it has its parameter's shape, or is a number.

    Raises:
        ValueError: one has not, as in a forged checkpoint; the optimiser would fail at its next step.
    """
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError(f"{name} has the shape {list(value.shape)}, its parameter {list(parameter.shape)}")


def is_foreign(path: Path) -> bool:
    """Whether a file, such as a text, never was a checkpoint; no one should be told to delete it."""
    with path.open("rb") as file:
        start = file.read(2)
        file.seek(-min(seals.LENGTH, file.seek(0, 2)), 2)
        return bool(start) and start != b"PK" and not file.read().startswith(seals.MARK)


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: damaged, not a checkpoint, or of another format.
        ValueError: `path` is a folder, a device, ...
        OSError: the file cannot be read.
    """
    path = Path(path).expanduser()
    check_regular(path, "checkpoint")
    content = path.read_bytes()
    try:
        state = _checked(content)
    except Exception as error:  # a damaged stream of objects can raise anything
        raise CheckpointError(f"checkpoint {path} is damaged; delete it to start this run again") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} is not a training checkpoint of format {FORMAT}; delete it to start this run again"
        )
    return state
