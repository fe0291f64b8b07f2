"""The memory format of maps that are computed with channels innermost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from nsl.kernels import compiled

#: One a thread: trainings may run side by side.
_kept: ContextVar[bool] = ContextVar("layouts_kept", default=False)


@contextmanager
def layouts_kept() -> Iterator[None]:
    """Inside, maps stay as they were computed, channels innermost: for networks that are known not to mind, which then
    copy nothing between two layers."""
    before = _kept.set(True)
    try:
        yield
    finally:
        _kept.reset(before)


def nhwc(maps: Tensor) -> Tensor:
    """[B, C, H, W] to a contiguous [B, H, W, C]; free for channels_last tensors."""
    return maps.permute(0, 2, 3, 1).contiguous()


def as_laid_out(output: Tensor, input: Tensor) -> Tensor:
    """A map in the memory format of the input where that is PyTorch's usual one, as a convolution gives it.

    What is computed with channels innermost comes out in channels_last, on which a later `view` fails.
    """
    if not isinstance(output, Tensor) or torch.compiler.is_exporting() or compiled.in_transform():
        return output
    if not torch.compiler.is_compiling() and _kept.get():  # nothing that a compiler has to read
        return output
    usual = input.is_contiguous() and not input.is_contiguous(memory_format=torch.channels_last)
    return output.contiguous() if usual else output
