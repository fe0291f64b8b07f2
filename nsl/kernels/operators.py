"""The seam between PyTorch and the kernels: operators that autograd, `torch.compile` and CUDA graphs know.

Shapes, all channels last and contiguous: x [B, H, W, C], w [K, C, F], m [B, Ho, Wo, K] or [B, Ho, Wo, K, K],
y and dy [B, Ho, Wo, F], norm and its slope [B, Ho, Wo] float32. `window` is kernel size, stride, padding and dilation,
vertical before horizontal: 8 numbers.

    nsl::similarity_conv                        y
    nsl::similarity_conv_input_gradients        dx, dm
    nsl::similarity_conv_weight_gradient        dw
    nsl::patch_norm                             norm = sqrt(sum of a patch's squares + epsilon)
    nsl::patch_norm_gradient                    dx

First derivatives are kernels. The gradients have derivatives themselves, by way of the definitions below: second and
higher ones are the plain operations'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _taps(x: Tensor, out: Sequence[int], window: list[int]) -> list[Tensor]:
    """What each tap reads of x, K times [B, Ho, Wo, C]."""
    kh, kw, sh, sw, top, left, dh, dw = window
    padded = F.pad(x, (0, 0, left, left, top, top))
    return [
        padded[:, i * dh : i * dh + (out[0] - 1) * sh + 1 : sh, j * dw : j * dw + (out[1] - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]


def definition(x: Tensor, w: Tensor, m: Tensor, window: list[int]) -> Tensor:
    """y by PyTorch's own operations, to be differentiated any number of times."""
    patches = torch.stack(_taps(x, m.shape[1:3], window), 3)  # [B, Ho, Wo, K, C]
    mixed = patches * m.unsqueeze(-1) if m.dim() == 4 else m @ patches
    return mixed.flatten(3) @ w.flatten(0, 1)


def norm_definition(x: Tensor, out: Sequence[int], window: list[int], epsilon: float) -> Tensor:
    """The patch norms by PyTorch's own operations, in at least float32: slices, which no TF32 convolution rounds."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    energy = (wide * wide).sum(3, keepdim=True)
    return (torch.stack(_taps(energy, out, window)).sum(0).squeeze(3) + epsilon).sqrt()


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


@torch.library.custom_op("nsl::patch_norm", mutates_args=())
def patch_norm(x: Tensor, out: list[int], window: list[int], epsilon: float) -> Tensor:
    """The norms of the patches; `out` is Ho and Wo."""
    from nsl.kernels import launch

    return launch.patch_norm(x, out, launch.Window(*window), epsilon)


@torch.library.custom_op("nsl::patch_norm_gradient", mutates_args=())
def patch_norm_gradient(slope: Tensor, x: Tensor, norm: Tensor, window: list[int], epsilon: float) -> Tensor:
    """dx; `norm` must be x's, and is no variable of its own where this is differentiated."""
    from nsl.kernels import launch

    return launch.patch_norm_gradient(slope, x, norm, launch.Window(*window))


@similarity_conv.register_fake
def _(x: Tensor, w: Tensor, m: Tensor, window: list[int]) -> Tensor:
    return x.new_empty(*m.shape[:3], w.shape[2])


@input_gradients.register_fake
def _(dy: Tensor, x: Tensor, w: Tensor, m: Tensor, window: list[int]) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(m)


@weight_gradient.register_fake
def _(dy: Tensor, x: Tensor, w: Tensor, m: Tensor, window: list[int]) -> Tensor:
    return torch.empty_like(w)


@patch_norm.register_fake
def _(x: Tensor, out: list[int], window: list[int], epsilon: float) -> Tensor:
    return x.new_empty(x.shape[0], *out, dtype=torch.float32)


@patch_norm_gradient.register_fake
def _(slope: Tensor, x: Tensor, norm: Tensor, window: list[int], epsilon: float) -> Tensor:
    return torch.empty_like(x)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.window = inputs
    ctx.save_for_backward(*tensors)


def _keep_norm(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.geometry = inputs
    ctx.save_for_backward(x, output)


def _keep_norm_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    slope, x, norm, *ctx.geometry = inputs
    ctx.out = norm.shape[1:]
    ctx.save_for_backward(slope, x)


def _of_conv(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, w, m = ctx.saved_tensors
    dy = dy.contiguous()
    dx = dw = dm = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
        dx, dm = input_gradients(dy, x, w, m, ctx.window)
    if ctx.needs_input_grad[1]:
        dw = weight_gradient(dy, x, w, m, ctx.window)
    return dx, dw, dm, None


def _of_norm(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    x, norm = ctx.saved_tensors
    _, window, epsilon = ctx.geometry
    return patch_norm_gradient(slope.contiguous(), x, norm, window, epsilon), None, None, None


def _again(
    function: Callable[..., Tensor], saved: Sequence[Tensor], wanted: list[int], slopes: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Backward of a gradient: of y = function(*tensors), by those tensors that `wanted` numbers.

    Args:
        saved: dy and the tensors.
        slopes: of the loss by each of those gradients.

    Returns:
        What dy and each of the tensors receive.
    """
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, nodes of their own in the graph: m may depend on x outside, and that is not meant here.
        dy, *leaves = (
            tensor.view_as(tensor) if further and tensor.requires_grad else tensor.detach().requires_grad_()
            for tensor in saved
        )
        gradients = torch.autograd.grad(function(*leaves), [leaves[i] for i in wanted], dy, create_graph=True)
        return torch.autograd.grad(gradients, [dy, *leaves], slopes, create_graph=further, allow_unused=True)


def _of_input_gradients(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
    return (*_again(partial(definition, window=ctx.window), ctx.saved_tensors, [0, 2], slopes), None)


def _of_weight_gradient(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    return (*_again(partial(definition, window=ctx.window), ctx.saved_tensors, [1], [slope]), None)


def _of_norm_gradient(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    window, epsilon = ctx.geometry
    function = partial(norm_definition, out=ctx.out, window=window, epsilon=epsilon)
    return (*_again(function, ctx.saved_tensors, [0], [slope]), None, None, None)


similarity_conv.register_autograd(_of_conv, setup_context=_keep)
input_gradients.register_autograd(_of_input_gradients, setup_context=_keep)
weight_gradient.register_autograd(_of_weight_gradient, setup_context=_keep)
patch_norm.register_autograd(_of_norm, setup_context=_keep_norm)
patch_norm_gradient.register_autograd(_of_norm_gradient, setup_context=_keep_norm_gradient)
