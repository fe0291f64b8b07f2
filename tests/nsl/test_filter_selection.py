"""Filters chosen by the input, against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nsl.layers.filter_selection import MixtureConv2d, SelectedConv2d
from tests.nsl.windows import moved, passes_gradcheck


def image() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(4, 3, 5, 4, dtype=torch.float64)


def test_a_gate_switches_its_filter_off_for_the_image() -> None:
    layer = SelectedConv2d(3, 8, 3, padding=1, hidden=4, dtype=torch.float64)
    moved(layer)
    with torch.no_grad():
        layer.gater[2].bias.zero_()
    x = image()
    numbers = layer.gater[2].weight @ torch.relu(
        layer.gater[0].weight @ x.mean((2, 3)).t() + layer.gater[0].bias[:, None]
    )
    gates = (numbers.t() + layer.gater[2].bias > 0).double()
    assert 0 < gates.mean() < 1
    expected = F.conv2d(x, layer.weight, layer.bias, padding=1) * gates[:, :, None, None]
    assert torch.equal(layer.gates(x), gates)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_the_gates_gradient_is_the_sigmoids() -> None:
    layer = SelectedConv2d(3, 2, 3, hidden=4, dtype=torch.float64)
    x = image()
    hard = torch.autograd.grad(layer.gates(x).sum(), layer.gater[2].weight)[0]
    soft = torch.autograd.grad(torch.sigmoid(layer.gater(x.mean((2, 3)))).sum(), layer.gater[2].weight)[0]
    torch.testing.assert_close(hard, soft, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("routing", ["softmax", "sigmoid"])
def test_a_mixture_convolves_with_the_mixed_kernel_of_the_image(routing: str) -> None:
    layer = MixtureConv2d(3, 5, 3, stride=2, padding=1, banks=3, routing=routing, dtype=torch.float64)
    moved(layer)
    x = image()
    for b in range(len(x)):
        numbers = layer.router.weight @ x[b].mean((1, 2)) + layer.router.bias
        pi = numbers.softmax(0) if routing == "softmax" else 1 / (1 + torch.exp(-numbers))
        kernel = sum(pi[e] * bank for e, bank in enumerate(layer.weight.chunk(3)))
        expected = F.conv2d(x[b : b + 1], kernel, layer.bias, stride=2, padding=1)
        torch.testing.assert_close(layer(x)[b : b + 1], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("routing", ["softmax", "sigmoid"])
def test_an_even_mixture_starts_with_he_variance(routing: str) -> None:
    torch.manual_seed(0)
    layer = MixtureConv2d(32, 32, 3, banks=4, routing=routing)
    factor = 0.25 if routing == "softmax" else 0.5
    assert (factor * layer.weight.unflatten(0, (4, -1)).sum(0)).var().item() == pytest.approx(2 / (32 * 9), rel=0.1)


def test_mixtures_have_the_derivatives_of_finite_differences() -> None:
    layer = MixtureConv2d(3, 2, 2, dtype=torch.float64)
    assert passes_gradcheck(layer, image()[:2])


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="routing must be one of"):
        MixtureConv2d(3, 4, 3, routing="hard")
    with pytest.raises(ValueError, match="banks must be at least 1"):
        MixtureConv2d(3, 4, 3, banks=0)
    with pytest.raises(ValueError, match="hidden must be at least 1"):
        SelectedConv2d(3, 4, 3, hidden=0)
