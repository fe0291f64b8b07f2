"""Convolutions into which nothing can be folded: their output does not scale with their weight."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from torch import nn


def _asked_by_distributed() -> bool:
    """Whether `torch.distributed` sets the attribute, which puts a part of the same parameter in its place (FSDP)."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("nsl."):
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None and frame.f_globals.get("__name__", "").startswith("torch.distributed.")


class Unfusible(nn.Module):
    """A convolution that `torch.nn.utils.fuse_conv_bn_eval` and its like refuse, and do not falsify silently.

    They write a scaled weight and a shifted bias into a copy of any `nn.Conv2d`, also where the output is no linear
    function of them. Stands before `nn.Conv2d` in the base list.

    Class attributes:
        why: what the output does, for the message.
    """

    why: ClassVar[str] = "its output does not scale with its weight"
    _loading = False

    def __setattr__(self, name: str, value: Any) -> None:
        # What fusions do with a convolution; PyTorch's own loading goes by another way.
        replaced = name == "bias" and isinstance(value, nn.Parameter) and "bias" in self._parameters
        if replaced and not self._loading and not _asked_by_distributed():
            raise ValueError(
                f"the bias of a {type(self).__name__} cannot be replaced: {self.why}, so that batch norm and the like "
                "cannot be folded into it; leave it out of the fusion"
            )
        super().__setattr__(name, value)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._loading = True
        try:
            super()._load_from_state_dict(*args)
        finally:
            self._loading = False
