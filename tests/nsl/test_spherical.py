"""Patch norms and cosine convolution."""

from __future__ import annotations

import math

import pytest
import torch

import nsl
from tests.nsl.configurations import random_geometry


@pytest.mark.parametrize("seed", range(40))
def test_the_cosine_convolution_is_the_inner_product_over_both_norms(seed: int) -> None:
    g = random_geometry(seed)
    torch.manual_seed(seed)
    layer = nsl.SphereConv2d(
        g.channels, g.filters, g.kernel, g.stride, g.padding, g.dilation, g.groups, g.bias, dtype=torch.float64
    )
    x = torch.randn(g.batch, g.channels, *g.size, dtype=torch.float64)
    y = layer(x)
    columns = torch.nn.functional.unfold(x, g.kernel, g.dilation, g.padding, g.stride)
    columns = columns.view(g.batch, g.groups, -1, columns.shape[-1])
    w = layer.weight.view(g.groups, g.filters // g.groups, -1)
    product = torch.einsum("gfd,bgdp->bgfp", w, columns)
    norms = (w.square().sum(-1) + 1e-4).sqrt()[None, :, :, None] * (columns.square().sum(2) + 1e-4).sqrt()[:, :, None]
    expected = (product / norms).view(g.batch, g.filters, *y.shape[-2:])
    if layer.bias is not None:
        expected = expected + layer.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_cosines_lie_between_minus_one_and_one_and_ignore_the_length_of_input_and_kernel() -> None:
    torch.manual_seed(0)
    layer = nsl.SphereConv2d(3, 5, 3, padding=1)
    x = 10 * torch.randn(2, 3, 8, 8)
    y = layer(x)
    assert y.abs().max() <= 1
    torch.testing.assert_close(layer(1000 * x), y, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        layer.weight.mul_(100)
    torch.testing.assert_close(layer(x), y, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_finite_at_a_zero_patch(dtype: torch.dtype) -> None:
    layer = nsl.SphereConv2d(2, 3, 3, padding=1)
    x = torch.zeros(1, 2, 5, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        layer(x).sum().backward()
    for gradient in (x.grad, layer.weight.grad):
        assert gradient is not None
        assert gradient.isfinite().all()


def test_the_sphere_predictor_sees_the_direction_of_a_patch_and_not_its_length() -> None:
    torch.manual_seed(0)
    predictor = nsl.SpherePredictor(3, 9, 3, padding=1, hidden=4).double()
    with torch.no_grad():
        predictor.second.weight.mul_(1000)  # a norm beside which the epsilon is nothing
    x = 5 * torch.randn(2, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(predictor(100 * x), predictor(x), rtol=1e-4, atol=1e-7)
    cnn = nsl.CNNPredictor(3, 9, 3, padding=1, hidden=4).double().eval()
    assert (cnn(100 * x) - cnn(x)).abs().max() > 10 * (predictor(100 * x) - predictor(x)).abs().max()


@pytest.mark.parametrize("head", ["batchnorm", "sigmoid", "tanh", "none"])
def test_every_head_of_the_cnn_predictor_gives_the_structure_its_numbers(head: str) -> None:
    raw = nsl.CNNPredictor(3, 9, 3, padding=1, hidden=4, head=head)(torch.randn(2, 3, 6, 6))
    assert raw.shape == (2, 9, 6, 6)
    if head in ("sigmoid", "tanh"):
        assert raw.abs().max() <= 1
    with pytest.raises(ValueError, match="head must be one of"):
        nsl.CNNPredictor(3, 9, 3, head="relu")


def angles(*theta: float) -> torch.Tensor:
    return torch.tensor(theta, dtype=torch.float64)


@pytest.mark.parametrize("operator", ["cosine", "linear", "sigmoid", "learnable_sigmoid"])
def test_operators_are_1_at_0_and_0_at_a_right_angle_and_minus_1_at_pi(operator: str) -> None:
    values = nsl.angular(angles(0, math.pi / 2, math.pi).cos(), operator)
    torch.testing.assert_close(values, angles(1, 0, -1), rtol=0, atol=1e-12)


def test_operators_equal_their_formulas_in_the_angle() -> None:
    theta, k = torch.linspace(0.05, 3.1, 60, dtype=torch.float64), 0.3
    torch.testing.assert_close(nsl.angular(theta.cos(), "linear"), 1 - 2 * theta / math.pi)
    half = math.pi / (2 * k)
    ratio = (1 - torch.exp(theta / k - half)) / (1 + torch.exp(theta / k - half))
    expected = (1 + math.exp(-half)) / (1 - math.exp(-half)) * ratio
    torch.testing.assert_close(nsl.angular(theta.cos(), "sigmoid"), expected)
    assert not torch.allclose(nsl.angular(theta.cos(), "sigmoid", 0.7), expected)


@pytest.mark.parametrize("operator", ["linear", "sigmoid"])
def test_operators_pass_gradcheck_away_from_the_ends(operator: str) -> None:
    cosine = torch.linspace(-0.95, 0.95, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: nsl.angular(c, operator), (cosine,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("operator", ["linear", "sigmoid"])
def test_gradients_are_finite_and_not_lost_at_0_and_pi(operator: str, dtype: torch.dtype) -> None:
    cosine = torch.tensor([1.0, -1.0, 1 + 1e-3, -1 - 1e-3], dtype=dtype, requires_grad=True)
    value = nsl.angular(cosine, operator)
    assert value.dtype == dtype
    assert value.abs().max() <= 1
    value.sum().backward()
    assert cosine.grad.isfinite().all()
    assert (cosine.grad > 0).all()


@pytest.mark.parametrize("operator", ["linear", "sigmoid", "learnable_sigmoid"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_layers_of_every_operator_train_on_a_patch_equal_to_the_kernel(
    operator: str, precision: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = nsl.SphereConv2d(2, 3, 3, operator=operator)
    x = torch.cat([layer.weight.detach()[:1], -layer.weight.detach()[:1]]) * 100
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        y = layer(x)
    assert y.abs().max() <= 1
    y.float().sum().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert f"operator='{operator}'" in repr(layer)


def test_the_learnable_sigmoid_has_one_k_a_filter() -> None:
    torch.manual_seed(0)
    layer = nsl.SphereConv2d(2, 3, 3, operator="learnable_sigmoid", dtype=torch.float64)
    with torch.no_grad():
        layer.k.copy_(angles(0.2, -0.7, 1.5))
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    cosine = nsl.SphereConv2d(2, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        cosine.weight.copy_(layer.weight)
    effective = angles(0.25, 0.75, 1.55).view(1, 3, 1, 1)  # |k| + 0.05
    expected = nsl.angular(cosine(x), "sigmoid", effective)
    torch.testing.assert_close(layer(x), expected)
    with pytest.raises(ValueError, match="operator must be one of"):
        nsl.SphereConv2d(2, 3, 3, operator="square")
