"""The seam between PyTorch and the kernels: operators that autograd, `torch.compile` and CUDA graphs know.

Shapes, all channels last and contiguous: x [B, H, W, C], w [K, C, F], m [B, Ho, Wo, K] or [B, Ho, Wo, K, K],
y and dy [B, Ho, Wo, F]. `window` is kernel size, stride, padding and dilation, vertical before horizontal: 8 numbers.

    nsl::similarity_conv                        y
    nsl::similarity_conv_input_gradients        dx, dm
    nsl::similarity_conv_weight_gradient        dw

First derivatives are kernels. The gradients have derivatives themselves, by way of `definition`: second and higher ones
are the plain operations'.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def definition(x: Tensor, w: Tensor, m: Tensor, window: list[int]) -> Tensor:
    """y by PyTorch's own operations, to be differentiated any number of times."""
    kh, kw, sh, sw, top, left, dh, dw = window
    ho, wo = m.shape[1:3]
    padded = F.pad(x, (0, 0, left, left, top, top))
    slices = [
        padded[:, i * dh : i * dh + (ho - 1) * sh + 1 : sh, j * dw : j * dw + (wo - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    patches = torch.stack(slices, 3)  # [B, Ho, Wo, K, C]
    mixed = patches * m.unsqueeze(-1) if m.dim() == 4 else m @ patches
    return mixed.flatten(3) @ w.flatten(0, 1)


@torch.library.custom_op("nsl::similarity_conv", mutates_args=())
def similarity_conv(x: Tensor, w: Tensor, m: Tensor, window: list[int]) -> Tensor:
    """y."""
    from nsl.kernels import launch

    return launch.forward(x, w, m, launch.Window(*window))


@torch.library.custom_op("nsl::similarity_conv_input_gradients", mutates_args=())
def input_gradients(dy: Tensor, x: Tensor, w: Tensor, m: Tensor, window: list[int]) -> tuple[Tensor, Tensor]:
    """dx and dm."""
    from nsl.kernels import launch

    return launch.input_gradients(dy, x, w, m, launch.Window(*window))


@torch.library.custom_op("nsl::similarity_conv_weight_gradient", mutates_args=())
def weight_gradient(dy: Tensor, x: Tensor, w: Tensor, m: Tensor, window: list[int]) -> Tensor:
    """dw."""
    from nsl.kernels import launch

    return launch.weight_gradient(dy, x, w, m, launch.Window(*window))


@similarity_conv.register_fake
def _(x: Tensor, w: Tensor, m: Tensor, window: list[int]) -> Tensor:
    return x.new_empty(*m.shape[:3], w.shape[2])


@input_gradients.register_fake
def _(dy: Tensor, x: Tensor, w: Tensor, m: Tensor, window: list[int]) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(m)


@weight_gradient.register_fake
def _(dy: Tensor, x: Tensor, w: Tensor, m: Tensor, window: list[int]) -> Tensor:
    return torch.empty_like(w)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.window = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, w, m = ctx.saved_tensors
    dy = dy.contiguous()
    dx = dw = dm = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
        dx, dm = input_gradients(dy, x, w, m, ctx.window)
    if ctx.needs_input_grad[1]:
        dw = weight_gradient(dy, x, w, m, ctx.window)
    return dx, dw, dm, None


def _of_gradients(ctx: Any, wanted: tuple[int, ...], slopes: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """Backward of a gradient, of those of (x, w, m) that `wanted` names: all by the definition."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Copies of their own in the graph: m may depend on x outside, and that is not meant here.
        dy, *leaves = (
            tensor.view_as(tensor) if again and tensor.requires_grad else tensor.detach().requires_grad_()
            for tensor in ctx.saved_tensors
        )
        y = definition(*leaves, ctx.window)
        gradients = torch.autograd.grad(y, [leaves[i] for i in wanted], dy, create_graph=True)
        found = torch.autograd.grad(gradients, [dy, *leaves], slopes, create_graph=again, allow_unused=True)
    return (*found, None)


def _of_input_gradients(ctx: Any, dx: Tensor, dm: Tensor) -> tuple[Tensor | None, ...]:
    return _of_gradients(ctx, (0, 2), (dx, dm))


def _of_weight_gradient(ctx: Any, dw: Tensor) -> tuple[Tensor | None, ...]:
    return _of_gradients(ctx, (1,), (dw,))


similarity_conv.register_autograd(_gradients, setup_context=_keep)
input_gradients.register_autograd(_of_input_gradients, setup_context=_keep)
weight_gradient.register_autograd(_of_weight_gradient, setup_context=_keep)
