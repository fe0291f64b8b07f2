"""Structures of the similarity block M_s as parametrisations (paper 3.1, 3.4, 3.5; low rank is ours).

All kernels and channels of a layer share one K x K block M_s, K = number of kernel taps. A structure says which
matrices M_s may be: it maps D free numbers to M_s. The static layer learns the D numbers, the dynamic layer predicts
D numbers a position. A new structure is one small class here, and no new layer.

    name              D                M_s                                    start
    diagonal          K                diag(m): a mask over the taps (DNS)    identity
    unconstrained     K^2              any matrix (UNS)                       identity
    full              (C K)^2          any (C K) x (C K) matrix, unshared     identity
    symmetric         K (K + 1) / 2    M = M^T                                identity
    psd               K (K + 1) / 2    M = L L^T, L lower triangular          identity
    low_rank (ours)   2 K r            U V^T, or I + U V^T                    nearest of rank r; identity
    hard_sparse       K^2              at most n non-zeros                    identity (n >= K)
    shift             K^2              one non-zero a row                     identity
    dilated           taps kept        a mask, zero off a dilated grid        the grid's identity
    l1                of the inner     another structure with an l1 penalty   of the inner

The joint shape of paper 3.5, M_s = D R, is an argument of the layers (`learn_shape`) that multiplies any of them.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from nsl.layers.largest import keep_largest
from nsl.layers.structure import Block, Structure, check_whole, device_of

#: An unshared M with more entries than this is warned about (256 MiB in float32, and its gradient again).
FULL_WARNING_ENTRIES = 1 << 26


class Diagonal(Structure):
    """DNS: M_s = diag(m), a mask over the kernel's taps; D = K."""

    name = "diagonal"
    is_mask = True

    def degrees_of_freedom(self, block: Block) -> int:
        return block.taps

    def identity(self, block: Block, device: torch.device | str = "cpu") -> Tensor:
        return torch.ones(block.taps, device=device)

    def mask(self, free: Tensor, block: Block) -> Tensor:
        return free

    def assemble(self, free: Tensor, block: Block) -> Tensor:
        return torch.diag_embed(self.mask(free, block))


class Unconstrained(Structure):
    """UNS: any M_s, row-major, rows are kernel taps k and columns input taps l; D = K^2."""

    name = "unconstrained"

    def degrees_of_freedom(self, block: Block) -> int:
        return self.size(block) ** 2

    def identity(self, block: Block, device: torch.device | str = "cpu") -> Tensor:
        return torch.eye(self.size(block), device=device).flatten()

    def assemble(self, free: Tensor, block: Block) -> Tensor:
        return free.unflatten(-1, (self.size(block), self.size(block)))


class Full(Unconstrained):
    """The unshared M of equation (1): any (C K) x (C K) matrix, channels mixed too; D = (C K)^2. Static only.

    With groups every group has C / groups channels and all groups share the matrix. Warns from 2^26 entries on.
    """

    name = "full"
    is_shared = False

    def identity(self, block: Block, device: torch.device | str = "cpu") -> Tensor:
        entries = self.degrees_of_freedom(block)
        if entries > FULL_WARNING_ENTRIES:
            warnings.warn(
                f"similarity='full' has {entries:,} entries here ({4 * entries / 2**30:.1f} GiB in float32, and its "
                "gradient as much again); 'unconstrained' shares one block among the channels.",
                stacklevel=3,
            )
        return super().identity(block, device)


def _triangle(taps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For every entry of a K x K matrix its place in the row-major lower triangle, and whether it lies in it."""
    rows, columns = torch.meshgrid(*(torch.arange(taps, device=device),) * 2, indexing="ij")
    low, high = torch.minimum(rows, columns), torch.maximum(rows, columns)
    return (high * (high + 1) // 2 + low).flatten(), rows >= columns


class Symmetric(Structure):
    """M_s = M_s^T; the free numbers are the lower triangle, row-major; D = K (K + 1) / 2."""

    name = "symmetric"

    def degrees_of_freedom(self, block: Block) -> int:
        return block.taps * (block.taps + 1) // 2

    def identity(self, block: Block, device: torch.device | str = "cpu") -> Tensor:
        eye = torch.eye(block.taps, device=device)
        return eye[tuple(torch.tril_indices(block.taps, block.taps, device=device))]

    def assemble(self, free: Tensor, block: Block) -> Tensor:
        places, _ = _triangle(block.taps, device_of(free))
        return free[..., places].unflatten(-1, (block.taps, block.taps))


class PSD(Symmetric):
    """M_s = L L^T, positive semi-definite; the free numbers are L's lower triangle; D = K (K + 1) / 2."""

    name = "psd"

    def assemble(self, free: Tensor, block: Block) -> Tensor:
        _, inside = _triangle(block.taps, device_of(free))
        lower = super().assemble(free, block) * inside
        return lower @ lower.transpose(-1, -2)


class LowRank(Structure):
    """M_s = U V^T of rank r, or I + U V^T with `residual`; D = 2 K r.

    Without `residual` the start is a projection of rank r, to which no matrix of that rank is nearer to the identity:
    onto the r lowest cosines over the taps in row-major order, so that no single tap is dropped. With it, U = 0 and V
    are those cosines, and M_s starts as the identity.

    Args:
        rank: r, at least 1 and below K to be of use.
        residual: add the identity.
    """

    name = "low_rank"

    def __init__(self, rank: int = 3, residual: bool = False) -> None:
        check_whole("low_rank: rank", rank)
        self.rank, self.residual = rank, residual

    def degrees_of_freedom(self, block: Block) -> int:
        return 2 * block.taps * self.rank

    def identity(self, block: Block, device: torch.device | str = "cpu") -> Tensor:
        taps = torch.arange(block.taps, dtype=torch.float64, device=device)
        ranks = torch.arange(self.rank, device=device)
        cosines = torch.cos(math.pi / block.taps * (taps[:, None] + 0.5) * ranks[None, :])
        basis = nn.functional.normalize(cosines, dim=0)
        # More than K cosines repeat; a rank beyond K is allowed and starts with zeros there.
        basis[:, block.taps :] = 0
        left = torch.zeros_like(basis) if self.residual else basis
        return torch.stack([left, basis]).flatten().to(torch.get_default_dtype())

    def assemble(self, free: Tensor, block: Block) -> Tensor:
        left, right = free.unflatten(-1, (2, block.taps, self.rank)).unbind(-3)
        matrix = left @ right.transpose(-1, -2)
        if not self.residual:
            return matrix
        return matrix + torch.eye(block.taps, device=device_of(free)).to(free)

    def __repr__(self) -> str:
        return f"low_rank(rank={self.rank}, residual={self.residual})"


class HardSparse(Unconstrained):
    """At most n non-zeros in M_s, the n largest magnitudes of K^2 free numbers, straight-through; D = K^2.

    Args:
        nonzeros: n; None means K. Below K the identity keeps only its first n entries.
    """

    name = "hard_sparse"

    def __init__(self, nonzeros: int | None = None) -> None:
        if nonzeros is not None:
            check_whole("hard_sparse: nonzeros", nonzeros)
        self.nonzeros = nonzeros

    def assemble(self, free: Tensor, block: Block) -> Tensor:
        count = block.taps if self.nonzeros is None else min(self.nonzeros, block.taps**2)
        return super().assemble(keep_largest(free, count), block)

    def __repr__(self) -> str:
        return "hard_sparse" if self.nonzeros is None else f"hard_sparse(nonzeros={self.nonzeros})"


class Shift(Unconstrained):
    """One non-zero a row, its largest magnitude, straight-through; D = K^2 ("sparsity-one").

    Kernel tap k then reads the single input tap l(k). Where many taps read the same one the folded layer needs few
    shifts: see `nsl.ShiftConv2d`.
    """

    name = "shift"

    def assemble(self, free: Tensor, block: Block) -> Tensor:
        return keep_largest(super().assemble(free, block), 1)


class Dilated(Diagonal):
    """A mask that is zero off a grid of every `factor`-th tap around the centre; D = number of taps on the grid.

    A 5x5 kernel with factor 2 has nine taps left: it folds into a 3x3 convolution of dilation 2.

    Args:
        factor: distance of the grid's taps, at least 1.
    """

    name = "dilated"

    def __init__(self, factor: int = 2) -> None:
        check_whole("dilated: factor", factor)
        self.factor = factor

    def grid(self, block: Block, device: torch.device | str = "cpu") -> Tensor:
        """Which taps stay, Boolean [K], made on the device: a copy from the host could not be captured in a graph."""
        inside = torch.ones(1, dtype=torch.bool, device=device)
        for length in block.kernel_size:
            axis = (torch.arange(length, device=device) - length // 2) % self.factor == 0
            inside = (inside[:, None] & axis[None, :]).flatten()
        return inside

    def degrees_of_freedom(self, block: Block) -> int:
        # On both sides of the centre, and the centre. A list: torch.compile reads no generators.
        sides = [(length // 2, (length - 1) // 2) for length in block.kernel_size]
        return math.prod([before // self.factor + after // self.factor + 1 for before, after in sides])

    def identity(self, block: Block, device: torch.device | str = "cpu") -> Tensor:
        return torch.ones(self.degrees_of_freedom(block), device=device)

    def mask(self, free: Tensor, block: Block) -> Tensor:
        grid = self.grid(block, device_of(free))
        return free[..., (grid.long().cumsum(0) - 1).clamp_min(0)] * grid

    def __repr__(self) -> str:
        return f"dilated(factor={self.factor})"


class L1(Structure):
    """Another structure whose M_s pays coefficient * sum |M_s[k, l]|: soft sparsity. Static only.

    With `learn_shape` it is R of M_s = D R that pays, also for taps that D has dropped and may bring back.

    The layer computes the same as without; `nsl.similarity_penalty(model)` collects the penalties for the loss.

    Args:
        inner: the structure or its name.
        coefficient: of the penalty.
    """

    name = "l1"

    def __init__(self, inner: str | Structure = "unconstrained", coefficient: float = 1e-4) -> None:
        if not coefficient >= 0:
            raise ValueError(f"l1: coefficient must not be negative, got {coefficient}")
        self.inner, self.coefficient = make_structure(inner), float(coefficient)
        self.is_mask, self.is_shared = self.inner.is_mask, self.inner.is_shared
        self.takes_device = self.inner.takes_device

    def degrees_of_freedom(self, block: Block) -> int:
        return self.inner.degrees_of_freedom(block)

    def identity(self, block: Block, device: torch.device | str = "cpu") -> Tensor:
        return self.inner.identity_on(block, device)

    def assemble(self, free: Tensor, block: Block) -> Tensor:
        return self.inner.assemble(free, block)

    def mask(self, free: Tensor, block: Block) -> Tensor:
        return self.inner.mask(free, block)

    def penalty(self, free: Tensor, block: Block) -> Tensor:
        values = self.mask(free, block) if self.is_mask else self.assemble(free, block)
        own, inner = self.coefficient * values.abs().sum(), self.inner.penalty(free, block)
        return own if inner is None else own + inner

    def __repr__(self) -> str:
        return f"l1({self.inner!r}, coefficient={self.coefficient:g})"


STRUCTURES: dict[str, type[Structure]] = {
    cls.name: cls
    for cls in (Diagonal, Unconstrained, Full, Symmetric, PSD, LowRank, HardSparse, Shift, Dilated, L1)
}


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
