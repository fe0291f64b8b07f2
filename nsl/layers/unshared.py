"""A similarity of its own for every filter, which the paper decides against (section 4): "we let all the convolution
kernels of the same layer share the same neural similarity matrix"."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nsl.layers.conv import CONV_ARGUMENTS
from nsl.layers.inputs import check_maps
from nsl.layers.similarity import plain_options, refuse_stale
from nsl.layers.static import filled
from nsl.layers.structures import Block, Structure, make_structure


class UnsharedNSConv2d(nn.Conv2d):
    """Convolution with one static similarity a filter: y[f] = conv(x, M_f^T W_f) + b[f].

    With all M_f equal this is `nsl.NSConv2d`. A filter's own M_f adds nothing that its own kernel could not say; it
    only changes how the kernel is trained, and costs F times the numbers.

    Args:
        in_channels ... dtype: as in `torch.nn.Conv2d`.
        similarity: a name of `nsl.STRUCTURES` or an `nsl.Structure`; one that channels share.

    Parameters:
        weight [F, C / groups, kh, kw], bias [F], similarity [F, D].

    Shapes: input [B, C, H, W], output [B, F, Ho, Wo].

    Raises:
        ValueError: unknown similarity, or one that mixes channels ("full").
    """

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
        similarity: str | Structure = "diagonal",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        geometry = (kernel_size, stride, padding, dilation)
        super().__init__(in_channels, out_channels, *geometry, groups, bias, padding_mode, device, dtype)  # type: ignore[arg-type]
        self.structure = make_structure(similarity)
        if not self.structure.is_shared:
            raise ValueError(f"similarity={self.structure!r} mixes channels; a filter's own M takes a shared block")
        self.block = Block(tuple(self.weight.shape[2:]), self.weight.shape[1])
        free = self.structure.identity(self.block).to(self.weight)
        self.similarity = nn.Parameter(free.repeat(out_channels, 1))

    def reset_parameters(self) -> None:
        """Conv2d's initialisation, and the identity for every filter."""
        super().reset_parameters()
        if hasattr(self, "similarity"):
            with torch.no_grad():
                self.similarity.copy_(self.structure.identity(self.block))

    def similarity_matrix(self) -> Tensor:
        """All M_f [F, K, K]."""
        return self.structure.assemble(self.similarity, self.block)

    def effective_weight(self) -> Tensor:
        """M_f^T W_f of every filter, of weight's shape."""
        if self.structure.is_mask:
            mask = self.structure.mask(self.similarity, self.block)
            return self.weight * mask.view(-1, 1, *self.block.kernel_size)
        return (self.weight.flatten(2) @ self.similarity_matrix()).view_as(self.weight)

    def similarity_penalty(self) -> Tensor | None:
        """The structure's penalty over all filters, a scalar, or None."""
        return self.structure.penalty(self.similarity, self.block)

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo], or both without B."""
        check_maps(input, self.in_channels)
        return self._conv_forward(input, self.effective_weight(), self.bias)

    def fold(self) -> nn.Module:
        """The `torch.nn.Conv2d` with equal outputs.

        Raises:
            ValueError: a forward pre-hook computes one of the layer's tensors.
        """
        refuse_stale(self, "weight", "similarity")
        return filled(nn.Conv2d(**plain_options(self, CONV_ARGUMENTS)), self, self.effective_weight())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, similarity={self.structure!r}, one a filter"
