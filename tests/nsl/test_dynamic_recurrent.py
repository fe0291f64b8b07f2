"""Recurrent cells with a state-dependent similarity against their equations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nsl.layers.dynamic_recurrent import DynamicNSGRUCell, DynamicNSRNNCell
from tests.nsl.windows import moved

CELLS = [DynamicNSRNNCell, DynamicNSGRUCell]
OPTIONS = [{"similarity": "diagonal"}, {"similarity": "diagonal", "block_size": 2},
           {"similarity": "unconstrained", "block_size": 2}, {"similarity": "psd", "block_size": 4}]


def seen(cell: nn.Module, x: Tensor, h: Tensor) -> Tensor:
    """M(x, h) h of one sample, the blocks one after the other."""
    free = cell.predictor(torch.cat([x, h])) + cell.neural.identity(x)
    matrix = cell.structure.assemble(free, cell.block)
    return torch.cat([matrix @ part for part in h.split(cell.block.taps)])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", CELLS)
def test_the_recurrent_map_sees_the_state_through_the_similarity(kind: type[nn.Module], options: dict) -> None:
    cell = moved(kind(3, 4, hidden=5, dtype=torch.float64, **options))
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    for b in range(2):
        ours, theirs = cell.weight_ih @ x[b] + cell.bias_ih, cell.weight_hh @ seen(cell, x[b], h[b]) + cell.bias_hh
        if kind is DynamicNSRNNCell:
            expected = torch.tanh(ours + theirs)
        else:
            r, z = torch.sigmoid(ours[:4] + theirs[:4]), torch.sigmoid(ours[4:8] + theirs[4:8])
            expected = (1 - z) * torch.tanh(ours[8:] + r * theirs[8:]) + z * h[b]
        torch.testing.assert_close(cell(x, h)[b], expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(cell(x[b], h[b]), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kind", "plain"), [(DynamicNSRNNCell, nn.RNNCell), (DynamicNSGRUCell, nn.GRUCell)])
def test_a_cell_starts_as_the_plain_one(kind: type[nn.Module], plain: type[nn.Module]) -> None:
    cell, other = kind(3, 4, dtype=torch.float64), plain(3, 4, dtype=torch.float64)
    other.load_state_dict({key: value for key, value in cell.state_dict().items() if "predictor" not in key})
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    torch.testing.assert_close(cell(x, h), other(x, h), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(cell(x), other(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", CELLS)
def test_derivatives_are_those_of_finite_differences(kind: type[nn.Module]) -> None:
    cell = moved(kind(3, 4, hidden=5, similarity="unconstrained", block_size=2, dtype=torch.float64))
    names = [name for name, _ in cell.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in cell.parameters()]
    x, h = (torch.randn(2, n, dtype=torch.float64, requires_grad=True) for n in (3, 4))

    def call(x: Tensor, h: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(cell, dict(zip(names, values)), (x, h))

    assert torch.autograd.gradcheck(call, (x, h, *values), atol=1e-6)


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="block_size must divide hidden_size = 4, got 3"):
        DynamicNSRNNCell(3, 4, block_size=3)
    with pytest.raises(ValueError, match="is for static layers"):
        DynamicNSGRUCell(3, 4, similarity="full")
    with pytest.raises(ValueError, match="nonlinearity must be"):
        DynamicNSRNNCell(3, 4, nonlinearity="sine")
    with pytest.raises(ValueError, match=r"input must be \[B, 3\]"):
        DynamicNSRNNCell(3, 4)(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="predictor must return"):
        DynamicNSRNNCell(3, 4, predictor=nn.Linear(7, 3))(torch.zeros(2, 3))
    assert issubclass(DynamicNSRNNCell, nn.RNNCell)
