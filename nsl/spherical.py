"""Hyperspherical convolution: the parameter-free dynamic similarity M(X) = I / (||w|| ||x||) (paper 3.3, ref. 39)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.functional import _pair
from nsl.patches import channel_energy, scale_positions

#: Added under both square roots, the value of the authors' release.
EPSILON = 1e-4


def patch_norm(
    input: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    epsilon: float = EPSILON,
) -> Tensor:
    """Euclidean norm of every patch a convolution sees: sqrt(conv(x^2, ones) + epsilon).

    Channels are summed before the window, so it costs one pass over the input and one convolution of a single
    map. Computed in at least float32: a sum of squares loses too much in bfloat16.

    Args:
        input: [B, C, H, W].
        kernel_size, stride, padding, dilation, groups: of the convolution whose patches are meant.
        epsilon: under the square root.

    Returns:
        [B, groups, Ho, Wo].
    """
    kernel = _pair(kernel_size)
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    batch, channels, height, width = input.shape
    with torch.autocast(input.device.type, enabled=False):
        if groups == 1:
            energy = channel_energy(input, dtype)
        else:
            grouped = input.reshape(batch, groups, channels // groups, height, width)
            energy = (grouped * grouped).sum(2, dtype=dtype)
        ones = energy.new_ones(groups, 1, *kernel)
        window = F.conv2d(energy, ones, None, _pair(stride), _pair(padding), _pair(dilation), groups)
        return (window + epsilon).sqrt()


class SphereConv2d(nn.Conv2d):
    """Cosine convolution: the inner product divided by the norms of patch and kernel.

    Same signature as `torch.nn.Conv2d` (default without bias, as in the release). Every output lies in [-1, 1]
    when there is no bias.

    Shapes: input [B, C, H, W], output [B, F, Ho, Wo], weight [F, C / groups, kh, kw].

    Source: paper 3.3; Liu et al., Deep Hyperspherical Learning, NeurIPS 2017. Epsilon as in the release.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if isinstance(padding, str):
            raise ValueError(f"padding must be an integer or a pair of integers, got {padding!r}")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo]."""
        padding = _pair(self.padding)  # type: ignore[arg-type]
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        norm = (self.weight.square().sum((1, 2, 3), keepdim=True) + EPSILON).sqrt()
        kernel, stride, dilation = _pair(self.kernel_size), _pair(self.stride), _pair(self.dilation)
        product = F.conv2d(input, self.weight / norm, None, stride, padding, dilation, self.groups)
        inverse = patch_norm(input, kernel, stride, padding, dilation, self.groups).reciprocal()
        if self.groups > 1:
            inverse = inverse.repeat_interleave(self.out_channels // self.groups, 1)
        inverse = inverse.to(product.dtype)
        output = scale_positions(product, inverse) if self.groups == 1 else product * inverse
        return output if self.bias is None else output + self.bias.to(product.dtype).view(1, -1, 1, 1)
