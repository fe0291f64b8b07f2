"""Norms of patches, by which a SphereNet divides: channels' squares, sums over windows, and all gradients of those.

Each in plain tensor operations and, where they can be had, by the compiled kernels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsl.kernels import compiled
from nsl.kernels.definition import gradients_by_definition
from nsl.kernels.geometry import output_size
from nsl.kernels.patches import Patches
from nsl.kernels.paths import path
from nsl.kernels.precision import wide_type


def scale_positions(x: Tensor, scale: Tensor) -> Tensor:
    """`x * scale`, one number a position: [B, C, H, W] times [B, 1, H, W] (SphereNet's division by the patch norm).

    PyTorch's own product broadcasts channel by channel; on channels-last tensors a 1x1 similarity does the same
    several times faster.
    """
    if path(x) == "native" and x.is_contiguous(memory_format=torch.channels_last) and compiled.has_memory(scale):
        fits = x.dtype == scale.dtype and x.shape[2:] == scale.shape[2:] and x.shape[0] == scale.shape[0]
        if fits and x.numel():
            return _Scale.apply(x, scale)
    return x * scale


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        size = (x.shape[2], x.shape[3])
        rows, masks = x.permute(0, 2, 3, 1), scale.permute(0, 2, 3, 1).contiguous()
        scaled = torch.empty_like(x)  # channels last, as x
        target = scaled.permute(0, 2, 3, 1).unsqueeze(-2)
        Patches(size, size, (1, 1), (1, 1), (0, 0), (1, 1)).apply(rows, masks, target)
        return scaled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,), (x, scale) = gradients, ctx.saved_tensors
        return (
            scale_positions(gradient, scale) if ctx.needs_input_grad[0] else None,
            (gradient * x).sum(1, keepdim=True) if ctx.needs_input_grad[1] else None,
        )


def channel_energy(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum of the channels' squares, [B, C, H, W] to [B, 1, H, W], added up in `dtype`."""
    return _Energy.apply(x, dtype) if path(x) == "native" else _plain_energy(x, dtype)


def _plain_energy(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`channel_energy` in plain tensor operations."""
    wide = x.to(dtype)  # squared in `dtype` too: a square rounded to bfloat16 has 8 bits
    return (wide * wide).sum(1, keepdim=True)


class _Energy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x)
        return _row_energy(x, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return scale_positions(x, (2 * gradients[0]).to(x.dtype)), None


class Windows:
    """Sums over the windows of a convolution, of maps of one channel: [B, 1, H, W] to [B, 1, Ho, Wo], and back.

    Args:
        size: H and W.
        kernel, stride, padding, dilation: of the convolution, (vertical, horizontal).
    """

    def __init__(
        self,
        size: tuple[int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> None:
        self.size, self.pairs = size, (kernel, stride, padding, dilation)
        self.out = output_size(size, kernel, stride, padding, dilation)

    def _geometry(self, images: int) -> compiled.Geometry:
        pairs = [side for pair in self.pairs for side in pair]
        return compiled.Geometry(images, *self.size, 1, *self.out, *pairs, torch.get_num_threads())

    def sums(self, energy: Tensor) -> Tensor:
        """Forward; compiled kernels only (`nsl.layers.spherical.patch_norm` has the same in plain PyTorch)."""
        found = torch.empty(len(energy), 1, *self.out, dtype=energy.dtype, device=energy.device)
        compiled.call("window_sum", self._geometry(len(energy)), energy, found)
        return found

    def spread(self, slopes: Tensor) -> Tensor:
        """Backward: slopes of the sums to slopes of the energy."""
        found = torch.empty(len(slopes), 1, *self.size, dtype=slopes.dtype, device=slopes.device)
        compiled.call("window_spread", self._geometry(len(slopes)), slopes.contiguous(), found)
        return found


def inverse_norm_slopes(gradient: Tensor, inverse: Tensor) -> Tensor:
    """dL/d window sum from dL/d inverse: inverse = (sum + epsilon)^(-1/2)."""
    return gradient * inverse.pow(3).mul_(-0.5)


class ProductAndNorm(torch.autograd.Function):
    """A convolution and the inverse norms of the patches it sees: conv(x, weight), (sum of squares + epsilon)^(-1/2).

    x [B, C, H, W], weight [F, C, kh, kw] to [B, F, Ho, Wo] and, in at least float32, [B, 1, Ho, Wo]. Both gradients
    of x are written into one map. Compiled kernels only; second derivatives go by the definition.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        epsilon: float,
    ) -> tuple[Tensor, Tensor]:
        kernel = (weight.shape[2], weight.shape[3])
        ctx.windows = Windows((x.shape[2], x.shape[3]), kernel, stride, padding, dilation)
        inverse = ctx.windows.sums(_row_energy(x, wide_type(x))).add_(epsilon).rsqrt_()
        ctx.geometry, ctx.epsilon = (stride, padding, dilation), epsilon
        ctx.save_for_backward(x, weight, inverse)
        return F.conv2d(x, weight, None, *ctx.geometry), inverse

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        needed, rest = ctx.needs_input_grad[:2], (None,) * 4
        stride, padding, dilation = ctx.geometry
        if torch.is_grad_enabled() or compiled.batched(*gradients):  # a second derivative is wanted, or many first

            def definition(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
                kernel = (weight.shape[2], weight.shape[3])
                inverse = inverse_window_norm(x, kernel, stride, padding, dilation, ctx.epsilon)
                return F.conv2d(x, weight, None, stride, padding, dilation), inverse

            return (*gradients_by_definition(definition, (x, weight), needed, gradients), *rest)
        dx, dweight, _ = torch.ops.aten.convolution_backward(
            gradients[0], x, weight, None, stride, padding, dilation, False, [0, 0], 1, [*needed, False]
        )
        if dx is not None:
            slopes = ctx.windows.spread(inverse_norm_slopes(gradients[1], inverse))
            rows, target = x.permute(0, 2, 3, 1), dx.permute(0, 2, 3, 1)
            if rows.is_contiguous() and target.is_contiguous():
                shape = compiled.Rows(slopes.numel(), x.shape[1], torch.get_num_threads())
                compiled.call("row_energy_gradient", shape, target, rows, slopes)
            else:
                dx = dx + x * slopes.mul_(2).to(x.dtype)
        return (dx, dweight, *rest)


def inverse_window_norm(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    epsilon: float,
) -> Tensor:
    """(sum of a patch's squares + epsilon)^(-1/2), [B, C, H, W] to [B, 1, Ho, Wo], in differentiable tensor operations:
    the definition of what the compiled kernels do."""
    energy = _plain_energy(x, wide_type(x))
    window = F.conv2d(energy, energy.new_ones(1, 1, *kernel), None, stride, padding, dilation)
    return (window + epsilon).rsqrt()


def _row_energy(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`channel_energy` without a gradient."""
    rows = x.permute(0, 2, 3, 1)
    if not rows.is_contiguous() or dtype != wide_type(x):
        return _plain_energy(x, dtype)
    energy = torch.empty(x.shape[0], 1, *x.shape[2:], dtype=dtype, device=x.device)
    shape = compiled.Rows(energy.numel(), x.shape[1], torch.get_num_threads())
    compiled.call("row_energy", shape, rows, energy)
    return energy
