"""The middle of a predictor in one step: what lies between its two convolutions, and the second of them.

    t = z s,   u = gamma (t - mean) / sqrt(variance + epsilon) + beta,   h = max(0, u),   y = second(h)

z is the first convolution's output and s the inverse patch norm (SphereNet; absent in a CNN predictor); without batch
norm u = t (paper 3.3, and the release). The second is a convolution, or a hyperspherical one by the cosine:

    y = conv(h, W / |W|) r,   r = (sum of the squares of h in the window + epsilon)^(-1/2)

`nsl.layers.middle` chooses between two ways of computing this. Module by module, which is the definition, keeps z, t
and h for the backward pass, three maps of 64 channels or more, beside which the layer's own are small, and reads or
writes such maps 21 times. `Middle` keeps only z, y and r, and makes t and h again (`kernels.cpp`, where there is a
compiler), some images at a time, so that h stays in the cache and no such map is allocated but z and its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsl.kernels import compiled
from nsl.kernels.definition import gradients_by_definition
from nsl.kernels.norms import Windows, inverse_norm_slopes, inverse_window_norm, scale_positions
from nsl.kernels.patches import chunk_bounds
from nsl.kernels.precision import wide_type

#: Stride, padding and dilation of a convolution, vertical before horizontal, and its groups.
Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]


@torch.no_grad()
def batch_moments(z: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of t, [h] each, float64."""
    count = z.numel() // z.shape[1]
    rows, scales = _rows(z), _positions(scale)
    shift = rows[0].to(wide_type(z))
    if scales is not None:
        shift = shift * scales[0]
    sums = torch.empty(2, z.shape[1], dtype=torch.float64, device=z.device)
    compiled.call("middle_moments", _shape(rows), rows, scales, shift, sums)
    offset, square = sums / count
    return shift + offset, (square - offset.square()).clamp_min(0)


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
    wide = wide_type(z)
    if gamma is None or beta is None or mean is None or variance is None:
        slope = torch.ones(z.shape[1], dtype=wide, device=z.device)
        return slope, torch.zeros_like(slope)
    slope = gamma.double() * (variance.double() + epsilon).rsqrt()
    return slope.to(wide), (beta - mean * slope).to(wide)


def _hidden(
    z: Tensor, scale: Tensor | None, slope: Tensor, offset: Tensor, energy: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """h, some images at a time: which, and their h, channels last, in a buffer that the next ones overwrite; into
    `energy` [B, 1, Ho, Wo], where it is given, go the sums of h's squares over the channels."""
    n, chunks = chunk_bounds(z.shape[0], z[0].numel() * z.element_size())
    buffer = torch.empty_like(z[:n], memory_format=torch.channels_last)
    for start, stop in chunks:
        part = None if scale is None else scale[start:stop]
        rows, hidden = _rows(z[start:stop]), buffer[: stop - start]
        squares = None if energy is None else energy[start:stop]
        compiled.call("middle_apply", _shape(rows), rows, _positions(part), slope, offset, _rows(hidden), squares)
        yield slice(start, stop), hidden


class Middle(torch.autograd.Function):
    """See the module; `mean` and `variance` [h] are the batch's in training and the running ones in evaluation,
    `weight` the second convolution's kernels in z's type, divided by their norms where that is hyperspherical;
    `patch_epsilon` is then what is added under the root of r, else None."""

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
        geometry: Geometry,
        patch_epsilon: float | None,
    ) -> Tensor:
        ctx.training, ctx.epsilon, ctx.geometry, ctx.patch_epsilon = training, epsilon, geometry, patch_epsilon
        line = _line(z, gamma, beta, mean, variance, epsilon)
        energy = None
        if patch_epsilon is not None:
            energy = torch.empty(z.shape[0], 1, *z.shape[2:], dtype=wide_type(z), device=z.device)
        parts = [F.conv2d(hidden, weight, None, *ctx.geometry) for _, hidden in _hidden(z, scale, *line, energy)]
        output = parts[0] if len(parts) == 1 else torch.cat(parts)
        ctx.windows = inverse = None
        if energy is not None and patch_epsilon is not None:
            kernel = (weight.shape[2], weight.shape[3])
            ctx.windows = Windows((z.shape[2], z.shape[3]), kernel, *ctx.geometry[:3])
            inverse = ctx.windows.sums(energy).add_(patch_epsilon).rsqrt_()
            # Rounding may carry a cosine beyond 1, in bfloat16 visibly.
            output = scale_positions(output, inverse.to(output.dtype)).clamp_(-1, 1)
        kept = None if patch_epsilon is None else output
        ctx.save_for_backward(z, scale, gamma, beta, weight, mean, variance, kept, inverse)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (z, scale, gamma, beta, weight, mean, variance, output, inverse) = gradients, ctx.saved_tensors
        rest = (None,) * 6
        if torch.is_grad_enabled() or compiled.batched(*gradients):  # a second derivative is wanted, or many first
            return (*_differentiable_backward(ctx, gradient), *rest)
        slope, offset = _line(z, gamma, beta, mean, variance, ctx.epsilon)
        energies = None  # dL/d energy of h [B, 1, Ho, Wo]
        if inverse is not None:
            # y = product * inverse, so that sum_d(dL/dy y) / inverse is dL/d inverse.
            along = (gradient * output).sum(1, keepdim=True, dtype=inverse.dtype).div_(inverse)
            energies = ctx.windows.spread(inverse_norm_slopes(along, inverse))
            gradient = scale_positions(gradient, inverse.to(gradient.dtype))
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
            sums = torch.empty(2, z.shape[1], dtype=torch.float64, device=z.device)
            centre = mean.to(slope.dtype)
            compiled.call("middle_sums", _shape(rows), slopes, rows, scales, slope, offset, centre, energies, sums)
            inverse_std = (variance.double() + ctx.epsilon).rsqrt()
            dbeta, dgamma = sums[0].to(beta.dtype), (sums[1] * inverse_std).to(gamma.dtype)
            if ctx.training:
                # The batch's statistics depend on t: dt = a (g - mean(g) - (t - mean) mean(g (t - mean)) / variance).
                curve = -slope * inverse_std.square() * sums[1] / len(rows)
                linear = curve.to(slope.dtype)
                constant = (-slope * sums[0] / len(rows) - curve * mean).to(slope.dtype)
        if scale is not None:
            dscale = torch.empty_like(scale, memory_format=torch.contiguous_format)
        compiled.call(
            "middle_gradients", _shape(rows), slopes, rows, scales, slope, offset, constant, linear, energies, dscale
        )
        return (dz, dscale, dgamma, dbeta, dweight, *rest)


def _differentiable_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients as differentiable functions of everything they depend on, by way of the definition."""
    *tensors, mean, variance, _, inverse = ctx.saved_tensors
    stride, padding, dilation, _ = ctx.geometry

    def definition(
        z: Tensor, scale: Tensor | None, gamma: Tensor | None, beta: Tensor | None, weight: Tensor
    ) -> Tensor:
        t = z if scale is None else z * scale.to(z.dtype)
        if gamma is not None:
            means, variances = (None, None) if ctx.training else (mean, variance)
            t = F.batch_norm(t, means, variances, gamma, beta, training=ctx.training, eps=ctx.epsilon)
        hidden = F.relu(t)
        output = F.conv2d(hidden, weight, None, *ctx.geometry)
        if inverse is None:
            return output
        kernel = (weight.shape[2], weight.shape[3])
        factor = inverse_window_norm(hidden, kernel, stride, padding, dilation, ctx.patch_epsilon)
        return output * factor.to(output.dtype)

    return gradients_by_definition(definition, tensors, ctx.needs_input_grad[:5], [gradient])
