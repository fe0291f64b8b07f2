"""One similarity a filter against its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import nsl
from nsl.layers.unshared import UnsharedNSConv2d
from tests.nsl.windows import moved, passes_gradcheck

SHARED = [name for name in nsl.STRUCTURES if name != "full"]


@pytest.mark.parametrize("similarity", SHARED)
def test_every_filter_has_its_own_effective_kernel(similarity: str) -> None:
    layer = UnsharedNSConv2d(2, 3, 3, padding=1, similarity=similarity, dtype=torch.float64)
    moved(layer)
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    kernel = torch.zeros_like(layer.weight)
    for f in range(3):
        matrix = layer.structure.assemble(layer.similarity[f], layer.block)
        for c in range(2):
            kernel[f, c] = (matrix.t() @ layer.weight[f, c].flatten()).view(3, 3)
    expected = F.conv2d(x, kernel, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.fold()(x), expected, rtol=1e-10, atol=1e-10)


def test_with_equal_similarities_it_is_the_shared_layer() -> None:
    own = UnsharedNSConv2d(2, 3, 3, similarity="unconstrained", dtype=torch.float64)
    shared = nsl.NSConv2d(2, 3, 3, similarity="unconstrained", dtype=torch.float64)
    moved(shared)
    with torch.no_grad():
        own.weight.copy_(shared.weight)
        own.bias.copy_(shared.bias)
        own.similarity.copy_(shared.similarity.expand(3, -1))
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(own(x), shared(x), rtol=1e-12, atol=1e-12)


def test_it_starts_as_the_plain_convolution_and_has_f_times_the_numbers() -> None:
    layer = UnsharedNSConv2d(2, 3, 3, dtype=torch.float64)
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias))
    assert layer.similarity.numel() == 3 * nsl.NSConv2d(2, 3, 3).similarity.numel()


@pytest.mark.parametrize("similarity", ["diagonal", "unconstrained", "psd"])
def test_derivatives_are_those_of_finite_differences(similarity: str) -> None:
    layer = UnsharedNSConv2d(2, 2, 2, similarity=similarity, dtype=torch.float64)
    assert passes_gradcheck(moved(layer), torch.randn(1, 2, 3, 3, dtype=torch.float64))


def test_a_similarity_that_mixes_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="mixes channels"):
        UnsharedNSConv2d(2, 3, 3, similarity="full")
