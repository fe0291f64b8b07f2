"""Integrators: adaptive solvers for the flow, a structure-preserving step, and gradient descent as people run
it.

Which solver `integrate(method="auto")` takes is decided anew for each time segment, from the spectral radius
rho of the flow's Jacobian at the segment's start (power iteration) and the segment's length dt. An explicit
method is held back by stability to steps of about 6 / rho, whatever the accuracy asked for, so it needs about
`2 rho dt`
evaluations of the flow:

* up to `EXPLICIT_BUDGET` evaluations: DOP853 (explicit, order 8, the most accurate);
* beyond, with at most `RADAU_LIMIT` unknowns: Radau (implicit, order 5, dense Newton systems);
* beyond, with at most `LSODA_LIMIT` unknowns: LSODA (switches between Adams and BDF);
* beyond: DOP853 all the same, since an implicit step would cost more than the explicit ones it saves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from theory import observables
from theory.flows import Parametrisation
from theory.problems import Array, Problem

EXPLICIT_BUDGET = 40_000
RADAU_LIMIT = 120
LSODA_LIMIT = 400
METHODS = ("auto", "DOP853", "LSODA", "Radau", "RK45")


class FlowError(ValueError):
    """A flow or an iteration left the range of floating point, or did not reach its limit."""


@dataclass
class Trajectory:
    """A path of the flow (or the iterates of an algorithm).

    Attributes:
        times: [T] time (for iterations: step size times step number).
        states: [T, ..., D] parameters.
        dissipated: [T] the integral of `||d(state)/dt||^2` up to each time, summed over the batch; equal to
            the loss lost so far for an exact gradient flow. NaN for discrete iterations.
        converged: whether the convergence criterion was met.
        methods: the solver used in each time segment.
        evaluations: number of evaluations of the flow.
    """

    problem: Problem
    parametrisation: Parametrisation
    times: Array
    states: Array
    dissipated: Array
    converged: bool
    methods: list[str] = field(default_factory=list)
    evaluations: int = 0

    @cached_property
    def weights(self) -> Array:
        """Effective weights [T, ..., n, m]."""
        return self.parametrisation.weight(self.states)

    @cached_property
    def losses(self) -> Array:
        """[T, ...]."""
        return self.problem.loss(self.weights)

    @cached_property
    def gradient_norms(self) -> Array:
        """Frobenius norm of grad L(W), [T, ...]."""
        return observables.frobenius_norm(self.problem.descent(self.weights))

    @cached_property
    def singular_values(self) -> Array:
        """[T, ..., min(n, m)]."""
        return observables.singular_values(self.weights)

    @property
    def nuclear_norms(self) -> Array:
        """[T, ...]."""
        return self.singular_values.sum(axis=-1)

    @property
    def frobenius_norms(self) -> Array:
        """[T, ...]."""
        return observables.frobenius_norm(self.weights)

    def schatten(self, p: float) -> Array:
        """`sum_r sigma_r^p` (no root), what a balanced product of depth 2/p pays for W, [T, ...]."""
        return np.sum(self.singular_values**p, axis=-1)

    @property
    def effective_ranks(self) -> Array:
        """[T, ...]."""
        return observables.effective_rank(self.weights)

    def invariants(self) -> dict[str, float]:
        """Largest absolute drift along the path of each conserved quantity, by name."""
        found = self.parametrisation.invariants(self.states)
        return {name: float(np.max(np.abs(value - value[:1]))) for name, value in found.items()}

    def limit(self, *, strict: bool = True) -> Array:
        """The effective weight at the end, [..., n, m].

        Raises:
            FlowError: `strict` and the path has not converged.
        """
        if strict and not self.converged:
            raise FlowError(
                f"the path has not converged at time {self.times[-1]:.3g} (gradient norm "
                f"{np.max(self.gradient_norms[-1]):.2e}); integrate longer, or ask for limit(strict=False)."
            )
        return self.weights[-1]


def spectral_radius(velocity: Any, state: Array, rate: Array, iterations: int = 12) -> float:
    """Largest |eigenvalue| of the flow's (symmetric) Jacobian at `state` [D], by power iteration on
    differences.
    """
    direction = np.random.default_rng(0).standard_normal(state.shape)
    radius = 0.0
    size = max(float(np.linalg.norm(state)), 1e-3)
    for _ in range(iterations):
        length = float(np.linalg.norm(direction))
        if length == 0 or not np.isfinite(length):
            break
        step = 1e-7 * size / length
        direction = (velocity(state + step * direction) - rate) / (step * length)
        radius = float(np.linalg.norm(direction))
    return radius


def choose_method(radius: float, duration: float, unknowns: int) -> str:
    """The rule stated at the top of this module."""
    if 2 * radius * duration <= EXPLICIT_BUDGET:
        return "DOP853"
    if unknowns <= RADAU_LIMIT:
        return "Radau"
    return "LSODA" if unknowns <= LSODA_LIMIT else "DOP853"


def _check_shapes(problem: Problem, parametrisation: Parametrisation) -> None:
    if tuple(parametrisation.shape) != tuple(problem.shape):
        raise ValueError(
            f"the problem needs an effective weight of shape {tuple(problem.shape)}, the parametrisation "
            "gives "
            f"{tuple(parametrisation.shape)}."
        )


def _solve(
    right_side: Any,
    span: tuple[float, float],
    start: Array,
    method: str,
    rtol: float,
    atol: float,
    events: list[Any],
) -> Any:
    found = solve_ivp(right_side, span, start, method=method, rtol=rtol, atol=atol, events=events or None)
    if found.status < 0 or not np.all(np.isfinite(found.y)):
        raise FlowError(
            f"the flow could not be continued beyond time {span[0]:.3g} ({method}): it became infinite or "
            "too stiff; "
            "start from a smaller initialisation or stop earlier."
        )
    return found


def integrate(
    problem: Problem,
    parametrisation: Parametrisation,
    *,
    times: ArrayLike | None = None,
    horizon: float = 1e12,
    method: str = "auto",
    rtol: float = 1e-13,
    atol: float = 1e-15,
    stop_gradient: float = 1e-12,
    stop_loss: float = 0.0,
    samples: int = 12,
) -> Trajectory:
    """Gradient flow of `problem` in the given parametrisation, from its initial state.

    Without `times` the flow runs until every parameter's velocity is below `stop_gradient` (in units of
    max(1, rho), rho the Jacobian's spectral radius, since rounding in the state moves the velocity by rho
    times as much) or the summed loss below `stop_loss`, or until `horizon`; at most `samples`
    of the solver's steps are kept of each time segment, whose length doubles.

    Args:
        times: the exact times [T] to report, increasing, from 0; no convergence test then.
        method: one of METHODS; "auto" follows the rule at the top of this module.
    Raises:
        ValueError: shapes disagree, unknown method, times not increasing.
        FlowError: the solver failed or the flow became infinite.
    """
    _check_shapes(problem, parametrisation)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    start = parametrisation.initial
    batch = np.broadcast_shapes(start.shape[:-1], problem.loss(parametrisation.weight(start)).shape)
    start = np.broadcast_to(start, (*batch, start.shape[-1]))
    shape, unknowns = start.shape, start.size
    count = [0]

    def velocity(flat: Array) -> Array:
        count[0] += 1
        state = flat.reshape(shape)
        return parametrisation.velocity(state, problem.descent(parametrisation.weight(state))).reshape(-1)

    def right_side(_: float, extended: Array) -> Array:
        # The last unknown accumulates the dissipation ||d(state)/dt||^2.
        with np.errstate(over="ignore", invalid="ignore"):
            rate = velocity(extended[:-1])
            return np.append(rate, rate @ rate)

    extended = np.append(start.reshape(-1), 0.0)
    radius = spectral_radius(velocity, extended[:-1], velocity(extended[:-1]))
    grid = None if times is None else np.asarray(times, dtype=float)
    if grid is not None and (grid.ndim != 1 or len(grid) < 2 or grid[0] != 0 or np.any(np.diff(grid) <= 0)):
        raise ValueError("times must be a list of at least two increasing numbers that starts with 0.")
    end = horizon if grid is None else float(grid[-1])
    now, duration, reached = 0.0, min(end, 4 / max(radius, 4 / end)), 0
    kept_times, kept = [np.zeros(1)], [extended[None]]
    methods: list[str] = []
    converged = False
    while now < end and not converged:
        if grid is None:
            until = min(end, now + duration)
        else:
            reached += 1
            until = float(grid[reached])
        used = choose_method(radius, until - now, unknowns) if method == "auto" else method
        floor = stop_gradient * max(1.0, radius)

        def slow(_: float, y: Array, floor: float = floor) -> float:
            return float(np.log(max(np.max(np.abs(velocity(y[:-1]))), 1e-300) / floor))

        def fitted(_: float, y: Array) -> float:
            total = float(np.sum(problem.loss(parametrisation.weight(y[:-1].reshape(shape)))))
            return float(np.log(max(total, 1e-300) / stop_loss))

        events: list[Any] = [] if grid is not None else [slow]
        if grid is None and stop_loss > 0:
            events.append(fitted)
        for event in events:
            event.terminal, event.direction = True, -1
        found = _solve(right_side, (now, until), extended, used, rtol, atol, events)
        methods.append(used)
        # Only ends of the solver's own steps are kept: its interpolant between them is less exact.
        t, y = found.t[1:], found.y.T[1:]
        if found.status == 1:
            # The last point is interpolated; step to it from the one before.
            again = _solve(right_side, (found.t[-2], found.t[-1]), found.y[:, -2], used, rtol, atol, [])
            y[-1] = again.y[:, -1]
            converged = True
        if grid is not None:
            pick = np.array([len(t) - 1])
        else:
            pick = np.unique(np.linspace(0, len(t) - 1, min(samples, len(t))).round().astype(int))
        kept_times.append(t[pick])
        kept.append(y[pick])
        now, extended = float(t[-1]), y[-1]
        if not converged and now < end:
            rate = velocity(extended[:-1])
            if grid is None or (len(methods) % 8 == 0):
                radius = spectral_radius(velocity, extended[:-1], rate)
            duration = max(duration * 2, 4 / max(radius, 4 / end))
            if grid is None and np.max(np.abs(rate)) < stop_gradient * max(1.0, radius):
                converged = True
    path = np.concatenate(kept)
    return Trajectory(
        problem,
        parametrisation,
        np.concatenate(kept_times),
        path[:, :-1].reshape(-1, *shape),
        path[:, -1],
        converged,
        methods,
        count[0],
    )


def _discrete(
    problem: Problem,
    parametrisation: Parametrisation,
    states: list[Array],
    step: float,
    every: int,
    last: int,
) -> Trajectory:
    ticks = [*range(0, last, every), last]
    times = step * np.array(ticks[: len(states)], dtype=float)
    return Trajectory(problem, parametrisation, times, np.stack(states), np.full(len(states), np.nan), False)


def gradient_descent(
    problem: Problem,
    parametrisation: Parametrisation,
    *,
    step: float,
    steps: int,
    momentum: float = 0.0,
    every: int = 1,
) -> Trajectory:
    """Gradient descent with a finite step (and heavy-ball momentum), what is run in practice: forward Euler.

    Raises:
        ValueError: step, steps or momentum out of range.
        FlowError: the iteration diverges.
    """
    _check_shapes(problem, parametrisation)
    if not step > 0 or steps < 1 or not 0 <= momentum < 1 or every < 1:
        raise ValueError(
            f"step must be > 0, steps and every >= 1 and momentum in [0, 1); got step={step}, steps={steps}, "
            f"momentum={momentum}, every={every}."
        )
    state = np.array(parametrisation.initial)
    memory = np.zeros_like(state)
    states = [state.copy()]
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(1, steps + 1):
            rate = parametrisation.velocity(state, problem.descent(parametrisation.weight(state)))
            memory = momentum * memory + rate
            state = state + step * memory
            if not np.all(np.abs(state) < 1e150):
                raise FlowError(f"gradient descent diverges at step {k} with step size {step:g}; use a smaller step.")
            if k % every == 0 or k == steps:
                states.append(state)
    return _discrete(problem, parametrisation, states, step, every, steps)


def runge_kutta(problem: Problem, parametrisation: Parametrisation, *, step: float, steps: int) -> Array:
    """The state [..., D] after `steps` classical fourth-order Runge-Kutta steps."""

    def velocity(state: Array) -> Array:
        return parametrisation.velocity(state, problem.descent(parametrisation.weight(state)))

    state = parametrisation.initial
    for _ in range(steps):
        a = velocity(state)
        b = velocity(state + step / 2 * a)
        c = velocity(state + step / 2 * b)
        state = state + step / 6 * (a + 2 * b + 2 * c + velocity(state + step * c))
    return state


def implicit_midpoint(
    problem: Problem, parametrisation: Parametrisation, *, step: float, steps: int, every: int = 1
) -> Trajectory:
    """Implicit midpoint rule, which conserves every quadratic invariant of the flow to rounding.

    Each step's equation `y+ = y + h f((y + y+) / 2)` is solved by fixed-point iteration down to rounding.

    Raises:
        FlowError: the fixed-point iteration does not contract (the step is too large).
    """
    _check_shapes(problem, parametrisation)
    if not step > 0 or steps < 1 or every < 1:
        raise ValueError(f"step must be > 0 and steps, every >= 1, got step={step}, steps={steps}, every={every}.")

    def velocity(state: Array) -> Array:
        return parametrisation.velocity(state, problem.descent(parametrisation.weight(state)))

    state = np.array(parametrisation.initial)
    states = [state]
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(1, steps + 1):
            middle = state + step / 2 * velocity(state)
            change = before = np.inf
            for _ in range(200):
                renewed = state + step / 2 * velocity(middle)
                change = float(np.max(np.abs(renewed - middle)))
                middle = renewed
                # Rounding level: the change no longer falls.
                if change == 0 or (change >= before and change < 1e-13 * (1 + np.max(np.abs(state)))):
                    break
                before = change
            else:
                raise FlowError(f"the implicit midpoint step {step:g} is too large at step {k}; use a smaller step.")
            if not np.all(np.isfinite(middle)):
                raise FlowError(f"the implicit midpoint step {step:g} is too large at step {k}; use a smaller step.")
            state = 2 * middle - state
            if k % every == 0 or k == steps:
                states.append(state)
    return _discrete(problem, parametrisation, states, step, every, steps)
