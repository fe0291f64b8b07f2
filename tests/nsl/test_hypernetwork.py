"""Hypernetworks against the equations of Ha et al."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nsl.layers.hypernetwork import HyperConv2d, KernelGenerator
from tests.nsl.windows import moved, passes_gradcheck, positions


def generator() -> KernelGenerator:
    made = KernelGenerator((3, 3), (2, 3), embedding=4, hidden=5, dtype=torch.float64)
    moved(made)
    return made


def written(g: KernelGenerator, z: torch.Tensor) -> torch.Tensor:
    """One block [outputs, inputs, K], input by input."""
    columns = []
    for i in range(g.block[1]):
        a = g.weight_in[i] @ z + g.bias_in[i]
        columns.append((g.weight_out @ a + g.bias_out).view(g.block[0], -1))
    return torch.stack(columns, 1)


def test_a_block_is_two_linear_maps_of_its_embedding() -> None:
    g = generator()
    z = torch.randn(4, dtype=torch.float64)
    torch.testing.assert_close(g(z), written(g, z), rtol=1e-12, atol=1e-12)


#: Static, scaled by the input, scaled within bounds.
KINDS = [{}, {"dynamic": True}, {"dynamic": True, "bounded": True}]


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_is_tiled_by_blocks(kind: dict[str, bool]) -> None:
    layer = HyperConv2d(6, 4, 3, padding=1, generator=generator(), dtype=torch.float64, **kind)
    moved(layer)
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    for b in range(2):
        factor = torch.ones(4, dtype=torch.float64)
        if layer.scaling is not None:
            read = layer.scaling.weight @ x[b].mean((1, 2))
            factor = 1 + (read.tanh() if layer.bounded else read)
        kernel = torch.zeros(4, 6, 9, dtype=torch.float64)
        for row in range(2):
            for column in range(2):
                block = written(layer.generator, layer.embedding[row, column] * factor)
                kernel[2 * row : 2 * row + 2, 3 * column : 3 * column + 3] = block
        kernel = kernel * (2 / (6 * 9)) ** 0.5
        expected = F.conv2d(x[b : b + 1], kernel.view(4, 6, 3, 3), layer.bias, padding=1)
        torch.testing.assert_close(layer(x)[b : b + 1], expected, rtol=1e-10, atol=1e-10)


def test_a_dynamic_layer_starts_as_the_static_one() -> None:
    shared = generator()
    static = HyperConv2d(6, 4, 3, generator=shared, dtype=torch.float64)
    dynamic = HyperConv2d(6, 4, 3, generator=shared, dynamic=True, dtype=torch.float64)
    dynamic.load_state_dict(static.state_dict(), strict=False)
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(dynamic(x), static(x), rtol=1e-10, atol=1e-10)


def test_a_static_layer_folds_into_a_plain_convolution() -> None:
    layer = HyperConv2d(6, 4, 3, stride=2, generator=generator(), dtype=torch.float64)
    moved(layer)
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(layer.fold()(x), layer(x), rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="does not fold"):
        HyperConv2d(6, 4, 3, dynamic=True).fold()


def test_a_start_has_the_variance_of_he_initialisation() -> None:
    torch.manual_seed(0)
    layer = HyperConv2d(64, 64, 3, generator=KernelGenerator((3, 3), 32, embedding=64))
    assert layer.kernel().var().item() == pytest.approx(2 / (64 * 9), rel=0.3)


def test_bounded_kernels_stay_where_they_are_however_large_the_input() -> None:
    layer = HyperConv2d(3, 2, 3, generator=generator(), dynamic=True, bounded=True, dtype=torch.float64)
    moved(layer)
    directions = torch.randn(5, 3, 1, 1, dtype=torch.float64)
    # So far out that every factor is 0 or 2: ten times as far changes nothing.
    far, farther = (layer.kernel(distance * directions) for distance in (1e12, 1e13))
    torch.testing.assert_close(far, farther, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="needs dynamic=True"):
        HyperConv2d(3, 2, 3, bounded=True)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_finite_differences(kind: dict[str, bool]) -> None:
    layer = HyperConv2d(3, 2, 3, generator=generator(), dtype=torch.float64, **kind)
    moved(layer)
    assert passes_gradcheck(layer, torch.randn(2, 3, 4, 3, dtype=torch.float64))


def test_layers_share_the_generator_and_train_it_together() -> None:
    shared = generator()
    net = torch.nn.Sequential(
        HyperConv2d(3, 6, 3, padding=1, generator=shared, dtype=torch.float64),
        HyperConv2d(6, 4, 3, padding=1, generator=shared, dtype=torch.float64),
    )
    assert len({id(p) for p in net.parameters()}) == 4 + 2 * 2
    net(torch.randn(1, 3, 4, 4, dtype=torch.float64)).sum().backward()
    assert shared.weight_in.grad is not None


def test_blocks_that_do_not_tile_the_kernel_are_refused() -> None:
    with pytest.raises(ValueError, match="do not tile a kernel of 5 x 6"):
        HyperConv2d(6, 5, 3, generator=generator())
    with pytest.raises(ValueError, match="all sizes must be positive"):
        KernelGenerator((3, 3), 0)
    assert list(positions(torch.zeros(1, 1, 3, 3), HyperConv2d(1, 1, 3)))  # a generator of its own fits any layer
