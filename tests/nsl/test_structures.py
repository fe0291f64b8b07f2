"""Every structure of M: what it may be, where it starts, and the layers that take it against dense definitions."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nsl
import nsl.layers.structures as similarity_module
from nsl.layers.predictors import PREDICTORS
from nsl.layers.structure import Block
from tests.nsl.configurations import random_geometry
from tests.nsl.oracle import dense_neural_similarity_conv2d

NAMES = sorted(nsl.STRUCTURES)
SHARED = [name for name in NAMES if name != "full"]
DYNAMIC = [name for name in SHARED if name != "l1"]
#: Structures whose numbers reach M by a differentiable map (the others are straight-through).
SMOOTH = ["diagonal", "dilated", "full", "l1", "low_rank", "psd", "symmetric", "unconstrained"]
BLOCK = Block((3, 3), 2)


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))


def random_free(structure: nsl.Structure, block: Block, *batch: int) -> Tensor:
    return torch.randn(*batch, structure.degrees_of_freedom(block), dtype=torch.float64)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("dilated", "low_rank")])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (3, 1), (5, 5)])
def test_a_structure_starts_as_the_identity(name: str, kernel: tuple[int, int]) -> None:
    structure, block = nsl.STRUCTURES[name](), Block(kernel, 2)
    free = structure.identity(block)
    assert free.shape == (structure.degrees_of_freedom(block),)
    matrix = structure.assemble(free, block)
    assert torch.equal(matrix, torch.eye(structure.size(block)))


def test_what_cannot_be_the_identity_starts_nearest_to_it() -> None:
    structure = nsl.LowRank(3)
    matrix = structure.assemble(structure.identity(BLOCK).double(), BLOCK)
    assert torch.linalg.matrix_rank(matrix) == 3
    # No matrix of rank r is nearer to the identity than sqrt(K - r).
    assert torch.linalg.norm(matrix - torch.eye(9)).item() == pytest.approx(math.sqrt(6), abs=1e-6)
    residual = nsl.LowRank(3, residual=True)
    assert torch.equal(residual.assemble(residual.identity(BLOCK), BLOCK), torch.eye(9))
    dilated = nsl.Dilated(2)
    kept = dilated.mask(dilated.identity(Block((5, 5))), Block((5, 5))).view(5, 5)
    assert kept.sum() == 9
    assert torch.equal(kept[::2, ::2], torch.ones(3, 3))
    sparse = nsl.HardSparse(4)
    assert sparse.assemble(sparse.identity(BLOCK), BLOCK).count_nonzero() == 4


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 12), st.integers(0, 10**6))
def test_structures_keep_their_promise(height: int, width: int, count: int, seed: int) -> None:
    torch.manual_seed(seed)
    block = Block((height, width), 2)
    taps = block.taps
    made = {
        name: structure.assemble(random_free(structure, block, 3), block)
        for name, structure in {
            "symmetric": nsl.Symmetric(),
            "psd": nsl.PSD(),
            "low_rank": nsl.LowRank(min(count, taps)),
            "hard_sparse": nsl.HardSparse(count),
            "shift": nsl.Shift(),
            "diagonal": nsl.Diagonal(),
            "dilated": nsl.Dilated(2),
        }.items()
    }
    for matrix in made.values():
        assert matrix.shape == (3, taps, taps)
    assert torch.equal(made["symmetric"], made["symmetric"].mT)
    assert torch.linalg.eigvalsh(made["psd"]).min() > -1e-9
    assert all(torch.linalg.matrix_rank(m) <= min(count, taps) for m in made["low_rank"])
    assert made["hard_sparse"].count_nonzero(dim=(1, 2)).max() <= min(count, taps**2)
    assert torch.equal(made["shift"].count_nonzero(dim=2), torch.ones(3, taps, dtype=torch.int64))
    for name in ("diagonal", "dilated"):
        assert torch.equal(made[name], torch.diag_embed(made[name].diagonal(dim1=1, dim2=2)))


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("seed", range(8))
def test_a_static_layer_of_every_structure_equals_the_dense_definition(name: str, seed: int) -> None:
    g = random_geometry(seed)
    torch.manual_seed(seed)
    layer = nsl.NSConv2d(
        g.channels,
        g.filters,
        g.kernel,
        g.stride,
        g.padding,
        g.dilation,
        g.groups,
        g.bias,
        similarity=name,
        dtype=torch.float64,
        learn_shape=seed % 2 == 0,
    )
    randomise(layer)
    x = torch.randn(g.batch, g.channels, *g.size, dtype=torch.float64)
    y = layer(x)
    matrix = layer.similarity_matrix()[None, :, :, None, None].expand(g.batch, -1, -1, *y.shape[-2:])
    expected = dense_neural_similarity_conv2d(
        x, layer.weight, matrix, layer.bias, g.stride, g.padding, g.dilation, g.groups
    )
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(layer.fold()(x), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_the_unshared_structure_mixes_channels_as_equation_1_says(seed: int) -> None:
    g = random_geometry(seed)
    torch.manual_seed(seed)
    arguments = (g.channels, g.filters, g.kernel, g.stride, g.padding, g.dilation, g.groups, g.bias)
    layer = nsl.NSConv2d(*arguments, similarity="full", dtype=torch.float64)
    randomise(layer)
    x = torch.randn(g.batch, g.channels, *g.size, dtype=torch.float64)
    y = layer(x)
    matrix = layer.similarity_matrix()
    assert matrix.shape == (g.channels // g.groups * g.taps,) * 2
    columns = torch.nn.functional.unfold(x, g.kernel, g.dilation, g.padding, g.stride)  # [B, C K, P]
    columns = columns.unflatten(1, (g.groups, -1))
    kernels = layer.weight.view(g.groups, g.filters // g.groups, -1)
    expected = torch.einsum("gfi,ij,bgjp->bgfp", kernels, matrix, columns).reshape(y.shape)
    if layer.bias is not None:
        expected = expected + layer.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(layer.fold()(x), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("seed", range(8))
def test_a_dynamic_layer_of_every_structure_equals_the_dense_definition(name: str, seed: int) -> None:
    g = random_geometry(seed)
    torch.manual_seed(seed)
    layer = nsl.DynamicNSConv2d(
        g.channels,
        g.filters,
        g.kernel,
        g.stride,
        g.padding,
        g.dilation,
        g.groups,
        g.bias,
        similarity=name,
        dtype=torch.float64,
        predictor_options={"hidden": 3},
    ).eval()
    randomise(layer)
    x = torch.randn(g.batch, g.channels, *g.size, dtype=torch.float64)
    predicted = layer.predict_similarity(x)
    expected = dense_neural_similarity_conv2d(
        x, layer.weight, predicted, layer.bias, g.stride, g.padding, g.dilation, g.groups
    )
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-10)


def test_every_predicted_matrix_has_the_structure() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6)
    for name, holds in {
        "psd": lambda m: torch.linalg.eigvalsh(m.double()).min() > -1e-4,
        "symmetric": lambda m: torch.equal(m, m.mT),
        "shift": lambda m: bool((m.count_nonzero(dim=-1) == 1).all()),
        "low_rank": lambda m: bool((torch.linalg.matrix_rank(m.double(), rtol=1e-5) <= 3).all()),
    }.items():
        layer = nsl.DynamicNSConv2d(3, 4, 3, padding=1, similarity=name)
        randomise(layer.predictor)
        assert holds(layer.predict_similarity(x).permute(0, 3, 4, 1, 2)), name


@pytest.mark.parametrize("name", SMOOTH)
def test_gradcheck_of_smooth_structures(name: str) -> None:
    torch.manual_seed(0)
    layer = nsl.NSConv2d(2, 2, 3, padding=1, similarity=name, dtype=torch.float64)
    randomise(layer)
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    values = (layer.weight.detach().clone().requires_grad_(), layer.similarity.detach().clone().requires_grad_())

    def run(x: Tensor, weight: Tensor, similarity: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "neural.similarity": similarity}, (x,))

    assert torch.autograd.gradcheck(run, (x, *values))


@pytest.mark.parametrize("name", ["hard_sparse", "shift"])
def test_straight_through_structures_hand_the_gradient_at_m_to_all_numbers(name: str) -> None:
    torch.manual_seed(0)
    structure = nsl.STRUCTURES[name]()
    free = random_free(structure, BLOCK).requires_grad_()
    matrix = structure.assemble(free, BLOCK)
    slope = torch.randn_like(matrix)
    matrix.backward(slope)
    torch.testing.assert_close(free.grad.view(9, 9), slope, rtol=0, atol=0)


def test_a_folded_shift_layer_is_a_shift_and_a_1x1_convolution() -> None:
    torch.manual_seed(0)
    layer = nsl.NSConv2d(3, 5, 3, stride=2, padding=1, similarity="shift")
    with torch.no_grad():  # all nine kernel taps read the same input tap, the upper right one
        layer.similarity.zero_()
        layer.similarity.view(9, 9)[:, 2] = torch.rand(9) + 1
    folded = layer.fold()
    assert isinstance(folded, nsl.ShiftConv2d)
    assert folded.pointwise.weight.shape == (5, 3, 1, 1)
    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(folded(x), layer(x))
    shifted = torch.nn.functional.pad(x, (1, 1, 1, 1))[:, :, 0:9:2, 2:10:2]
    torch.testing.assert_close(folded(x), folded.pointwise(shifted))


def test_a_folded_dilated_layer_has_fewer_taps() -> None:
    torch.manual_seed(0)
    layer = nsl.NSConv2d(3, 5, 5, padding=2, dilation=(1, 2), similarity=nsl.Dilated(2))
    folded = layer.fold()
    assert (folded.kernel_size, folded.dilation) == ((3, 3), (2, 4))
    x = torch.randn(2, 3, 12, 13)
    torch.testing.assert_close(folded(x), layer(x))
    # The grid of a 3x3 kernel and factor 2 is its centre alone: no smaller convolution has that padding.
    assert nsl.NSConv2d(3, 5, 3, similarity=nsl.Dilated(2)).fold().kernel_size == (3, 3)


def test_the_l1_penalty_is_collected_from_all_layers() -> None:
    structure = nsl.L1("unconstrained", coefficient=0.5)
    model = nn.Sequential(
        nsl.NSConv2d(2, 2, 3, similarity=structure), nn.Conv2d(2, 2, 1), nsl.NSLinear(4, 2, similarity=structure)
    )
    penalty = nsl.similarity_penalty(model)
    assert penalty.item() == pytest.approx(0.5 * (9 + 4))
    penalty.backward()
    assert torch.equal(model[0].similarity.grad, 0.5 * torch.eye(9).flatten())
    assert nsl.similarity_penalty(nn.Linear(2, 2)).item() == 0


def test_a_large_unshared_similarity_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity_module, "FULL_WARNING_ENTRIES", 100)
    with pytest.warns(UserWarning, match="324 entries"):
        nsl.NSConv2d(2, 2, 3, similarity="full")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nsl.NSConv2d(1, 2, 3, similarity="full")


def test_extra_repr_shows_the_structure() -> None:
    assert "similarity=hard_sparse(nonzeros=5)" in repr(nsl.NSConv2d(1, 1, 3, similarity=nsl.HardSparse(5)))
    assert "similarity=l1(diagonal, coefficient=0.1)" in repr(nsl.NSLinear(2, 1, similarity=nsl.L1("diagonal", 0.1)))
    assert "similarity=low_rank(rank=2, residual=True)" in repr(
        nsl.DynamicNSConv2d(1, 1, 3, similarity=nsl.LowRank(2, residual=True))
    )


def test_unfit_structures_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="similarity must be one of"):
        nsl.NSConv2d(1, 1, 3, similarity="round")
    with pytest.raises(ValueError, match="static layers"):
        nsl.DynamicNSConv2d(1, 1, 3, similarity="full")
    with pytest.raises(ValueError, match="dynamic layer takes its inner"):
        nsl.DynamicNSConv2d(1, 1, 3, similarity="l1")
    with pytest.raises(ValueError, match="dynamic layer takes its inner"):
        nsl.DynamicNSConv2d(1, 1, 3, similarity=nsl.Shaped("l1"))
    with pytest.raises(ValueError, match="mixes channels"):
        nsl.NSConvTranspose2d(1, 1, 3, similarity="full")
    for build in (lambda: nsl.LowRank(0), lambda: nsl.HardSparse(0), lambda: nsl.Dilated(0), lambda: nsl.L1("psd", -1)):
        with pytest.raises(ValueError, match="must"):
            build()


def test_a_parametrisation_of_the_free_numbers_works_as_on_any_parameter() -> None:
    class Bounded(nn.Module):
        def forward(self, free: Tensor) -> Tensor:
            return torch.tanh(free)

    layer = nsl.NSConv2d(2, 3, 3, padding=1)
    torch.nn.utils.parametrize.register_parametrization(layer.neural, "similarity", Bounded())
    assert torch.equal(layer.similarity_matrix().diagonal(), torch.tanh(torch.ones(9)))
    x = torch.randn(1, 2, 5, 5)
    torch.testing.assert_close(layer.fold()(x), layer(x))


def test_every_structure_and_predictor_by_name_is_exported() -> None:
    assert {kind.__name__ for kind in (*nsl.STRUCTURES.values(), *PREDICTORS.values())} <= set(nsl.__all__)
