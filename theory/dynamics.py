"""Dynamical systems of section 5.2: the dynamic neural unit, and residual NSL layers as Euler steps of an ODE.

torch and `nsl` are imported where layers are built, so that this module stays light.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from theory.arrays import Array

if TYPE_CHECKING:
    import torch

TAPS, CENTRE = 9, 4


@dataclass(frozen=True)
class DynamicNeuralUnit:
    """`dx/dt = -a x + tanh(w x + u)`, `y = tanh(x)` (paper, section 5.2, with f = g = tanh).

    Attributes:
        decay: a > 0. weight: w, the self-feedback.
    """

    decay: float = 1.0
    weight: float = 2.0

    def velocity(self, state: Array | float, drive: float) -> Array:
        """dx/dt for states of any shape and one external input u."""
        return -self.decay * np.asarray(state) + np.tanh(self.weight * np.asarray(state) + drive)

    def equilibria(self, drive: float) -> list[tuple[float, bool]]:
        """All equilibria, lowest first, each with whether it is stable (negative derivative of the velocity)."""
        grid = np.linspace(-1.1 / self.decay, 1.1 / self.decay, 4001)
        values = self.velocity(grid, drive)
        found = []
        for left, right, a, b in zip(grid, grid[1:], values, values[1:]):
            if a == 0 or a * b < 0:
                x = left if a == 0 else float(brentq(self.velocity, left, right, args=(drive,), xtol=1e-14))
                slope = -self.decay + self.weight / np.cosh(self.weight * x + drive) ** 2
                found.append((float(x), bool(slope < 0)))
        return found

    def respond(self, state: float, drives: list[float], time: float = 40.0) -> Array:
        """The state at the end of each of `drives`, held for `time` each, from `state`.

        Raises:
            ValueError: the solver failed, where `decay` or `weight` is not finite for example.
        """
        path = []
        for drive in drives:
            found = solve_ivp(
                lambda _, x, drive=drive: self.velocity(x, drive), (0, time), [state], rtol=1e-10, atol=1e-12
            )
            if not found.success:
                raise ValueError(f"the unit could not be followed for time {time:g} ({found.message}).")
            state = float(found.y[0, -1])
            path.append(state)
        return np.array(path)


def unit_kernel(rng: np.random.Generator) -> Array:
    """q [9] of unit norm: then W = q e_c^T has W^T W = Diag(0, .., 1, .., 0), the 1 at the patch's centre."""
    q = rng.standard_normal(TAPS)
    return q / np.linalg.norm(q)


def residual_similarity(kernel: Array, similarity: Array, step: float) -> Array:
    """`W + step M` [9, 9] with `W = q e_c^T` (paper: f = W^T (W + M) X = x + W^T M X)."""
    identity_part = np.zeros((TAPS, TAPS))
    identity_part[:, CENTRE] = kernel
    return identity_part + step * similarity


def residual_layer(kernel: Array, similarity: Array, step: float) -> torch.nn.Module:
    """An `nsl.NSConv2d` (one channel, 3x3, float64) that computes `x + step conv(x, M^T q)`."""
    import torch

    import nsl

    layer = nsl.NSConv2d(1, 1, 3, padding=1, bias=False, similarity="unconstrained", dtype=torch.float64)
    matrix = torch.from_numpy(residual_similarity(kernel, similarity, step))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(kernel).view(1, 1, 3, 3))
        layer.similarity.copy_(matrix.reshape(layer.similarity.shape))
    return layer


def dynamic_residual_layer(kernel: Array, predictor: torch.nn.Module, step: float) -> torch.nn.Module:
    """An `nsl.DynamicNSConv2d` that computes `x + step q^T M_theta(X) X`, M_theta given by `predictor`.

    The layer adds I to what its predictor returns, so the predictor is wrapped to return q e_c^T + step M -
    I.
    """
    import torch

    import nsl

    offset = torch.from_numpy(residual_similarity(kernel, np.zeros((TAPS, TAPS)), 0.0) - np.eye(TAPS)).reshape(
        1, -1, 1, 1
    )

    class Shifted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = predictor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return offset + step * self.inner(x)

    layer = nsl.DynamicNSConv2d(
        1, 1, 3, padding=1, bias=False, similarity="unconstrained", predictor=Shifted(), dtype=torch.float64
    )
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(kernel).view(1, 1, 3, 3))
    return layer


def convolution_matrix(kernel: Array, size: int) -> Array:
    """The matrix [size^2, size^2] of a 3x3 convolution (`kernel` [9]) of a size x size map with zero padding."""
    matrix = np.zeros((size * size, size * size))
    for row in range(size):
        for column in range(size):
            for tap in range(TAPS):
                r, c = row + tap // 3 - 1, column + tap % 3 - 1
                if 0 <= r < size and 0 <= c < size:
                    matrix[row * size + column, r * size + c] = kernel[tap]
    return matrix


def refine(
    build: Callable[[float], torch.nn.Module], image: torch.Tensor, depths: list[int], time: float
) -> list[torch.Tensor]:
    """The outputs of `depth` equal layers `build(time / depth)` applied to `image`, for every depth."""
    import torch

    outputs = []
    with torch.no_grad():
        for depth in depths:
            layer = build(time / depth)
            x = image
            for _ in range(depth):
                x = layer(x)
            outputs.append(x)
    return outputs
