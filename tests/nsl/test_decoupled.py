"""Decoupled operators against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nsl
from nsl.layers.decoupled import ANGLES, MAGNITUDES, DecoupledConv2d
from nsl.layers.spherical import EPSILON
from tests.nsl.windows import moved, passes_gradcheck, positions


def h(name: str, norm: Tensor, alpha: Tensor, beta: Tensor, rho: Tensor) -> Tensor:
    if name == "sphere":
        return alpha * torch.ones_like(norm)
    if name == "ball":
        return alpha * torch.minimum(norm, rho) / rho
    if name == "tanh":
        return alpha * torch.tanh(norm / rho)
    if name == "linear":
        return alpha * norm
    if name == "log":
        return alpha * torch.log(1 + norm)
    return alpha * norm + beta * torch.log(1 + norm)


def g(name: str, cosine: Tensor, k: Tensor) -> Tensor:
    theta = torch.arccos(cosine)
    if name == "cosine":
        return torch.cos(theta)
    if name == "linear":
        return 1 - 2 * theta / math.pi
    if name == "square":
        return torch.sign(cosine) * cosine**2
    return torch.tanh((math.pi / 2 - theta) / (2 * k)) / torch.tanh(math.pi / (4 * k))


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_the_operator_is_magnitude_times_angle(magnitude: str, angle: str, weighted: bool, learnable: bool) -> None:
    options = {"magnitude": magnitude, "angle": angle, "weighted": weighted, "learnable": learnable}
    layer = DecoupledConv2d(2, 3, 3, padding=1, stride=2, bias=True, dtype=torch.float64, **options)
    moved(layer)
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    one = torch.ones(3, dtype=torch.float64)
    alpha = one if layer.alpha is None else layer.alpha
    beta = one if layer.beta is None else layer.beta
    rho = one * math.sqrt(18) if layer.rho is None else layer.rho.abs() + EPSILON
    k = one * 0.3 if layer.k is None else layer.k.abs() + 0.05
    kernels = layer.weight.flatten(1)
    length = (kernels.square().sum(1) + EPSILON).sqrt()
    y = layer(x)
    for i, j, patch in positions(x, layer):
        norm = (patch.flatten(1).square().sum(1, keepdim=True) + EPSILON).sqrt()  # [B, 1]
        cosine = patch.flatten(1) @ kernels.t() / norm / length
        expected = h(magnitude, norm, alpha, beta, rho) * g(angle, cosine, k)
        expected = (expected * length if weighted else expected) + layer.bias
        torch.testing.assert_close(y[:, :, i, j], expected, rtol=1e-9, atol=1e-10)


def test_weighted_linear_with_the_cosine_is_the_inner_product() -> None:
    layer = DecoupledConv2d(2, 3, 3, padding=1, magnitude="linear", weighted=True, dtype=torch.float64)
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, padding=1), rtol=1e-10, atol=1e-12)


def test_the_sphere_magnitude_is_hyperspherical_convolution() -> None:
    layer = DecoupledConv2d(2, 3, 3, padding=1, magnitude="sphere", dtype=torch.float64)
    sphere = nsl.SphereConv2d(2, 3, 3, padding=1, dtype=torch.float64)
    sphere.load_state_dict(layer.state_dict())
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x), sphere(x), rtol=1e-12, atol=1e-12)


#: Magnitudes that never exceed one, whatever the kernels and the input are.
BOUNDED = ("sphere", "ball", "tanh")


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_a_bounded_operator_stays_within_one_and_an_unbounded_one_does_not(magnitude: str) -> None:
    torch.manual_seed(0)
    layer = DecoupledConv2d(2, 3, 3, padding=1, magnitude=magnitude)
    largest = layer(1e4 * torch.randn(2, 2, 5, 4)).abs().max().item()
    assert (largest <= 1) == (magnitude in BOUNDED)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_derivatives_are_those_of_finite_differences(magnitude: str) -> None:
    layer = DecoupledConv2d(2, 2, 2, bias=True, magnitude=magnitude, angle="sigmoid", weighted=True, learnable=True,
                            dtype=torch.float64)
    assert passes_gradcheck(moved(layer), torch.randn(1, 2, 3, 3, dtype=torch.float64))


def test_unknown_names_are_named() -> None:
    with pytest.raises(ValueError, match="magnitude must be one of"):
        DecoupledConv2d(2, 3, 3, magnitude="cube")
    with pytest.raises(ValueError, match="angle must be one of"):
        DecoupledConv2d(2, 3, 3, angle="cube")
    with pytest.raises(ValueError, match="groups=1"):
        DecoupledConv2d(2, 2, 3, groups=2)
    with pytest.raises(ValueError, match="radius must be positive"):
        DecoupledConv2d(2, 2, 3, radius=0.0)


@pytest.mark.parametrize("kind", [DecoupledConv2d, nsl.SelectedConv2d, nsl.SphereConv2d])
def test_nothing_is_folded_into_a_layer_whose_output_does_not_scale_with_its_weight(kind: type[nn.Conv2d]) -> None:
    layer = kind(3, 4, 3).eval()
    with pytest.raises(ValueError, match=f"the bias of a {kind.__name__} cannot be replaced"):
        torch.nn.utils.fuse_conv_bn_eval(layer, nn.BatchNorm2d(4).eval())
    with_bias = kind(3, 4, 3, bias=True)
    with_bias.load_state_dict(kind(3, 4, 3, bias=True).state_dict(), assign=True)
