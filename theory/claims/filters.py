"""Claim 27: operations that are special similarities (paper, sections 3.4, 3.5 and 6): dilation, shapes, filters."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import nsl
from theory.claims.ledger import Finding, Settings, claim, verdict_of


class _Given(nn.Module):
    """A predictor that returns what it was given, whatever the input."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.values


def dynamic_filter_gap(seed: int, size: int = 6) -> float:
    """nsl's dynamic layer with M = q w^T / |q|^2, w another filter at every position, against that filter applied."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 1, size, size, generator=generator, dtype=torch.float64)
    filters = torch.randn(2, 9, size, size, generator=generator, dtype=torch.float64)
    kernel = torch.randn(9, generator=generator, dtype=torch.float64)
    similarity = torch.einsum("k,blhw->bklhw", kernel / kernel.square().sum(), filters)
    raw = (similarity - torch.eye(9, dtype=torch.float64)[None, :, :, None, None]).reshape(2, 81, size, size)
    layer = nsl.DynamicNSConv2d(
        1, 1, 3, padding=1, bias=False, similarity="unconstrained", predictor=_Given(raw), dtype=torch.float64
    )
    with torch.no_grad():
        layer.weight.copy_(kernel.view(1, 1, 3, 3))
        out = layer(image)
    patches = functional.unfold(image, 3, padding=1).view(2, 9, size, size)
    stated = (filters * patches).sum(1, keepdim=True)
    return float((out - stated).abs().max() / stated.abs().max())


def dilation_gap(seed: int, size: int = 9) -> float:
    """A 5x5 static layer whose mask is 1 on every other tap, against a 3x3 convolution of dilation 2."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
    layer = nsl.NSConv2d(3, 4, 5, padding=2, bias=False, similarity="diagonal", dtype=torch.float64)
    mask = torch.zeros(5, 5, dtype=torch.float64)
    mask[::2, ::2] = 1
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64))
        layer.similarity.copy_(mask.reshape(layer.similarity.shape))
        out = layer(image)
        stated = functional.conv2d(image, layer.weight[:, :, ::2, ::2], padding=2, dilation=2)
    return float((out - stated).abs().max() / stated.abs().max())


def shape_gap(seed: int, size: int = 6) -> float:
    """M = D R with a fixed Boolean D, against similarity R on a kernel that has only the taps of D."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
    shape = (torch.rand(9, generator=generator) > 0.5).double()
    inner = torch.randn(9, 9, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, generator=generator, dtype=torch.float64)
    outputs = []
    for matrix, kernel in ((shape[:, None] * inner, weight), (inner, weight * shape.view(3, 3))):
        layer = nsl.NSConv2d(3, 4, 3, padding=1, bias=False, similarity="unconstrained", dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(kernel)
            layer.similarity.copy_(matrix.reshape(layer.similarity.shape))
            outputs.append(layer(image))
    return float((outputs[0] - outputs[1]).abs().max() / outputs[1].abs().max())


@claim(
    27,
    "special-similarities",
    statement="A dynamic filter w(X) is the similarity M = q w^T / |q|^2 of a layer with one kernel q; dilation is a "
    "fixed mask; and M = D R with a fixed Boolean D is similarity R on a kernel with the taps of D only.",
    source="paper, sections 3.4, 3.5 and 6",
    threshold="relative difference of the layers' outputs < 1e-12",
    mutants=("transposed tensors",),
)
def special_similarities(settings: Settings) -> Finding:
    seeds = settings.seeds(5, 2)
    figures = {
        "dynamic filter (max)": max(dynamic_filter_gap(seed) for seed in seeds),
        "dilation (max)": max(dilation_gap(seed) for seed in seeds),
        "D R (max)": max(shape_gap(seed) for seed in seeds),
    }
    return Finding(
        verdict_of(max(figures.values()) < 1e-12),
        {name: float(np.asarray(value)) for name, value in figures.items()},
        f"{len(seeds)} random nsl layers each, float64; the dynamic filter with one channel and one kernel.",
        "With more kernels than M has rows no shared M turns them into arbitrary dynamic filters: these are then "
        "linear combinations of the rows of M.",
    )
