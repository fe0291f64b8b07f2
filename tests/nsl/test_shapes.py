"""Continuous and predicted kernel shapes, and shifts with a budget of taps."""

from __future__ import annotations

import pytest
import torch

import nsl
from nsl.layers.shapes import FewTaps, Shaped
from nsl.layers.structure import Block
from tests.nsl.windows import moved, passes_gradcheck

BLOCK = Block((3, 3), 2)


@pytest.mark.parametrize("boolean", [False, True])
@pytest.mark.parametrize("inner", ["diagonal", "unconstrained", "symmetric"])
def test_the_matrix_is_the_shape_times_the_similarity(inner: str, boolean: bool) -> None:
    structure = Shaped(inner, boolean)
    free = torch.randn(structure.degrees_of_freedom(BLOCK), dtype=torch.float64)
    d = free[:9]
    d = (d > 0.9).double() if boolean else d
    expected = torch.diag(d) @ structure.inner.assemble(free[9:], BLOCK)
    torch.testing.assert_close(structure.assemble(free, BLOCK), expected, rtol=1e-12, atol=1e-12)
    identity = structure.assemble(structure.identity(BLOCK), BLOCK)
    torch.testing.assert_close(identity, torch.eye(9))


def test_a_boolean_shape_hands_its_gradient_to_the_real_numbers() -> None:
    structure = Shaped("diagonal", boolean=True)
    free = torch.cat([torch.linspace(0.5, 1.3, 9), torch.randn(9)]).double().requires_grad_()
    (gradient,) = torch.autograd.grad(structure.mask(free, BLOCK).sum(), free)
    torch.testing.assert_close(gradient[:9], free.detach()[9:])


def test_a_dynamic_layer_produces_a_boolean_shape_at_every_position() -> None:
    layer = nsl.DynamicNSConv2d(
        2, 3, 3, padding=1, similarity=Shaped("diagonal", boolean=True), predictor_options={"hidden": 4},
        dtype=torch.float64,
    )
    moved(layer)
    x = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    raw = layer.predictor(x)
    expected = (raw[:, :9] + 1 > 0.9).double() * (raw[:, 9:] + 1)
    torch.testing.assert_close(layer.predict_similarity(x), expected, rtol=1e-12, atol=1e-12)
    share = (layer.predict_similarity(x) == 0).double().mean()
    assert 0 < share < 1


@pytest.mark.parametrize("inner", ["diagonal", "unconstrained"])
def test_a_static_continuous_shape_folds_into_the_kernel(inner: str) -> None:
    layer = nsl.NSConv2d(2, 3, 3, padding=1, similarity=Shaped(inner), dtype=torch.float64)
    moved(layer)
    x = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(layer.fold()(x), layer(x), rtol=1e-10, atol=1e-10)
    # diag(d) R applied to the kernel's side is R applied to the kernel scaled by d: nothing new can be expressed.
    d = layer.similarity[:9].view(3, 3)
    plain = nsl.NSConv2d(2, 3, 3, padding=1, similarity=inner, dtype=torch.float64)
    with torch.no_grad():
        plain.weight.copy_(layer.weight * d)
        plain.bias.copy_(layer.bias)
        plain.similarity.copy_(layer.similarity[9:])
    torch.testing.assert_close(plain(x), layer(x), rtol=1e-10, atol=1e-10)


def test_continuous_shapes_have_the_derivatives_of_finite_differences() -> None:
    layer = nsl.NSConv2d(2, 2, 2, similarity=Shaped("unconstrained"), dtype=torch.float64)
    assert passes_gradcheck(moved(layer), torch.randn(1, 2, 3, 3, dtype=torch.float64))


@pytest.mark.parametrize("count", [1, 3, 9, 20])
def test_a_shift_with_few_taps_reads_no_more_than_so_many(count: int) -> None:
    structure = FewTaps(count)
    for free in (structure.identity(BLOCK), torch.randn(81)):
        matrix = structure.assemble(free, BLOCK)
        assert int((matrix != 0).sum(1).max()) <= 1
        assert int((matrix != 0).any(0).sum()) <= count
    start = structure.assemble(structure.identity(BLOCK), BLOCK)
    assert torch.equal(start.sum(1), torch.ones(9))
    if count >= 9:
        assert torch.equal(start, torch.eye(9))


def test_the_kept_taps_are_those_of_the_largest_columns() -> None:
    matrix = torch.randn(9, 9, dtype=torch.float64)
    found = FewTaps(2).assemble(matrix.flatten(), BLOCK)
    columns = matrix.abs().sum(0).topk(2).indices
    for row in range(9):
        best = columns[matrix[row, columns].abs().argmax()]
        expected = torch.zeros(9, dtype=torch.float64)
        expected[best] = matrix[row, best]
        assert torch.equal(found[row], expected)


def test_the_gradient_reaches_dropped_entries() -> None:
    free = torch.randn(81, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(9, 9, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((FewTaps(2).assemble(free, BLOCK) * weights).sum(), free)
    torch.testing.assert_close(gradient, weights.flatten())


def test_a_folded_layer_of_few_taps_is_so_many_shifts_and_saves_multiply_adds() -> None:
    layer = nsl.NSConv2d(4, 6, 5, padding=2, similarity=FewTaps(3), dtype=torch.float64)
    moved(layer)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    folded = layer.fold()
    torch.testing.assert_close(folded(x), layer(x), rtol=1e-10, atol=1e-10)
    assert isinstance(folded, nsl.ShiftConv2d)
    assert len(folded.taps) == 3
    plain = nsl.count_multiply_adds(torch.nn.Conv2d(3, 6, 5, padding=2), 8)
    few = nsl.NSConv2d(3, 6, 5, padding=2, similarity=FewTaps(3)).fold()
    assert nsl.count_multiply_adds(few, 8) * 25 == plain * 3


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="mixes channels"):
        Shaped("full")
    with pytest.raises(ValueError, match="threshold must be below 1, where D_r starts, got 1"):
        Shaped("diagonal", boolean=True, threshold=1.0)
    with pytest.raises(ValueError, match="count must be a whole number of at least 1"):
        FewTaps(0)
