"""A similarity of its own for every filter, which the paper decides against (section 4): "we let all the convolution
kernels of the same layer share the same neural similarity matrix"."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nsl.layers.conv import CONV_ARGUMENTS
from nsl.layers.inputs import check_maps
from nsl.layers.static import StaticLayer, StaticSimilarity
from nsl.layers.structure import Block, Structure


class UnsharedSimilarity(StaticSimilarity):
    """One learned M_f a filter: the free numbers are [F, D], F the first axis of `like`.

    Raises:
        ValueError: the structure mixes channels ("full").
    """

    def __init__(self, similarity: str | Structure, block: Block, like: Tensor) -> None:
        super().__init__(similarity, block, like)
        if not self.structure.is_shared:
            raise ValueError(f"similarity={self.structure!r} mixes channels; a filter's own M takes a shared block")
        self.similarity = nn.Parameter(self.similarity.detach().repeat(like.shape[0], 1))

    def forward(self, weight: Tensor) -> Tensor:
        """M_f^T W_f of every filter, of weight's shape."""
        if self.structure.is_mask:
            mask = self.structure.mask(self.similarity, self.block)
            return weight * mask.view(-1, 1, *self.block.kernel_size)
        return (weight.flatten(2) @ self._matrix()).view_as(weight)


class UnsharedNSConv2d(StaticLayer, nn.Conv2d):
    """Convolution with one static similarity a filter: y[f] = conv(x, M_f^T W_f) + b[f].

    With all M_f equal this is `nsl.NSConv2d`. A filter's own M_f adds nothing that its own kernel could not say; it
    only changes how the kernel is trained, and costs F times the numbers.

    Args:
        in_channels ... dtype: as in `torch.nn.Conv2d`.
        similarity: a name of `nsl.STRUCTURES` or an `nsl.Structure`; one that channels share.

    Parameters:
        weight [F, C / groups, kh, kw], bias [F], neural.similarity [F, D].

    Shapes: input [B, C, H, W], output [B, F, Ho, Wo].

    Raises:
        ValueError: unknown similarity, or one that mixes channels ("full").
    """

    plain = nn.Conv2d
    arguments = CONV_ARGUMENTS

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        similarity: str | Structure = "diagonal",
    ) -> None:
        geometry = (kernel_size, stride, padding, dilation)
        super().__init__(in_channels, out_channels, *geometry, groups, bias, padding_mode, device, dtype)  # type: ignore[arg-type]
        block = Block(tuple(self.weight.shape[2:]), self.weight.shape[1])
        self.neural = UnsharedSimilarity(similarity, block, self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo], or both without B."""
        check_maps(input, self.in_channels)
        return self._conv_forward(input, self.neural(self.weight), self.bias)
