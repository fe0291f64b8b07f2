"""The middle of a predictor: what lies between its two convolutions, and the second of them, in one step or by modules.

`nsl.kernels.predictor_middle` says what is computed, and does it in one step on the CPU. Here is what knows modules:
which of them that step, or the GPU's operators, can stand for, and the running statistics that it has to move.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.kernels import maps
from nsl.kernels.convolution import pair
from nsl.kernels.norms import scale_positions
from nsl.kernels.paths import path
from nsl.kernels.precision import wide_type
from nsl.kernels.predictor_middle import Middle, batch_moments
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
    """Whether `Middle` computes what these modules would."""
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
    """By `Middle`, which wants the modules' numbers."""
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
            mean, variance = batch_moments(z, scale)
            _update(norm, mean, variance, z.numel() // z.shape[1])
    weight = second.unit_weight() if isinstance(second, SphereConv2d) else second.weight
    weight = weight.to(z.dtype)
    geometry = (second.stride, second.padding, second.dilation, second.groups)
    patch_epsilon = EPSILON if isinstance(second, SphereConv2d) else None
    return Middle.apply(z, scale, gamma, beta, weight, mean, variance, training, epsilon, geometry, patch_epsilon)


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
