"""Random convolution geometries for the exactness tests."""

from __future__ import annotations

import random
from dataclasses import dataclass

KERNELS = [(1, 1), (3, 3), (5, 5), (3, 1), (1, 3)]


@dataclass(frozen=True)
class Geometry:
    batch: int
    channels: int
    filters: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    bias: bool

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]


def random_geometry(seed: int) -> Geometry:
    """Any stride, padding, dilation, groups; half of the draws are the stride 1, ungrouped case of the paper."""
    draw = random.Random(seed)
    plain = draw.random() < 0.5
    groups = 1 if plain else draw.choice([1, 1, 2])
    kernel = draw.choice(KERNELS)
    dilation = draw.choice([(1, 1), (1, 1), (2, 2), (2, 1)])
    padding = (draw.randint(0, 2), draw.randint(0, 2))
    least = [max(1, dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i]) for i in (0, 1)]
    return Geometry(
        batch=draw.choice([1, 1, 2, 3]),
        channels=groups * draw.choice([1, 2, 3]),
        filters=groups * draw.choice([1, 2, 3]),
        size=(least[0] + draw.randint(0, 4), least[1] + draw.randint(0, 4)),
        kernel=kernel,
        stride=(1, 1) if plain else draw.choice([(1, 1), (2, 2), (2, 1), (3, 2)]),
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw.random() < 0.5,
    )
