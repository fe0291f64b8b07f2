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

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsl.kernels.geometry import tap_slices


def taps(x: Tensor, out: Sequence[int], window: list[int]) -> list[Tensor]:
    """What each tap reads of x, K times [B, Ho, Wo, C]."""
    kh, kw, sh, sw, top, left, dh, dw = window
    padded = F.pad(x, (0, 0, left, left, top, top))
    return [padded[:, rows, columns] for rows, columns in tap_slices((kh, kw), (sh, sw), (dh, dw), out)]


def definition(x: Tensor, w: Tensor, m: Tensor, window: list[int]) -> Tensor:
    """y by PyTorch's own operations, to be differentiated any number of times."""
    patches = torch.stack(taps(x, m.shape[1:3], window), 3)  # [B, Ho, Wo, K, C]
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


def _of_conv(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, w, m = ctx.saved_tensors
    dy = dy.contiguous()
    dx = dw = dm = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
        dx, dm = input_gradients(dy, x, w, m, ctx.window)
    if ctx.needs_input_grad[1]:
        dw = weight_gradient(dy, x, w, m, ctx.window)
    return dx, dw, dm, None


def again(
    function: Callable[..., Any],
    outer: Sequence[Tensor],
    tensors: Sequence[Tensor],
    wanted: list[int],
    slopes: Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """Backward of a gradient: of y = function(*tensors), one tensor or several, by those that `wanted` numbers.

    Args:
        outer: dL/dy, as many as y has tensors.
        slopes: of the loss by each of those gradients.

    Returns:
        What the outer ones and each of the tensors receive.
    """
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, nodes of their own in the graph: m may depend on x outside, and that is not meant here.
        leaves = [
            tensor.view_as(tensor) if further and tensor.requires_grad else tensor.detach().requires_grad_()
            for tensor in (*outer, *tensors)
        ]
        inner = leaves[len(outer) :]
        chosen = [inner[i] for i in wanted]
        gradients = torch.autograd.grad(function(*inner), chosen, leaves[: len(outer)], create_graph=True)
        return torch.autograd.grad(gradients, leaves, slopes, create_graph=further, allow_unused=True)


def _of_input_gradients(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
    dy, *tensors = ctx.saved_tensors
    return (*again(partial(definition, window=ctx.window), [dy], tensors, [0, 2], slopes), None)


def _of_weight_gradient(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    dy, *tensors = ctx.saved_tensors
    return (*again(partial(definition, window=ctx.window), [dy], tensors, [1], [slope]), None)


similarity_conv.register_autograd(_of_conv, setup_context=_keep)
input_gradients.register_autograd(_of_input_gradients, setup_context=_keep)
weight_gradient.register_autograd(_of_weight_gradient, setup_context=_keep)
