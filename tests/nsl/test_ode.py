"""Schemes for dx/dt = g(x) as layers: their steps, and the order that they reach (paper 5.2)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import nsl
from nsl.layers.ode import SCHEMES, ODEBlock


class Field(nn.Module):
    """g(x) = tanh(A x)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.matrix = nn.Parameter(0.8 * torch.randn(3, 3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.matrix.t())


X = torch.tensor([[0.3, -0.7, 1.1], [1.0, 0.2, -0.4]], dtype=torch.float64)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_error_falls_with_the_order_of_the_scheme(scheme: str) -> None:
    field = Field()
    exact = ODEBlock(field, "rk4", 2000)(X)
    counts, more = (20, 40), {"iterations": 60} if scheme.startswith("implicit") else {}
    errors = [(ODEBlock(field, scheme, n, **more)(X) - exact).norm().item() for n in counts]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(SCHEMES[scheme][0], abs=0.15)
    assert ODEBlock(field, scheme).order == SCHEMES[scheme][0]


def test_explicit_steps_are_written_out() -> None:
    g, h = Field(), 0.25
    k1 = g(X)
    k2 = g(X + h / 2 * k1)
    k3 = g(X + h / 2 * k2)
    k4 = g(X + h * k3)
    for scheme, expected in (("euler", X + h * k1), ("midpoint", X + h * k2),
                             ("rk4", X + h * (k1 / 6 + k2 / 3 + k3 / 3 + k4 / 6))):
        torch.testing.assert_close(ODEBlock(g, scheme, time=h)(X), expected, rtol=1e-12, atol=1e-12)


def test_implicit_steps_solve_their_equations() -> None:
    g, h = Field(), 0.25
    y = ODEBlock(g, "implicit_euler", time=h, iterations=60)(X)
    torch.testing.assert_close(y, X + h * g(y), rtol=1e-12, atol=1e-12)
    y = ODEBlock(g, "implicit_midpoint", time=h, iterations=60)(X)
    torch.testing.assert_close(y, X + h * g((X + y) / 2), rtol=1e-12, atol=1e-12)


def test_the_implicit_midpoint_keeps_the_length_that_euler_loses() -> None:
    rotation = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        rotation.weight.copy_(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    implicit = ODEBlock(rotation, "implicit_midpoint", 100, time=20.0, iterations=60)(x)
    assert implicit.norm().item() == pytest.approx(1, abs=1e-10)
    assert ODEBlock(rotation, "euler", 100, time=20.0)(x).norm().item() > 2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_dynamic_layer_is_a_field_whose_weights_all_steps_share(scheme: str) -> None:
    layer = nsl.DynamicNSConv2d(2, 2, 3, padding=1, bias=False, dtype=torch.float64, predictor_options={"hidden": 2})
    more = {"iterations": 3} if scheme.startswith("implicit") else {}
    block = ODEBlock(layer, scheme, 3, time=0.5, **more)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert sum(p.numel() for p in block.parameters()) == sum(p.numel() for p in layer.parameters())
    assert torch.autograd.gradcheck(block, x, atol=1e-6)


def test_one_euler_step_is_the_residual_nsl_layer() -> None:
    """W^T (W + M) X = x + W^T M X with W^T W = Diag(0, .., 1, .., 0)."""
    layer = nsl.NSConv2d(2, 2, 3, padding=1, bias=False, similarity="unconstrained", dtype=torch.float64)
    nn.init.normal_(layer.similarity)
    centre = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    centre[0, 0, 1, 1] = centre[1, 1, 1, 1] = 1
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(x, centre + layer.effective_weight(), padding=1)
    torch.testing.assert_close(ODEBlock(layer)(x), expected, rtol=1e-10, atol=1e-10)


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="scheme must be one of"):
        ODEBlock(Field(), "leapfrog")
    with pytest.raises(ValueError, match="must be positive"):
        ODEBlock(Field(), steps=0)
