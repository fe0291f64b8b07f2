"""The middle of a predictor in one step: what lies between its two convolutions, and the second of them.

    t = z s,   u = gamma (t - mean) / sqrt(variance + epsilon) + beta,   h = max(0, u),   y = second(h)

z is the first convolution's output and s the inverse patch norm (SphereNet; absent in a CNN predictor); without batch
norm u = t (paper 3.3, and the release).

`middle` chooses between two ways of computing this. Module by module, which is the definition, keeps z, t and h for the
backward pass, three maps of 64 channels or more, beside which the layer's own are small, and reads or writes such maps
21 times. `_Middle` keeps only z and makes t and h again (`kernels.cpp`, where there is a compiler), some images at a
time, so that h stays in the cache and no such map is allocated but z and its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl import compiled
from nsl.kernels.paths import path
from nsl.patches import chunk_bounds, scale_positions


def middle(z: Tensor, scale: Tensor | None, norm: nn.Module, second: nn.Module) -> Tensor:
    """`second(relu(norm(z * scale)))`.

    Args:
        z: [B, h, Ho, Wo].
        scale: [B, 1, Ho, Wo], or None for 1.
        norm: batch norm or the identity; its running statistics are updated as it would do it itself.
        second: a convolution.

    Returns:
        [B, D, Ho', Wo'], in z's type.
    """
    if _fits(z, norm, second):
        assert isinstance(second, nn.Conv2d)
        return _fused(z, scale, norm if isinstance(norm, nn.BatchNorm2d) else None, second)
    if scale is not None:
        z = scale_positions(z, scale.to(z.dtype))
    return second(F.relu(norm(z), inplace=True))


def _fits(z: Tensor, norm: nn.Module, second: nn.Module) -> bool:
    """Whether `_Middle` computes what these modules would."""
    if path(z) != "native" or z.numel() == 0 or not z.is_contiguous(memory_format=torch.channels_last):
        return False
    if torch.is_autocast_enabled("cpu") and z.dtype != torch.get_autocast_dtype("cpu"):
        return False
    if any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in (norm, second)):
        return False
    if type(second) is not nn.Conv2d or second.bias is not None or second.padding_mode != "zeros":
        return False
    if isinstance(second.padding, str):
        return False
    if isinstance(norm, nn.Identity):
        return True
    known = type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats and norm.momentum is not None
    return known and (not norm.training or z.numel() > z.shape[1])


def _fused(z: Tensor, scale: Tensor | None, norm: nn.BatchNorm2d | None, second: nn.Conv2d) -> Tensor:
    wide = _wide(z)
    if scale is not None:
        scale = scale.to(wide)
    gamma = beta = mean = variance = None
    training, epsilon = False, 0.0
    if norm is not None:
        gamma, beta = norm.weight.to(wide), norm.bias.to(wide)
        training, epsilon = norm.training, norm.eps
        mean, variance = norm.running_mean, norm.running_var
        if training:
            mean, variance = _moments(z, scale)
            _update(norm, mean, variance, z.numel() // z.shape[1])
    weight = second.weight.to(z.dtype)
    return _Middle.apply(z, scale, gamma, beta, weight, mean, variance, training, epsilon, second)


@torch.no_grad()
def _moments(z: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of t, [h] each, float64."""
    count = z.numel() // z.shape[1]
    rows, scales = _rows(z), _positions(scale)
    shift = rows[0].to(_wide(z))
    if scales is not None:
        shift = shift * scales[0]
    sums = torch.empty(2, z.shape[1], dtype=torch.float64)
    compiled.call("middle_moments", _shape(rows), rows, scales, shift, sums)
    offset, square = sums / count
    return shift + offset, (square - offset.square()).clamp_min(0)


@torch.no_grad()
def _update(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """The running statistics, as `torch.nn.BatchNorm2d` updates them."""
    assert norm.momentum is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
    norm.running_var.lerp_((variance * count / (count - 1)).to(norm.running_var.dtype), norm.momentum)


def _wide(z: Tensor) -> torch.dtype:
    """Type of the kernels' sums and coefficients."""
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def _rows(maps: Tensor) -> Tensor:
    """[B, C, H, W] to contiguous [B * H * W, C]; free for channels-last tensors."""
    return maps.permute(0, 2, 3, 1).contiguous().view(-1, maps.shape[1])


def _positions(scale: Tensor | None) -> Tensor | None:
    """[B, 1, H, W] to contiguous [B * H * W]."""
    return None if scale is None else scale.detach().reshape(-1).contiguous()


def _shape(rows: Tensor) -> compiled.Rows:
    return compiled.Rows(rows.shape[0], rows.shape[1], torch.get_num_threads())


def _line(
    z: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """a and b [h] of u = a t + b."""
    wide = _wide(z)
    if gamma is None or beta is None or mean is None or variance is None:
        return torch.ones(z.shape[1], dtype=wide), torch.zeros(z.shape[1], dtype=wide)
    slope = gamma.double() * (variance.double() + epsilon).rsqrt()
    return slope.to(wide), (beta - mean * slope).to(wide)


def _hidden(z: Tensor, scale: Tensor | None, slope: Tensor, offset: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """h, some images at a time: which, and their h, channels last, in a buffer that the next ones overwrite."""
    n, chunks = chunk_bounds(z.shape[0], z[0].numel() * z.element_size())
    buffer = torch.empty_like(z[:n], memory_format=torch.channels_last)
    for start, stop in chunks:
        part = None if scale is None else scale[start:stop]
        rows, hidden = _rows(z[start:stop]), buffer[: stop - start]
        compiled.call("middle_apply", _shape(rows), rows, _positions(part), slope, offset, _rows(hidden))
        yield slice(start, stop), hidden


class _Middle(torch.autograd.Function):
    """See the module; `mean` and `variance` [h] are the batch's in training and the running ones in evaluation."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        scale: Tensor | None,
        gamma: Tensor | None,
        beta: Tensor | None,
        weight: Tensor,
        mean: Tensor | None,
        variance: Tensor | None,
        training: bool,
        epsilon: float,
        second: nn.Conv2d,
    ) -> Tensor:
        ctx.save_for_backward(z, scale, gamma, beta, weight, mean, variance)
        ctx.training, ctx.epsilon = training, epsilon
        ctx.geometry = second.stride, second.padding, second.dilation, second.groups
        line = _line(z, gamma, beta, mean, variance, epsilon)
        parts = [F.conv2d(hidden, weight, None, *ctx.geometry) for _, hidden in _hidden(z, scale, *line)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (z, scale, gamma, beta, weight, mean, variance) = gradients, ctx.saved_tensors
        rest = (None,) * 5
        if torch.is_grad_enabled():  # create_graph=True: a second derivative is wanted
            return (*_differentiable_backward(ctx, gradient), *rest)
        slope, offset = _line(z, gamma, beta, mean, variance, ctx.epsilon)
        stride, padding, dilation, groups = ctx.geometry
        dz = torch.empty_like(z, memory_format=torch.channels_last)  # first dh
        total: Tensor | None = None
        for images, hidden in _hidden(z, scale, slope, offset):
            dz[images], part, _ = torch.ops.aten.convolution_backward(
                gradient[images],
                hidden,
                weight,
                None,
                stride,
                padding,
                dilation,
                False,
                [0, 0],
                groups,
                [True, ctx.needs_input_grad[4], False],
            )
            if part is not None:  # added up in at least float32
                total = part.to(slope.dtype) if total is None else total.add_(part)
        dweight = None if total is None else total.to(weight.dtype)
        rows, slopes, scales = _rows(z), _rows(dz), _positions(scale)
        constant, linear = torch.zeros_like(slope), torch.zeros_like(slope)
        dgamma = dbeta = dscale = None
        if gamma is not None:
            sums = torch.empty(2, z.shape[1], dtype=torch.float64)
            centre = mean.to(slope.dtype)
            compiled.call("middle_sums", _shape(rows), slopes, rows, scales, slope, offset, centre, sums)
            inverse = (variance.double() + ctx.epsilon).rsqrt()
            dbeta, dgamma = sums[0].to(beta.dtype), (sums[1] * inverse).to(gamma.dtype)
            if ctx.training:
                # The batch's statistics depend on t: dt = a (g - mean(g) - (t - mean) mean(g (t - mean)) / variance).
                curve = -slope * inverse.square() * sums[1] / len(rows)
                linear = curve.to(slope.dtype)
                constant = (-slope * sums[0] / len(rows) - curve * mean).to(slope.dtype)
        if scale is not None:
            dscale = torch.empty_like(scale, memory_format=torch.contiguous_format)
        compiled.call(
            "middle_gradients", _shape(rows), slopes, rows, scales, slope, offset, constant, linear, dscale
        )
        return (dz, dscale, dgamma, dbeta, dweight, *rest)


def _differentiable_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients as differentiable functions of everything they depend on, by way of the definition."""
    z, scale, gamma, beta, weight, mean, variance = ctx.saved_tensors
    t = z if scale is None else z * scale.to(z.dtype)
    if gamma is not None:
        means, variances = (None, None) if ctx.training else (mean, variance)
        t = F.batch_norm(t, means, variances, gamma, beta, training=ctx.training, eps=ctx.epsilon)
    output = F.conv2d(F.relu(t), weight, None, *ctx.geometry)
    needed = ctx.needs_input_grad[:5]
    wanted = [tensor for tensor, need in zip((z, scale, gamma, beta, weight), needed) if need]
    found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=True))
    return tuple(next(found) if need else None for need in needed)
