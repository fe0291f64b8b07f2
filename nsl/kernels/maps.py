"""The operators of `nsl.kernels.sphere` on maps as layers have them: channels first in the shapes, last in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from nsl.kernels import sphere
from nsl.kernels.geometry import output_size
from nsl.kernels.layouts import nhwc

Pair = tuple[int, int]


def inverse_of_energy(e: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, epsilon: float) -> Tensor:
    """Energies [B, H, W] of the positions to the inverse norms [B, 1, Ho, Wo] of the patches, float32."""
    out = [*output_size((e.shape[1], e.shape[2]), kernel, stride, padding, dilation)]
    window = [*kernel, *stride, *padding, *dilation]
    return sphere.inverse_norms(e, out, window, epsilon).unsqueeze(1)


def inverse_patch_norms(x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, epsilon: float) -> Tensor:
    """x [B, C, H, W] to (sum of a patch's squares + epsilon)^(-1/2) [B, 1, Ho, Wo], float32."""
    return inverse_of_energy(sphere.row_energy(nhwc(x)), kernel, stride, padding, dilation, epsilon)


def scaled(x: Tensor, s: Tensor, activation: str = "none", channels: int | None = None) -> Tensor:
    """x [B, C, H, W] times s [B, 1, H, W], then "relu", "clamp" or "none"; only the first `channels` of x."""
    y, _ = sphere.scale_rows(nhwc(x), s.squeeze(1).float().contiguous(), activation, channels or x.shape[1], False)
    return y.permute(0, 3, 1, 2)


def scaled_with_energy(x: Tensor, s: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """The same, and the energy [B, H, W] of the result."""
    y, e = sphere.scale_rows(nhwc(x), s.squeeze(1).float().contiguous(), activation, x.shape[1], True)
    return y.permute(0, 3, 1, 2), e


def unit_weight(weight: Tensor, dtype: torch.dtype, epsilon: float, count: int | None = None) -> Tensor:
    """Kernels [F, C, kh, kw] over their norms, in the given type; kernels of zeros up to `count` are appended."""
    unit = sphere.unit_rows(nhwc(weight), count or len(weight), dtype, epsilon)
    return unit.permute(0, 3, 1, 2)
