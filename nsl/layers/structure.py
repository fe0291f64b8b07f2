"""What a structure of the similarity block M_s is: a parametrisation, from D free numbers to a matrix (paper 3.1).

`nsl.layers.structures` has all that are known by name. One of your own is a subclass of `Structure`: given to a layer
as an object, or entered into `nsl.layers.structures.STRUCTURES` under its name.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nsl.numbers import is_whole


@dataclass(frozen=True)
class Block:
    """What a structure may depend on.

    Attributes:
        kernel_size: of the layer; (in_features,) for a linear map.
        channels: input channels of one group, which only an unshared structure reads.
    """

    kernel_size: tuple[int, ...]
    channels: int = 1

    @property
    def taps(self) -> int:
        """K."""
        return math.prod(self.kernel_size)


class Structure:
    """A parametrisation of M_s. Subclass it to bring your own; instances hold no tensors and can be shared.

    `assemble` must act on the last axis, so that the same code serves one matrix and a map of matrices.

    Attributes:
        name: in `extra_repr` and in messages.
        is_mask: M_s is diagonal for all free numbers; then `mask` gives the diagonal and layers use the cheaper
            diagonal code.
        is_shared: one K x K block for all channels; otherwise the matrix is (C K) x (C K).
        takes_device: whether `identity` takes a device; found by itself.
    """

    name = "structure"
    is_mask = False
    is_shared = True
    takes_device = True

    def size(self, block: Block) -> int:
        """Rows of the matrix: K, or C K when it is not shared."""
        return block.taps if self.is_shared else block.channels * block.taps

    def degrees_of_freedom(self, block: Block) -> int:
        """D, the number of free numbers."""
        raise NotImplementedError

    def identity(self, block: Block, device: torch.device | str = "cpu") -> Tensor:
        """Free numbers [D] whose matrix is the identity, or the nearest the structure has.

        A structure of yours may leave out `device`; a dynamic layer then copies from the CPU, on CUDA once.
        """
        raise NotImplementedError

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.takes_device = "device" in inspect.signature(cls.identity).parameters

    def identity_on(self, block: Block, device: torch.device | str = "cpu") -> Tensor:
        """`identity` on the device, also of a structure that knows no other than the CPU."""
        if self.takes_device:
            return self.identity(block, device)
        free = self.identity(block)
        return free if free.is_meta else free.to(device)

    def assemble(self, free: Tensor, block: Block) -> Tensor:
        """Free numbers [..., D] to matrices [..., size, size]."""
        raise NotImplementedError

    def mask(self, free: Tensor, block: Block) -> Tensor:
        """Free numbers [..., D] to diagonals [..., K]; only where `is_mask`."""
        raise NotImplementedError

    def penalty(self, free: Tensor, block: Block) -> Tensor | None:
        """A scalar for the loss, or None."""
        return None

    def __repr__(self) -> str:
        return self.name


def check_whole(what: str, value: Any) -> None:
    """Raise ValueError unless the argument named `what` is a whole number of at least 1."""
    if not is_whole(value, 1):
        raise ValueError(f"{what} must be a whole number of at least 1, got {value!r}")


def device_of(free: Tensor) -> torch.device:
    """Where constants for these numbers belong; what torch.fx traces with is nowhere."""
    return free.device if isinstance(free, Tensor) else torch.device("cpu")
