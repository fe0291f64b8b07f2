"""Shapes of the kernel beyond the paper's static Boolean D: continuous, and produced by the predictor (paper 3.5).

    "if we do not require the diagonal of D to be Boolean, then it will become a continuous spatial mask";
    "It is also easy to dynamically produce D with a neural network, but we do not consider this case".

Both are structures of M_s = D R whose free numbers are d and those of R, so that a static layer learns them and a
dynamic layer predicts them at every position. `FewTaps` is the shift structure with a budget of taps (3.4).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from nsl.layers.largest import keep_largest
from nsl.layers.similarity import SHAPE_THRESHOLD, boolean_shape, check_threshold
from nsl.layers.structure import Block, Structure, check_whole
from nsl.layers.structures import Shift, Unconstrained, make_structure


class Shaped(Structure):
    """M_s = diag(d) R: free numbers are d [K], then those of R; at the start d = 1.

    In a static layer a continuous d is the rows' scale of R, which the kernel could absorb; predicted, it is a second
    mask on the kernel's side of R. A Boolean d is 1[d > threshold], its gradient that of d (straight-through).

    Args:
        inner: the structure of R, or its name; one that channels share.
        boolean: d is 0 or 1; False: any number.
        threshold: alpha of a Boolean d, below 1, where d starts.

    Raises:
        ValueError: unknown structure, one that mixes channels, or a threshold from 1 on.
    """

    name = "shaped"

    def __init__(
        self, inner: str | Structure = "diagonal", boolean: bool = False, threshold: float = SHAPE_THRESHOLD
    ) -> None:
        self.inner, self.boolean, self.threshold = make_structure(inner), boolean, float(threshold)
        check_threshold("threshold", self.threshold)
        self.is_mask, self.takes_device = self.inner.is_mask, self.inner.takes_device
        if not self.inner.is_shared:
            raise ValueError(f"shaped: {self.inner!r} mixes channels; choose a structure that they share")

    def degrees_of_freedom(self, block: Block) -> int:
        return block.taps + self.inner.degrees_of_freedom(block)

    def identity(self, block: Block, device: torch.device | str = "cpu") -> Tensor:
        inner = self.inner.identity_on(block, device)
        return torch.cat([inner.new_ones(block.taps), inner])

    def shape(self, free: Tensor, block: Block) -> Tensor:
        """d of free numbers [..., D], [..., K]."""
        d = free[..., : block.taps]
        return boolean_shape(d, self.threshold) if self.boolean else d

    def mask(self, free: Tensor, block: Block) -> Tensor:
        return self.shape(free, block) * self.inner.mask(free[..., block.taps :], block)

    def assemble(self, free: Tensor, block: Block) -> Tensor:
        inner = self.inner.assemble(free[..., block.taps :], block)
        return self.shape(free, block).unsqueeze(-1) * inner

    def penalty(self, free: Tensor, block: Block) -> Tensor | None:
        return self.inner.penalty(free[..., block.taps :], block)

    def __repr__(self) -> str:
        threshold = "" if self.threshold == SHAPE_THRESHOLD else f", threshold={self.threshold:g}"
        return f"shaped({self.inner!r}, boolean={self.boolean}{threshold})"


class FewTaps(Shift):
    """One non-zero a row (a shift), in at most T columns: the folded layer is T shifts and a 1x1 convolution.

    `nsl.Shift` lets every kernel tap choose its own input tap, so that from the identity on nearly all stay in use and
    nothing is saved. Here the T input taps whose columns have the largest sums of magnitudes are kept, the others are
    exactly zero, and of what is left every row keeps its largest entry; straight-through, so that a tap can come back.
    The multiply-adds of the folded layer are T / K of the convolution's. A row whose kept entries are zero stays zero.

    Args:
        count: T.

    Raises:
        ValueError: count is below 1.
    """

    name = "few_taps"

    def __init__(self, count: int = 3) -> None:
        check_whole("few_taps: count", count)
        self.count = count

    def identity(self, block: Block, device: torch.device | str = "cpu") -> Tensor:
        """Every row reads its nearest of T taps spread evenly over the kernel, the centre first; D numbers."""
        # Plain numbers, so that a network can also be built without storage (on the meta device).
        places = list(itertools.product(*map(range, block.kernel_size)))
        kept = self._spread(places)
        rows = [[0.0] * block.taps for _ in places]
        for row, place in zip(rows, places):
            row[min(kept, key=lambda tap: math.dist(place, places[tap]))] = 1.0
        return torch.tensor(rows, device=device).flatten()

    def _spread(self, places: list[tuple[int, ...]]) -> list[int]:
        """Indices of T taps, each next one the farthest from those before; the centre is the first."""
        kept = [len(places) // 2]
        while len(kept) < min(self.count, len(places)):
            far = [min(math.dist(place, places[tap]) for tap in kept) for place in places]
            kept.append(far.index(max(far)))
        return kept

    def assemble(self, free: Tensor, block: Block) -> Tensor:
        matrix = Unconstrained.assemble(self, free, block)
        columns = matrix.detach().abs().sum(-2)
        order = columns.sort(dim=-1, descending=True, stable=True).indices[..., : self.count]
        keep = torch.zeros_like(columns).scatter(-1, order, 1.0).unsqueeze(-2)
        # x - x.detach() is exactly zero: nothing is added but the gradient.
        return keep_largest(matrix * keep, 1) + (matrix - matrix.detach()) * (1 - keep)

    def __repr__(self) -> str:
        return f"few_taps(count={self.count})"
