"""Slow and obvious parts for the tests of layers that have a kernel a position or an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

GEOMETRIES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)},
    {"kernel_size": 1},
]


def positions(x: Tensor, layer: Any) -> Iterator[tuple[int, int, Tensor]]:
    """Every output position with its patch [B, C, kh, kw], cut out of the padded map by hand."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    batch, channels, height, width = x.shape
    padded = x.new_zeros(batch, channels, height + 2 * ph, width + 2 * pw)
    padded[:, :, ph : ph + height, pw : pw + width] = x
    for i in range((height + 2 * ph - dh * (kh - 1) - 1) // sh + 1):
        for j in range((width + 2 * pw - dw * (kw - 1) - 1) // sw + 1):
            rows = [i * sh + dh * k for k in range(kh)]
            columns = [j * sw + dw * k for k in range(kw)]
            yield i, j, padded[:, :, rows][:, :, :, columns]


def moved(layer: nn.Module, seed: int = 0) -> nn.Module:
    """The layer with every parameter off its initial value."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def passes_gradcheck(layer: nn.Module, x: Tensor) -> bool:
    """Whether the layer's derivatives by its input and all its parameters are those of finite differences."""
    names = [name for name, _ in layer.named_parameters()]
    inputs = [x.clone().requires_grad_(), *(p.detach().clone().requires_grad_() for _, p in layer.named_parameters())]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values)), (x,))

    return torch.autograd.gradcheck(call, inputs, atol=1e-6)
