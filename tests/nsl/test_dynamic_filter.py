"""Dynamic filters against their definition, and what an unconstrained similarity has to do with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nsl
from nsl.layers.dynamic_filter import DynamicFilterConv2d, similarity_of_filters
from tests.nsl.windows import GEOMETRIES, moved, passes_gradcheck, positions

KINDS = [
    {"local": local, "depthwise": depthwise, "normalise": normalise}
    for local in (True, False)
    for depthwise in (True, False)
    for normalise in (True, False)
]
FREE = {"depthwise": False, "normalise": False}


def made(kind: dict[str, bool], geometry: dict[str, Any]) -> DynamicFilterConv2d:
    layer = DynamicFilterConv2d(3, 4, **geometry, **kind, hidden=2, dtype=torch.float64)
    moved(layer)
    return layer


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_position_is_multiplied_with_its_own_generated_filter(
    kind: dict[str, bool], geometry: dict[str, Any]
) -> None:
    layer = made(kind, geometry)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    filters, y = layer.filters(x), layer(x)
    for i, j, patch in positions(x, layer):
        place = (i, j) if kind["local"] else (0, 0)
        here = filters[..., place[0], place[1]]
        if layer.pointwise is not None:
            channels = torch.einsum("bck,bck->bc", here, patch.flatten(2))
            expected = channels @ layer.pointwise.weight[:, :, 0, 0].t() + layer.bias
        else:
            expected = torch.einsum("bfck,bck->bf", here, patch.flatten(2)) + layer.bias
        torch.testing.assert_close(y[:, :, i, j], expected, rtol=1e-10, atol=1e-10)


def test_the_generator_is_two_layers_on_the_window_or_on_the_mean() -> None:
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    local = made({"local": True, **FREE}, GEOMETRIES[0])
    second = local.second.weight[:, :, 0, 0]
    for i, j, patch in positions(x, local):
        hidden = torch.relu(torch.einsum("jckl,bckl->bj", local.first.weight, patch) + local.first.bias)
        expected = hidden @ second.t() + local.second.bias
        torch.testing.assert_close(local.filters(x)[..., i, j].flatten(1), expected, rtol=1e-10, atol=1e-10)
    one = made({"local": False, **FREE}, GEOMETRIES[0])
    hidden = torch.relu(x.mean((2, 3)) @ one.first.weight[:, :, 0, 0].t() + one.first.bias)
    expected = hidden @ one.second.weight[:, :, 0, 0].t() + one.second.bias
    torch.testing.assert_close(one.filters(x).flatten(1), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_normalised_filter_has_the_learned_mean_and_deviation(depthwise: bool) -> None:
    layer = made({"local": True, "depthwise": depthwise, "normalise": True}, GEOMETRIES[0])
    x = 5 * torch.randn(2, 3, 6, 5, dtype=torch.float64)
    filters = layer.filters(x)
    numbers = filters if depthwise else filters.flatten(2, 3)  # [B, owner, numbers, Ho, Wo]
    owners = numbers.shape[1]
    assert layer.scale is not None
    assert layer.shift is not None
    torch.testing.assert_close(numbers.mean(2), layer.shift.view(1, -1, 1, 1).expand(2, owners, 6, 5))
    deviation = numbers.std(2, unbiased=False)
    expected = layer.scale.abs().view(1, -1, 1, 1).expand(2, owners, 6, 5)
    torch.testing.assert_close(deviation, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_finite_differences(kind: dict[str, bool]) -> None:
    layer = made(kind, {"kernel_size": 2})
    assert passes_gradcheck(layer, torch.randn(2, 3, 3, 3, dtype=torch.float64))


def test_an_unconstrained_similarity_computes_any_generated_filters() -> None:
    torch.manual_seed(0)
    layer = made({"local": True, "depthwise": False}, GEOMETRIES[0])
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64).flatten(1)
    filters = layer.filters(x).flatten(2, 3)  # [B, F, CK, Ho, Wo]
    for i, j, patch in positions(x, layer):
        similarity = similarity_of_filters(weight, filters[..., i, j])  # [B, CK, CK]
        nsn = torch.einsum("fn,bnm,bm->bf", weight, similarity, patch.flatten(1)) + layer.bias
        torch.testing.assert_close(nsn, layer(x)[:, :, i, j], rtol=1e-10, atol=1e-10)


def test_for_one_kernel_that_similarity_is_the_outer_product_over_the_squared_length() -> None:
    torch.manual_seed(0)
    w, v = torch.randn(2, 27, dtype=torch.float64)
    expected = torch.outer(w, v) / w.square().sum()
    torch.testing.assert_close(similarity_of_filters(w[None], v[None]), expected, rtol=1e-12, atol=1e-12)


def test_a_block_shared_by_the_channels_cannot_compute_them_all() -> None:
    torch.manual_seed(0)
    filters, channels, taps = 4, 3, 9
    weight = torch.randn(filters, channels, taps, dtype=torch.float64)
    # V[f,c,l] = sum_k W[f,c,k] M[k,l]: taps^2 numbers reach filters * channels * taps only where F C <= K.
    wanted = torch.randn(filters, channels, taps, dtype=torch.float64)
    block = torch.linalg.lstsq(weight.flatten(0, 1), wanted.flatten(0, 1)).solution
    assert (weight @ block - wanted).norm() > 0.1 * wanted.norm()
    few = weight[:3], wanted[:3]
    block = torch.linalg.lstsq(few[0].flatten(0, 1), few[1].flatten(0, 1)).solution
    torch.testing.assert_close(few[0] @ block, few[1], rtol=1e-9, atol=1e-9)


def test_a_generator_of_masks_is_the_dynamic_diagonal_similarity() -> None:
    """Filters G[f,c,k] = W[f,c,k] m[k] are what DNS computes: dynamic filters that are semi-generated."""
    layer = nsl.DynamicNSConv2d(3, 4, 3, padding=1, bias=False, dtype=torch.float64, predictor_options={"hidden": 2})
    moved(layer)
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    masks, y = layer.predict_similarity(x), layer(x)
    assert isinstance(layer.padding, tuple)
    for i, j, patch in positions(x, layer):
        generated = torch.einsum("fck,bk->bfck", layer.weight.flatten(2), masks[..., i, j])
        expected = torch.einsum("bfck,bck->bf", generated, patch.flatten(2))
        torch.testing.assert_close(y[:, :, i, j], expected, rtol=1e-10, atol=1e-10)


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        DynamicFilterConv2d(3, 4, 3, hidden=0)
    with pytest.raises(ValueError, match=r"input must be \[B, 3, H, W\]"):
        DynamicFilterConv2d(3, 4, 3)(torch.zeros(2, 4, 5, 5))
    with pytest.raises(ValueError, match="padding must be an integer"):
        DynamicFilterConv2d(3, 4, 3, padding="same")  # type: ignore[arg-type]
