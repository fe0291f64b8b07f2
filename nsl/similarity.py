"""Structures of the similarity block M_s as parametrisations (paper 3.1, 3.4, 3.5).

All kernels and channels of a layer share one K x K block M_s, K = kernel_height * kernel_width. A structure says
which matrices M_s may be: it maps D free numbers to M_s. The static layer learns the D numbers, the dynamic
layer predicts D numbers a position. A new structure is one small class here, and no new layer.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Structure:
    """A parametrisation of M_s. Subclass it to bring your own; instances hold no tensors and can be shared.

    `assemble` must act on the last axis, so that the same code serves one matrix and a map of matrices.
    """

    name = "structure"

    def degrees_of_freedom(self, taps: int) -> int:
        """D, the number of free numbers of a K x K block, K = taps."""
        raise NotImplementedError

    def identity(self, taps: int) -> Tensor:
        """Free numbers [D] whose matrix is the identity."""
        raise NotImplementedError

    def assemble(self, free: Tensor, taps: int) -> Tensor:
        """Free numbers [..., D] to matrices [..., K, K]."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.name


class Diagonal(Structure):
    """DNS: M_s = diag(m), a mask over the kernel's taps; D = K."""

    name = "diagonal"

    def degrees_of_freedom(self, taps: int) -> int:
        return taps

    def identity(self, taps: int) -> Tensor:
        return torch.ones(taps)

    def assemble(self, free: Tensor, taps: int) -> Tensor:
        return torch.diag_embed(free)


class Unconstrained(Structure):
    """UNS: any M_s, row-major, rows are kernel taps k and columns input taps l; D = K^2."""

    name = "unconstrained"

    def degrees_of_freedom(self, taps: int) -> int:
        return taps * taps

    def identity(self, taps: int) -> Tensor:
        return torch.eye(taps).flatten()

    def assemble(self, free: Tensor, taps: int) -> Tensor:
        return free.unflatten(-1, (taps, taps))


STRUCTURES: dict[str, type[Structure]] = {cls.name: cls for cls in (Diagonal, Unconstrained)}


def make_structure(similarity: str | Structure) -> Structure:
    """A structure by its name, or the object itself.

    Raises:
        ValueError: the name is unknown; the sentence lists the known ones.
    """
    if isinstance(similarity, Structure):
        return similarity
    if similarity in STRUCTURES:
        return STRUCTURES[similarity]()
    raise ValueError(
        f"similarity must be one of {sorted(STRUCTURES)} or an nsl.Structure object, got {similarity!r}"
    )


def boolean_shape(real_shape: Tensor, threshold: float) -> Tensor:
    """D = 1[D_r > threshold], with the gradient at D handed to D_r unchanged (paper 3.5).

    An optimiser step on D_r is then the paper's update D_r <- D_r - eta * dLoss/dD.

    Args:
        real_shape: D_r [K].
        threshold: alpha.

    Returns:
        D [K], exactly zeros and ones.
    """
    boolean = (real_shape > threshold).to(real_shape.dtype)
    # x - x.detach() is exactly zero, so the forward value stays Boolean.
    return boolean + (real_shape - real_shape.detach())
