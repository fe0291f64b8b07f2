"""A stabilised explicit integrator for gradient flows: Runge-Kutta-Chebyshev of order two, with error control.

Near its limit a gradient flow is stiff: its Jacobian has a real, widely spread, nonpositive spectrum.
Gradient descent (forward Euler) must keep its step below 2 / rho there, so s evaluations cover a time of 2 s
/ rho. The s stages of a Runge-Kutta-Chebyshev step cover about 0.65 s^2 / rho, without solving any system,
and the embedded error estimate keeps the path on the flow, so that the limit (and with it the implicit bias)
is the flow's own.

Sommeijer, Shampine and Verwer, "RKC: an explicit solver for parabolic PDEs", J. Comput. Appl. Math. 88
(1998).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from theory.arrays import Array
from theory.batched import BatchEnd
from theory.flows import Parametrisation
from theory.problems import MatrixCompletion, Problem
from theory.steps import check_shapes, starts_of_batch
from theory.trajectory import FlowError

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


class _Stepper:
    """State, velocity and work arrays of one Runge-Kutta-Chebyshev integration; no step allocates memory."""

    def __init__(self, velocity: Callable[[Array, Array], float], start: Array, rtol: float, atol: float) -> None:
        self.velocity, self.rtol, self.atol = velocity, rtol, atol
        self.y = np.array(start)
        self.f0, self.f1, self.moved, self.before, self.now, self.scratch, self.direction = (
            np.empty_like(self.y) for _ in range(7)
        )
        self.loss = velocity(self.y, self.f0)
        self.evaluations = 1
        # A step of s stages multiplies rounding by about s^2; keep that below a tenth of the tolerance.
        digits = float(np.finfo(self.y.dtype).eps)
        self.max_stages = int(np.clip(np.sqrt(0.1 * rtol / digits), 5, MAX_STAGES))
        self.probe = digits**0.25 if self.y.dtype == np.float32 else 1e-3
        self.direction[...] = np.random.default_rng(0).standard_normal(self.y.shape)
        self.radius = 0.0

    def estimate_radius(self) -> None:
        """Spectral radius at y, by power iteration from the last direction (warm start), with 20 % to spare."""
        found, before = 0.0, -1.0
        size = float(np.linalg.norm(self.direction))
        if not 0 < size < np.inf:
            self.direction[...] = np.random.default_rng(0).standard_normal(self.y.shape)
            size = float(np.linalg.norm(self.direction))
        self.direction /= size
        step = self.probe * (float(np.linalg.norm(self.y)) or 1.0)
        for _ in range(30):
            np.multiply(self.direction, step, out=self.scratch)
            self.scratch += self.y
            self.velocity(self.scratch, self.now)
            self.evaluations += 1
            np.subtract(self.now, self.f0, out=self.direction)
            found = float(np.linalg.norm(self.direction)) / step
            if not 0 < found < np.inf:
                break
            # Normalised every time: over many warm starts the length would otherwise overflow or vanish.
            self.direction /= found * step
            if abs(found - before) < 0.05 * found:
                break
            before = found
        if not np.isfinite(found):
            raise FlowError("the flow became infinite; use a smaller initialisation.")
        self.radius = 1.2 * found

    def propose(self, h: float) -> tuple[float, float]:
        """One step of length h: afterwards `now` holds the new state and `f1` its velocity; (error, loss)."""
        stages = max(2, int(np.ceil(np.sqrt(1 + 1.54 * h * self.radius))))
        mu, nu, mut, gamma = coefficients(stages)
        # The recurrence in the displacement from y, which keeps the digits that the state itself would lose.
        before, moved, spare = self.before, self.moved, self.now
        before[...] = 0
        np.multiply(self.f0, mut[0] * h, out=moved)
        for j in range(1, stages):
            np.add(self.y, moved, out=self.scratch)
            self.velocity(self.scratch, self.f1)
            np.multiply(moved, mu[j], out=spare)
            before *= nu[j]
            spare += before
            self.f1 *= mut[j] * h
            spare += self.f1
            np.multiply(self.f0, gamma[j] * h, out=self.scratch)
            spare += self.scratch
            before, moved, spare = moved, spare, before
        self.before, self.moved, self.now = before, moved, spare
        np.add(self.y, moved, out=self.now)
        loss = self.velocity(self.now, self.f1)
        self.evaluations += stages
        np.add(self.f0, self.f1, out=self.scratch)
        self.scratch *= 0.4 * h
        np.multiply(moved, 0.8, out=self.before)
        self.scratch -= self.before
        np.maximum(np.abs(self.y), np.abs(self.now), out=self.before)
        self.before *= self.rtol
        self.before += self.atol
        self.scratch /= self.before
        error = float(np.linalg.norm(self.scratch)) / np.sqrt(self.y.size)
        return (error if np.isfinite(error) and np.isfinite(loss) else 1e6), loss

    def accept(self, loss: float) -> None:
        """Make the proposal the state."""
        self.loss = loss
        self.y, self.now = self.now, self.y
        self.f0, self.f1 = self.f1, self.f0


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
        start: initial state [D] of float64 or float32, which is the working precision.
        rtol, atol: error allowed per step, as root mean square over the state.
    Raises:
        ValueError: a tolerance is not positive, or below the digits of the working precision.
        FlowError: the flow became infinite.
    """
    if start.ndim != 1 or start.dtype not in (np.float32, np.float64):
        raise ValueError(f"start must be one float32 or float64 vector, got {start.dtype} of shape {start.shape}.")
    if not (rtol > 0 and atol > 0) or rtol < 100 * np.finfo(start.dtype).eps:
        raise ValueError(
            f"rtol and atol must be above 0, and rtol above 100 roundings of {start.dtype}; got {rtol:g} and {atol:g}."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        run = _Stepper(velocity, start, rtol, atol)
        run.estimate_radius()
        size = float(np.linalg.norm(run.y)) or 1.0
        h = 0.05 * size / max(float(np.linalg.norm(run.f0)), 1e-300)
        time, steps, since = 0.0, 0, 0
        while run.loss > stop_loss and run.evaluations < max_evaluations:
            h = min(h, 0.65 * (run.max_stages**2 - 1) / max(run.radius, 1e-300))
            error, loss = run.propose(h)
            steps += 1
            if error <= 1:
                time += h
                run.accept(loss)
                since += 1
            h *= min(5.0, max(0.1, 0.8 * max(error, 1e-9) ** (-1 / 3)))
            if h < 1e-300:
                raise FlowError("the flow became infinite; use a smaller initialisation.")
            if error > 1 or since >= 8:
                # A rejected step may mean that the radius has grown.
                run.estimate_radius()
                since = 0
    return FlowEnd(run.y, run.loss, time, steps, run.evaluations, run.loss <= stop_loss)


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
    Raises:
        ValueError: shapes disagree, or the initial state has no batch axis. FlowError: a member became infinite.
    """
    check_shapes(problem, parametrisation)
    states = starts_of_batch("follow", problem, parametrisation)
    losses, times, converged, evaluations = [], [], [], 0
    for member in range(len(states)):
        part = problem.members(np.array([member]))

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
    """`velocity(state, out)` of a product of factors on one completion problem, without allocation.

    The state is the concatenation of the factors, `W = F_1 .. F_N` with F_j [w_{j-1}, w_j].

    Args:
        problem: one square completion, n x n.
        depth: N, at least 2. dtype: working precision. inner: w_1 = .. = w_{N-1} (default n).
    """

    def __init__(
        self, problem: MatrixCompletion, depth: int, dtype: Any = np.float64, inner: int | None = None
    ) -> None:
        if problem.positions.ndim != 1 or problem.shape[0] != problem.shape[1]:
            raise ValueError("CompletionFlow needs one square completion problem, without batch axes.")
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}.")
        self.problem, self.size, self.depth = problem, problem.shape[0], depth
        self.positions, self.values = problem.positions, problem.values.astype(dtype)
        self.scale = dtype(problem.scale)
        widths = [self.size, *[inner or self.size] * (depth - 1), self.size]
        self.shapes = list(itertools.pairwise(widths))
        self._ends = list(itertools.accumulate(rows * columns for rows, columns in self.shapes))
        self._descent = np.zeros((self.size, self.size), dtype)
        self._left = [np.empty((width, self.size), dtype) for width in widths[1:]]
        self._right = [np.empty((width, self.size), dtype) for width in widths[:-1]]
        self._residual = np.empty(len(self.values), dtype)

    def factors(self, state: Array) -> list[Array]:
        """The factors as views of `state` [D]."""
        starts = [0, *self._ends]
        return [state[a:b].reshape(shape) for a, b, shape in zip(starts, self._ends, self.shapes)]

    def weight(self, state: Array) -> Array:
        """W [n, n] in a work array that the next call overwrites."""
        return self._product(self.factors(state))

    def _product(self, factors: list[Array]) -> Array:
        product = factors[-1]
        for j in range(self.depth - 2, -1, -1):
            product = np.matmul(factors[j], product, out=self._right[j])
        return product

    def __call__(self, state: Array, out: Array) -> float:
        factors, rates = self.factors(state), self.factors(out)
        weight = self._product(factors)
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
        rates[-1][...] = left
        return loss

    def compressed(self, state: Array, keep: float, dtype: Any = np.float64) -> tuple[CompletionFlow, Array]:
        """The same flow within the leading inner dimensions of the factors, and the state there.

        With an orthonormal Q_j for every inner space, the products `F_j = Q_{j-1} G_j Q_j^T` are a manifold which the
        flow never leaves: only what lies off Q_j now is dropped. Q_j spans the leading right singular vectors of
        `F_1 .. F_j` whose values are at least `keep` times the largest one's.
        """
        factors = self.factors(state)
        bases, product, counts = [], factors[0], []
        for factor in factors[1:]:
            _, values, vt = np.linalg.svd(product, full_matrices=False)
            counts.append(int(np.sum(values >= keep * values[0])))
            bases.append(vt)
            product = product @ factor
        width = max(counts)
        frames = [None, *(basis[:width].T for basis in bases), None]
        blocks = []
        for factor, left, right in zip(factors, frames[:-1], frames[1:]):
            block = factor if left is None else left.T @ factor
            blocks.append(block if right is None else block @ right)
        return CompletionFlow(self.problem, self.depth, dtype, width), np.concatenate(
            [block.reshape(-1) for block in blocks]
        ).astype(dtype)
