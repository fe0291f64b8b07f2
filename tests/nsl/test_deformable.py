"""Deformable convolution against bilinear interpolation written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import nsl
from nsl.layers.deformable import DeformConv2d
from tests.nsl.windows import GEOMETRIES, moved, passes_gradcheck


def read(image: Tensor, row: float, column: float) -> Tensor:
    """[C, H, W] between the pixels; zero outside."""
    top, left = math.floor(row), math.floor(column)
    total = torch.zeros(image.shape[0], dtype=image.dtype)
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
                total = total + (1 - abs(row - i)) * (1 - abs(column - j)) * image[:, i, j]
    return total


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_tap_reads_the_place_that_the_input_moves_it_to(geometry: dict[str, Any], modulated: bool) -> None:
    layer = DeformConv2d(2, 3, **geometry, modulated=modulated, dtype=torch.float64)
    moved(layer)
    x = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    offsets, masks, y = layer.offsets(x), layer.masks(x), layer(x)
    for b in range(2):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                total = layer.bias.clone()
                for k in range(layer.taps):
                    tap = divmod(k, layer.kernel_size[1])
                    row, column = (
                        (i, j)[a] * layer.stride[a] - layer.padding[a] + tap[a] * layer.dilation[a]
                        + offsets[b, k, a, i, j].item()
                        for a in (0, 1)
                    )
                    value = read(x[b], row, column)
                    if masks is not None:
                        value = value * masks[b, k, i, j]
                    total = total + layer.weight[:, :, tap[0], tap[1]] @ value
                torch.testing.assert_close(y[b, :, i, j], total, rtol=1e-9, atol=1e-10)


def test_the_start_is_the_plain_convolution() -> None:
    for modulated in (False, True):
        layer = DeformConv2d(2, 3, 3, padding=1, stride=2, modulated=modulated, dtype=torch.float64)
        x = torch.randn(2, 2, 7, 6, dtype=torch.float64)
        expected = F.conv2d(x, layer.weight, layer.bias, stride=2, padding=1)
        torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_without_offsets_modulation_is_the_dynamic_diagonal_similarity() -> None:
    layer = DeformConv2d(2, 3, 3, padding=1, modulated=True, dtype=torch.float64)
    moved(layer)
    with torch.no_grad():
        layer.offset.weight.zero_()
        layer.offset.bias.zero_()  # type: ignore[union-attr]
    x = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    masks = layer.masks(x)
    assert masks is not None
    expected = nsl.neural_similarity_conv2d(x, layer.weight, masks, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_an_active_convolution_moves_its_taps_alike_at_every_position() -> None:
    layer = DeformConv2d(2, 3, 3, padding=1, predicted=False, dtype=torch.float64)
    moved(layer)
    assert layer.places is not None
    x = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    y = layer(x)
    for i, j in ((0, 0), (3, 2), (5, 4)):
        total = layer.bias.clone()
        for k in range(9):
            row, column = ((torch.tensor([i - 1 + k // 3, j - 1 + k % 3]) + layer.places.shift[k]).tolist())
            total = total + layer.weight[:, :, k // 3, k % 3] @ read(x[0], row, column)
        torch.testing.assert_close(y[0, :, i, j], total, rtol=1e-9, atol=1e-10)
    assert passes_gradcheck(layer, torch.randn(1, 2, 3, 3, dtype=torch.float64))


def test_derivatives_are_those_of_finite_differences() -> None:
    layer = DeformConv2d(2, 2, 2, modulated=True, dtype=torch.float64)
    moved(layer)  # no place is at a pixel's edge
    assert passes_gradcheck(layer, torch.randn(1, 2, 3, 3, dtype=torch.float64))


def test_places_are_exact_under_autocast() -> None:
    layer = DeformConv2d(2, 3, 3, padding=1)
    moved(layer)
    x = torch.randn(2, 2, 30, 30)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.1, atol=0.5)
