"""A stabilised explicit integrator for gradient flows: Runge-Kutta-Chebyshev of order two, with error
control.

Near its limit a gradient flow is stiff: its Jacobian has a real, widely spread, nonpositive spectrum.
Gradient descent (forward Euler) must keep its step below 2 / rho there, so s evaluations cover a time of 2 s
/ rho. The s stages of a Runge-Kutta-Chebyshev step cover about 0.65 s^2 / rho, without solving any system,
and the embedded error estimate keeps the path on the flow, so that the limit (and with it the implicit bias)
is the flow's own.

Sommeijer, Shampine and Verwer, "RKC: an explicit solver for parabolic PDEs", J. Comput. Appl. Math. 88
(1998).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from theory.batched import BatchEnd, select
from theory.flows import Parametrisation
from theory.integrators import FlowError
from theory.problems import Array, MatrixCompletion, Problem

MAX_STAGES = 200


@cache
def coefficients(stages: int) -> tuple[tuple[float, ...], ...]:
    """(mu, nu, mu~, gamma~) of the stages 1..s; mu and nu of stage 1 are zero."""
    epsilon = 2 / 13
    w0 = 1 + epsilon / stages**2
    t, dt, ddt = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for _ in range(2, stages + 1):
        t.append(2 * w0 * t[-1] - t[-2])
        dt.append(2 * t[-2] + 2 * w0 * dt[-1] - dt[-2])
        ddt.append(4 * dt[-2] + 2 * w0 * ddt[-1] - ddt[-2])
    w1 = dt[stages] / ddt[stages]
    b = [0.0, 0.0, *(ddt[j] / dt[j] ** 2 for j in range(2, stages + 1))]
    b[0] = b[1] = b[2]
    mu, nu, mut, gamma = [0.0], [0.0], [b[1] * w1], [0.0]
    for j in range(2, stages + 1):
        mu.append(2 * b[j] * w0 / b[j - 1])
        nu.append(-b[j] / b[j - 2])
        mut.append(2 * b[j] * w1 / b[j - 1])
        gamma.append(-(1 - b[j - 1] * t[j - 1]) * mut[-1])
    return tuple(mu), tuple(nu), tuple(mut), tuple(gamma)


@dataclass
class FlowEnd:
    """The state where the flow was stopped, its loss and time, and the work it took."""

    state: Any
    loss: float
    time: float
    steps: int
    evaluations: int
    converged: bool


def chebyshev_flow(
    velocity: Callable[[Array, Array], float],
    start: Array,
    *,
    stop_loss: float,
    rtol: float = 1e-2,
    atol: float = 1e-4,
    max_evaluations: int = 1_000_000,
) -> FlowEnd:
    """Follow `d(state)/dt = velocity(state)` until the loss is below `stop_loss`.

    Args:
        velocity: `velocity(state, out)` writes the velocity [D] into `out` and returns the loss at `state`.
        start: initial state [D]; its dtype is the working precision.
        rtol, atol: error allowed per step, as root mean square over the state.
    Raises:
        FlowError: the flow became infinite.
    """
    y = np.array(start)
    f0, f1, older, old, new, scratch, direction = (np.empty_like(y) for _ in range(7))
    loss = velocity(y, f0)
    evaluations = 1
    radius = 0.0

    def estimate() -> float:
        """Spectral radius at y by power iteration, from the last direction (warm start)."""
        nonlocal evaluations
        found, before = 0.0, -1.0
        for _ in range(30):
            size = float(np.linalg.norm(direction))
            if size == 0:
                return 0.0
            step = 1e-3 * max(float(np.linalg.norm(y)), 1e-6) / size
            np.multiply(direction, step, out=scratch)
            np.add(scratch, y, out=scratch)
            velocity(scratch, new)
            evaluations += 1
            np.subtract(new, f0, out=direction)
            direction[...] /= step
            found = float(np.linalg.norm(direction)) / size
            if abs(found - before) < 0.05 * found:
                break
            before = found
        return 1.2 * found

    direction[...] = np.random.default_rng(0).standard_normal(y.shape)
    radius = estimate()
    h = 0.05 * float(np.linalg.norm(y)) / max(float(np.linalg.norm(f0)), 1e-300)
    time, steps, since = 0.0, 0, 0
    while loss > stop_loss and evaluations < max_evaluations:
        h = min(h, 0.65 * (MAX_STAGES**2 - 1) / max(radius, 1e-300))
        stages = max(2, int(np.ceil(np.sqrt(1 + 1.54 * h * radius))))
        mu, nu, mut, gamma = coefficients(stages)
        np.copyto(older, y)
        np.multiply(f0, mut[0] * h, out=old)
        old += y
        for j in range(1, stages):
            velocity(old, f1)
            # new = (1 - mu - nu) y + mu old + nu older + mut h f1 + gamma h f0, without temporaries
            np.multiply(old, mu[j], out=new)
            older *= nu[j]
            new += older
            np.multiply(y, 1 - mu[j] - nu[j], out=scratch)
            new += scratch
            f1 *= mut[j] * h
            new += f1
            np.multiply(f0, gamma[j] * h, out=scratch)
            new += scratch
            older, old, new = old, new, older
        evaluations += stages
        reached = velocity(old, f1)
        np.subtract(y, old, out=scratch)
        scratch *= 0.8
        np.add(f0, f1, out=new)
        new *= 0.4 * h
        scratch += new
        np.maximum(np.abs(y), np.abs(old), out=new)
        new *= rtol
        new += atol
        scratch /= new
        error = float(np.sqrt(np.mean(scratch**2)))
        steps += 1
        if not np.isfinite(error):
            error = 1e6
        if error <= 1:
            time += h
            loss = reached
            y, old = old, y
            f0, f1 = f1, f0
            since += 1
        h *= min(5.0, max(0.1, 0.8 * max(error, 1e-9) ** (-1 / 3)))
        if h < 1e-300:
            raise FlowError("the flow became infinite; use a smaller initialisation.")
        if error > 1 or since >= 8:
            # A rejected step may mean that the radius has grown.
            if not np.any(direction) or not np.all(np.isfinite(direction)):
                direction[...] = f0
            radius = estimate()
            since = 0
    return FlowEnd(y, loss, time, steps, evaluations, loss <= stop_loss)


def follow(
    problem: Problem,
    parametrisation: Parametrisation,
    *,
    stop_loss: float,
    rtol: float = 1e-3,
    atol: float = 1e-6,
    max_evaluations: int = 50_000,
) -> BatchEnd:
    """Chebyshev flow of every member of a batch, one after the other, until its loss is below `stop_loss`.

    Args:
        parametrisation: its initial state is [B, D].
    """
    states = np.array(parametrisation.initial)
    losses, times, converged, evaluations = [], [], [], 0
    for member in range(len(states)):
        part = select(problem, np.array([member]))

        def velocity(state: Array, out: Array, part: Problem = part) -> float:
            weight = parametrisation.weight(state[None])
            out[...] = parametrisation.velocity(state[None], part.descent(weight))[0]
            return float(part.loss(weight)[0])

        end = chebyshev_flow(
            velocity,
            states[member],
            stop_loss=stop_loss,
            rtol=rtol,
            atol=atol,
            max_evaluations=max_evaluations,
        )
        states[member] = end.state
        losses.append(end.loss)
        times.append(end.time)
        converged.append(end.converged)
        evaluations += end.evaluations
    return BatchEnd(
        states,
        parametrisation.weight(states),
        np.array(losses),
        np.array(times),
        np.array(converged),
        evaluations,
    )


class CompletionFlow:
    """`velocity(state, out)` of a product of `depth` square factors on one completion problem, without
    allocation.

    The state is the concatenation of the factors [depth, n, n], `W = F_1 .. F_N`.
    """

    def __init__(self, problem: MatrixCompletion, depth: int, dtype: Any = np.float64) -> None:
        if problem.positions.ndim != 1 or problem.shape[0] != problem.shape[1]:
            raise ValueError("CompletionFlow needs one square completion problem, without batch axes.")
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}.")
        self.size, self.depth = problem.shape[0], depth
        self.positions, self.values = problem.positions, problem.values.astype(dtype)
        self.scale = dtype(problem.scale)
        shape = (self.size, self.size)
        self._descent = np.zeros(shape, dtype)
        self._left = [np.empty(shape, dtype) for _ in range(depth)]
        self._right = [np.empty(shape, dtype) for _ in range(depth)]
        self._residual = np.empty(len(self.values), dtype)

    def weight(self, state: Array) -> Array:
        """W [n, n] in a work array that the next call overwrites."""
        factors = state.reshape(self.depth, self.size, self.size)
        product = factors[-1]
        for j in range(self.depth - 2, -1, -1):
            product = np.matmul(factors[j], product, out=self._right[j])
        return product

    def __call__(self, state: Array, out: Array) -> float:
        factors = state.reshape(self.depth, self.size, self.size)
        rates = out.reshape(self.depth, self.size, self.size)
        weight = self.weight(state)
        np.take(weight.reshape(-1), self.positions, out=self._residual)
        np.subtract(self.values, self._residual, out=self._residual)
        loss = 0.5 * float(self.scale) * float(self._residual @ self._residual)
        self._residual *= self.scale
        self._descent.reshape(-1)[self.positions] = self._residual
        left = self._descent
        for j in range(self.depth - 1):
            # _right[j + 1] holds F_{j+2} .. F_N (for the last pair it is F_N itself).
            suffix = factors[-1] if j == self.depth - 2 else self._right[j + 1]
            np.matmul(left, suffix.T, out=rates[j])
            left = np.matmul(factors[j].T, left, out=self._left[j])
        rates[-1] = left
        return loss
