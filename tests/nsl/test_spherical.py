"""Patch norms and cosine convolution."""

from __future__ import annotations

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
    predictor = nsl.SpherePredictor(3, 9, 3, padding=1, hidden=4).double().eval()
    x = 5 * torch.randn(2, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(predictor(100 * x), predictor(x), rtol=1e-4, atol=1e-7)
    cnn = nsl.CNNPredictor(3, 9, 3, padding=1, hidden=4).double().eval()
    assert (cnn(100 * x) - cnn(x)).abs().max() > 10 * (predictor(100 * x) - predictor(x)).abs().max()


def test_the_full_sphere_predictor_bounds_its_output() -> None:
    torch.manual_seed(0)
    predictor = nsl.SpherePredictor(3, 9, 3, padding=1, hidden=4, full=True, batch_norm=False)
    assert predictor(100 * torch.randn(2, 3, 6, 6)).abs().max() <= 1


@pytest.mark.parametrize("head", ["batchnorm", "sigmoid", "tanh", "none"])
def test_every_head_of_the_cnn_predictor_gives_the_structure_its_numbers(head: str) -> None:
    raw = nsl.CNNPredictor(3, 9, 3, padding=1, hidden=4, head=head)(torch.randn(2, 3, 6, 6))
    assert raw.shape == (2, 9, 6, 6)
    if head in ("sigmoid", "tanh"):
        assert raw.abs().max() <= 1
    with pytest.raises(ValueError, match="head must be one of"):
        nsl.CNNPredictor(3, 9, 3, head="relu")
