"""The middle of a predictor in one step: what lies between its two convolutions, and the second of them.

    t = z s,   u = gamma (t - mean) / sqrt(variance + epsilon) + beta,   h = max(0, u),   y = second(h)

z is the first convolution's output and s the inverse patch norm (SphereNet; absent in a CNN predictor); without batch
norm u = t (paper 3.3, and the release). The second is a convolution, or a hyperspherical one by the cosine:

    y = conv(h, W / |W|) r,   r = (sum of the squares of h in the window + epsilon)^(-1/2)

`middle` chooses between two ways of computing this. Module by module, which is the definition, keeps z, t and h for the
backward pass, three maps of 64 channels or more, beside which the layer's own are small, and reads or writes such maps
21 times. `_Middle` keeps only z, y and r, and makes t and h again (`kernels.cpp`, where there is a compiler), some
images at a time, so that h stays in the cache and no such map is allocated but z and its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.kernels import compiled, maps
from nsl.kernels.convolution import pair
from nsl.kernels.definition import gradients_by_definition
from nsl.kernels.norms import Windows, inverse_norm_slopes, inverse_window_norm, scale_positions
from nsl.kernels.patches import chunk_bounds
from nsl.kernels.paths import path
from nsl.kernels.precision import wide_type
from nsl.layers.spherical import EPSILON, SphereConv2d, observed

torch.fx.wrap("scale_positions")


def middle(
    z: Tensor,
    scale: Tensor | None,
    norm: nn.Module,
    second: nn.Module,
    pads: tuple[int, int, int, int] | None = None,
) -> Tensor:
    """`second(relu(norm(z * scale)))`.

    Args:
        z: [B, h, Ho, Wo].
        scale: [B, 1, Ho, Wo], or None for 1.
        norm: batch norm or the identity; its running statistics are updated as it would do it itself.
        second: a convolution.
        pads: zeros to put left, right, above and below of the second convolution's input.

    Returns:
        [B, D, Ho', Wo'], in z's type; of a hyperspherical convolution clamped to [-1, 1], beyond which it can only get
        by rounding.
    """
    if pads is None and _fits(z, norm, second):
        assert isinstance(second, nn.Conv2d)
        return _fused(z, scale, norm if isinstance(norm, nn.BatchNorm2d) else None, second)
    if scale is not None and path(z) == "triton" and z.numel():
        if pads is None and isinstance(norm, nn.Identity) and _is_plain_cosine(second):
            assert isinstance(second, SphereConv2d)
            return _on_gpu(z, scale, second)
        z = maps.scaled(z, scale)
    elif scale is not None:
        z = scale_positions(z, scale.to(z.dtype))
    # In place, unless someone is shown what the norm puts out.
    hidden = F.relu(norm(z), inplace=not observed(norm) and (not isinstance(norm, nn.Identity) or scale is not None))
    output = second(hidden if pads is None else F.pad(hidden, pads))
    return output.clamp(-1, 1) if isinstance(second, SphereConv2d) and second.bias is None else output


def _fits(z: Tensor, norm: nn.Module, second: nn.Module) -> bool:
    """Whether `_Middle` computes what these modules would."""
    if path(z) != "native" or z.numel() == 0 or not z.is_contiguous(memory_format=torch.channels_last):
        return False
    if torch.is_autocast_enabled("cpu") and z.dtype != torch.get_autocast_dtype("cpu"):
        return False
    if observed(norm) or observed(second):
        return False
    if type(second) is nn.Conv2d:
        if second.bias is not None or second.padding_mode != "zeros" or isinstance(second.padding, str):
            return False
    elif not _is_plain_cosine(second):
        return False
    if isinstance(norm, nn.Identity):
        return True
    known = type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats and norm.momentum is not None
    return known and (not norm.training or z.numel() > z.shape[1])


def _is_plain_cosine(second: nn.Module) -> bool:
    """Whether this is a hyperspherical convolution and nothing beside."""
    if type(second) is not SphereConv2d or second.operator != "cosine" or second.groups != 1:
        return False
    plain = second.bias is None and second.padding_mode == "zeros" and not isinstance(second.padding, str)
    return plain and not observed(second)


def _on_gpu(z: Tensor, scale: Tensor, second: SphereConv2d) -> Tensor:
    """Without a norm, by the operators of `nsl.kernels`: h and its energy in one pass, y in one pass.

    The convolution has its filters filled up to a multiple of eight, as tensor cores want them; the last pass leaves
    the others out again.
    """
    stride, padding, dilation = pair(second.stride), pair(second.padding), pair(second.dilation)
    filters, device = second.out_channels, z.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else z.dtype
    hidden, energy = maps.scaled_with_energy(z, scale, "relu")
    weight = maps.unit_weight(second.weight, dtype, EPSILON, -(-filters // 8) * 8)
    product = F.conv2d(hidden, weight, None, stride, padding, dilation)
    inverse = maps.inverse_of_energy(energy, pair(second.kernel_size), stride, padding, dilation, EPSILON)
    return maps.scaled(product, inverse, "clamp", filters)


def _fused(z: Tensor, scale: Tensor | None, norm: nn.BatchNorm2d | None, second: nn.Conv2d) -> Tensor:
    wide = wide_type(z)
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
    weight = second.unit_weight() if isinstance(second, SphereConv2d) else second.weight
    weight = weight.to(z.dtype)
    return _Middle.apply(z, scale, gamma, beta, weight, mean, variance, training, epsilon, second)


@torch.no_grad()
def _moments(z: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
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


class _Middle(torch.autograd.Function):
    """See the module; `mean` and `variance` [h] are the batch's in training and the running ones in evaluation,
    `weight` the second convolution's kernels in z's type, divided by their norms where that is hyperspherical."""

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
        ctx.training, ctx.epsilon = training, epsilon
        ctx.geometry = second.stride, second.padding, second.dilation, second.groups
        line = _line(z, gamma, beta, mean, variance, epsilon)
        sphere = isinstance(second, SphereConv2d)
        energy = None
        if sphere:
            energy = torch.empty(z.shape[0], 1, *z.shape[2:], dtype=wide_type(z), device=z.device)
        parts = [F.conv2d(hidden, weight, None, *ctx.geometry) for _, hidden in _hidden(z, scale, *line, energy)]
        output = parts[0] if len(parts) == 1 else torch.cat(parts)
        ctx.windows = inverse = None
        if energy is not None:
            kernel = (weight.shape[2], weight.shape[3])
            ctx.windows = Windows((z.shape[2], z.shape[3]), kernel, *ctx.geometry[:3])
            inverse = ctx.windows.sums(energy).add_(EPSILON).rsqrt_()
            # Rounding may carry a cosine beyond 1, in bfloat16 visibly.
            output = scale_positions(output, inverse.to(output.dtype)).clamp_(-1, 1)
        kept = output if sphere else None
        ctx.save_for_backward(z, scale, gamma, beta, weight, mean, variance, kept, inverse)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (z, scale, gamma, beta, weight, mean, variance, output, inverse) = gradients, ctx.saved_tensors
        rest = (None,) * 5
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
        factor = inverse_window_norm(hidden, kernel, stride, padding, dilation, EPSILON)
        return output * factor.to(output.dtype)

    return gradients_by_definition(definition, tensors, ctx.needs_input_grad[:5], [gradient])
