"""Adaptive solvers that follow a gradient flow to rounding error, and the test for having reached its limit.

Which solver `integrate(method="auto")` takes is decided anew for each time segment, from the spectral radius rho of
the flow's Jacobian at the segment's start (power iteration) and the segment's length dt. An explicit method is held
back by stability to steps of about 6 / rho, whatever the accuracy asked for, so it needs about `2 rho dt` evaluations:

* up to `EXPLICIT_BUDGET` evaluations: DOP853 (explicit, order 8, the most accurate);
* beyond, with at most `RADAU_LIMIT` unknowns: Radau (implicit, order 5, dense Newton systems);
* beyond, with at most `LSODA_LIMIT` unknowns: LSODA (switches between Adams and BDF);
* beyond: DOP853 all the same, since an implicit step would cost more than the explicit ones it saves.

Every tolerance is relative to the problem (its own velocities, gradients and weights), so that data in other units
give the same path in other units.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import DOP853, LSODA, RK45, OdeSolver, Radau

from theory import trajectory
from theory.arrays import Array, as_count, as_float
from theory.flows import Parametrisation
from theory.problems import Problem
from theory.scales import curvature, leads_down, spectral_radius, weight_scale
from theory.steps import check_shapes, common_start, velocity_of
from theory.trajectory import SMALL_GRADIENT, FlowError, Trajectory

EXPLICIT_BUDGET = 40_000
IMPLICIT_STEPS = 1000
#: So many segments, each twice as long, at rest on a plateau end a flow without convergence.
PATIENCE = 8
RADAU_LIMIT = 120
LSODA_LIMIT = 400
SOLVERS: dict[str, type[OdeSolver]] = {"DOP853": DOP853, "LSODA": LSODA, "Radau": Radau, "RK45": RK45}
METHODS = ("auto", *SOLVERS)
#: To here the relative tolerance is relaxed, no further.
LOOSEST = 1e-9
#: An unguarded flow (`trajectory.GUARDED`) whose objective has grown by this factor counts as infinite.
BEYOND = 1e12
#: Velocity that rounding of the state alone may cause, in units of the spectral radius times the state.
ROUNDING = 64 * np.finfo(float).eps


def choose_method(radius: float, duration: float, unknowns: int) -> str:
    """The rule stated at the top of this module."""
    if 2 * radius * duration <= EXPLICIT_BUDGET:
        return "DOP853"
    if unknowns <= RADAU_LIMIT:
        return "Radau"
    return "LSODA" if unknowns <= LSODA_LIMIT else "DOP853"


@dataclass
class _Run:
    """One integration: the flow with its dissipation as last unknown, and the scales its tolerances refer to."""

    problem: Problem
    parametrisation: Parametrisation
    shape: tuple[int, ...]
    stop_gradient: float
    stop_loss: float
    rtol: float
    atol: float
    evaluations: int = 0
    smallest: float = 1e-3
    radius: float = 0.0
    curvature: float = 0.0
    #: By so much the solver's errors may raise an objective that is nearly 0.
    noise: float = 0.0
    fastest: Array = field(default_factory=lambda: np.zeros(1))
    steepest: Array = field(default_factory=lambda: np.zeros(1))

    def velocity(self, flat: Array) -> Array:
        self.evaluations += 1
        state = flat.reshape(self.shape)
        descent = self.problem.descent(self.parametrisation.weight(state))
        return self.parametrisation.velocity(state, descent).reshape(-1)

    def right_side(self, _: float, extended: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            rate = self.velocity(extended[:-1])
            return np.append(rate, rate @ rate)

    def jacobian(self, _: float, extended: Array) -> Array:
        """Derivative of `right_side` by central differences, for the implicit solvers, [D + 1, D + 1].

        Their own differences would take ever larger steps in the last unknown, on which nothing depends.
        """
        states = extended[:-1].reshape(-1, self.shape[-1])
        size = self.shape[-1]
        whole = np.zeros((len(extended), len(extended)))
        for member, state in enumerate(states):
            part = self.problem.members(np.array([member])) if len(states) > 1 else self.problem
            velocity = velocity_of(part, self.parametrisation)
            step = 1e-6 * max(float(np.max(np.abs(state))), 1e-200)
            shifts = step * np.eye(size)
            place = slice(member * size, (member + 1) * size)
            whole[place, place] = ((velocity(state + shifts) - velocity(state - shifts)) / (2 * step)).T
        self.evaluations += 2 * size
        whole[-1, :-1] = 2 * self.velocity(extended[:-1]) @ whole[:-1, :-1]
        return whole

    def speeds(self, flat: Array) -> Array:
        """Largest velocity of each member, [members]."""
        return np.max(np.abs(self.velocity(flat).reshape(-1, self.shape[-1])), axis=1)

    def slopes(self, flat: Array) -> Array:
        """||grad L(W)|| of each member, [members]."""
        descent = self.problem.descent(self.parametrisation.weight(flat.reshape(self.shape)))
        return np.linalg.norm(descent.reshape(-1, descent.shape[-2] * descent.shape[-1]), axis=1)

    def look(self, flat: Array) -> None:
        """Take the scales of this state into account: stiffness, curvature in W, velocity and gradient."""
        self.radius = spectral_radius(self.velocity, flat, self.velocity(flat), scale=self.smallest)
        weight = self.parametrisation.weight(flat.reshape(self.shape))
        self.curvature = curvature(self.problem, weight)
        self.fastest = np.maximum(self.fastest, self.speeds(flat))
        self.steepest = np.maximum(self.steepest, self.slopes(flat))

    def floors(self, flat: Array) -> Array:
        """Velocity below which each member counts as at rest, [members].

        Rounding of W moves S by the curvature times as much, and the velocity by what such an S would cause.
        """
        state = flat.reshape(self.shape)
        weight = self.parametrisation.weight(state)
        size = np.max(np.abs(weight), axis=(-1, -2), keepdims=True)
        noise = ROUNDING * self.curvature * size * np.random.default_rng(0).choice([-1.0, 1.0], weight.shape)
        velocity = self.parametrisation.velocity
        caused = velocity(state, noise) - velocity(state, np.zeros_like(noise))
        rounding = np.max(np.abs(caused.reshape(-1, self.shape[-1])), axis=1)
        return np.maximum(self.stop_gradient * self.fastest, rounding) + 1e-300

    def at_rest(self, flat: Array, floors: Array) -> bool:
        """Whether every member is at rest and its gradient in W small."""
        return bool(np.all(self.speeds(flat) <= floors) and np.all(self.slopes(flat) <= self.gentle))

    @property
    def gentle(self) -> Array:
        """Gradient in W that counts as small, [members]."""
        return SMALL_GRADIENT * self.steepest + 1e-300

    def objective(self, flat: Array) -> float:
        """Loss and penalty, summed over the members."""
        state = flat.reshape(self.shape)
        loss = self.problem.loss(self.parametrisation.weight(state))
        return float(np.sum(loss) + np.sum(self.parametrisation.penalty(state)))

    def fitted(self, flat: Array) -> bool:
        """Whether the summed loss is below `stop_loss`."""
        if self.stop_loss <= 0:
            return False
        return float(np.sum(self.problem.loss(self.parametrisation.weight(flat.reshape(self.shape))))) <= self.stop_loss

    def ended(self, flat: Array) -> tuple[bool, bool]:
        """(whether the path ends here, whether in a limit), asked where no event has occurred."""
        if self.fitted(flat):
            return True, bool(self.problem.attained and self.at_rest(flat, self.floors(flat)))
        floors = self.floors(flat)
        speeds = self.speeds(flat)
        if not self.problem.attained or np.any(speeds > floors):
            return bool(np.all(speeds == 0)), False
        steep = np.flatnonzero(self.slopes(flat) > self.gentle)
        states = flat.reshape(-1, self.shape[-1])
        for member in steep:
            part = self.problem.members(np.array([member])) if len(states) > 1 else self.problem
            alone = _Single(part)
            if leads_down(alone, self.parametrisation, states[member]):
                # At rest on a plateau: go on, unless nothing can move it.
                return bool(speeds[member] <= 1e-14 * floors[member] or speeds[member] == 0), False
        return True, True


class _Single(Problem):
    """One member of a batch as a problem without batch axes."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.shape = problem, problem.shape

    def loss(self, weight: Array) -> Array:
        return np.asarray(np.sum(self.problem.loss(weight)))

    def descent(self, weight: Array) -> Array:
        return self.problem.descent(weight).reshape(weight.shape)


def _checked_times(times: ArrayLike) -> Array:
    grid = as_float("times", times, 1)
    if grid.ndim != 1 or len(grid) < 2 or grid[0] != 0 or np.any(np.diff(grid) <= 0):
        raise ValueError("times must be a list of at least two increasing numbers that starts with 0.")
    return grid


def _check_numbers(method: str, horizon: float | None, **positive: float) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    if horizon is not None and not 0 < horizon < np.inf:
        raise ValueError(f"horizon must be a positive, finite time, got {horizon}.")
    for name, value in positive.items():
        lowest = name in ("stop_gradient", "stop_loss", "atol")
        if not (value >= 0 if lowest else value > 0) or value == np.inf:
            raise ValueError(f"{name} must be {'at least 0' if lowest else 'above 0'} and finite, got {value}.")


def integrate(
    problem: Problem,
    parametrisation: Parametrisation,
    *,
    times: ArrayLike | None = None,
    horizon: float | None = None,
    method: str = "auto",
    rtol: float = 1e-13,
    atol: float = 1e-15,
    stop_gradient: float = 1e-12,
    stop_loss: float = 0.0,
    samples: int = 12,
) -> Trajectory:
    """Gradient flow of `problem` in the given parametrisation, from its initial state.

    Without `times` the flow runs until it is at rest in a limit, until the summed loss is below `stop_loss`, or until
    `horizon`. At rest means: every parameter's velocity below `stop_gradient` times the largest on the path (or what
    rounding causes), and the gradient in W below 1e-6 of its largest, or no direction that leads down. On a plateau
    (near the origin of a product, say) the flow goes on; where it cannot move at all, it ends without convergence.
    Rest is relative to the largest velocity, so modes slower than `stop_gradient` of the fastest are not seen: in
    regression the end's error may reach `stop_gradient` times the condition of X X^T, over its non-zero eigenvalues.
    `Trajectory.limit` refuses an end that is off the fits by more than 1e-6 of W there; `converged` does not tell.

    Args:
        times: the exact times [T] to report, increasing, from 0; no convergence test then, and neither `horizon` nor
            `stop_loss` may be given.
        horizon: default 1e12, in units of 1/rho where the flow is slower than that.
        method: one of METHODS; "auto" follows the rule at the top of this module.
        rtol: relative error per step; on long plateaus "auto" relaxes it, to 1e-9 at most (`Trajectory.rtol` tells).
        atol: error of the state per step, in units of min(1, scale of W).
        samples: at most so many of the solver's steps, the last among them, are kept of each time segment, whose
            length doubles.
    Raises:
        ValueError: shapes disagree, unknown method, times not finite and increasing, a number out of range, `times`
            beside `horizon` or `stop_loss`.
        FlowError: the solver failed or the flow became infinite.
    """
    check_shapes(problem, parametrisation)
    _check_numbers(method, horizon, rtol=rtol, atol=atol, stop_gradient=stop_gradient, stop_loss=stop_loss)
    samples = as_count("samples", samples)
    if times is not None and (horizon is not None or stop_loss > 0):
        raise ValueError("times says where the flow ends: give neither horizon nor stop_loss beside it.")
    grid = None if times is None else _checked_times(times)
    start = common_start(problem, parametrisation)
    atol *= min(1.0, weight_scale(problem, parametrisation.weight(start)) or 1.0)
    run = _Run(problem, parametrisation, start.shape, stop_gradient, stop_loss, rtol, atol)
    flat = start.reshape(-1)
    length = max(weight_scale(problem, parametrisation.weight(start)), float(np.max(np.abs(start)))) or 1.0
    run.smallest = 1e-3 * min(1.0, length)
    run.noise = max(rtol, 1e-12) * run.objective(flat) if problem.attained else 0.0
    run.look(flat)
    run.steepest = np.maximum(run.steepest, run.slopes(np.zeros_like(flat)))
    if grid is not None:
        return _reported(run, flat, grid, method)
    end = horizon or 1e12 * max(1.0, 1 / max(run.radius, 1e-200))
    return _to_rest(run, flat, end, method, samples)


def _advance(
    run: _Run, span: tuple[float, float], extended: Array, method: str, rest: bool
) -> tuple[list[float], list[Array], str, bool, bool]:
    """Times and states of the solver's steps within `span`, which solver it was, whether the path ends, and in a limit.

    With "auto", a solver that turns out to need far more work than foreseen ends before the end of the span: an
    explicit one, since the flow became stiffer on the way; an implicit one, since the error it is asked for lies in
    the rounding of its linear systems (long plateaus), whereupon the run's tolerances are relaxed, to LOOSEST at most.
    Only ends of the solver's own steps count: its interpolants are less exact.
    """
    used = choose_method(run.radius, span[1] - span[0], len(extended) - 1) if method == "auto" else method
    floors = run.floors(extended[:-1])
    jacobian = {"jac": run.jacobian} if used in ("LSODA", "Radau") else {}
    solver = SOLVERS[used](run.right_side, span[0], extended, span[1], rtol=run.rtol, atol=run.atol, **jacobian)
    evaluations = run.evaluations + (4 * EXPLICIT_BUDGET if method == "auto" and used == "DOP853" else np.inf)
    steps = IMPLICIT_STEPS if method == "auto" and used != "DOP853" and run.rtol < LOOSEST else np.inf
    times: list[float] = []
    states: list[Array] = []
    start_objective = run.objective(extended[:-1]) if run.problem.attained else np.inf
    while solver.status == "running" and run.evaluations < evaluations:
        if len(times) >= steps:
            looser = min(30 * run.rtol, LOOSEST)
            run.rtol, run.atol = looser, run.atol * looser / run.rtol
            break
        with np.errstate(over="ignore", invalid="ignore"):  # a first step that is too long is tried again
            solver.step()
        risen = run.objective(solver.y[:-1]) if len(times) % 64 == 63 else 0.0
        infinite = solver.status == "failed" or not np.all(np.isfinite(solver.y))
        if not trajectory.GUARDED and (infinite or risen > BEYOND * start_objective + run.noise):
            return [*times, span[1]], [*states, states[-1] if states else extended], used, True, False
        if infinite:
            raise FlowError(
                f"the flow could not be continued beyond time {solver.t_old or span[0]:.3g} ({used}): it became "
                "infinite or too stiff; start from a smaller initialisation or stop earlier."
            )
        if trajectory.GUARDED and risen > 10 * start_objective + run.noise:
            raise FlowError(
                f"the loss grows along the path (time {solver.t:.3g}): the parametrisation's velocity does not descend."
            )
        times.append(float(solver.t))
        states.append(solver.y.copy())
        flat = states[-1][:-1]
        if rest:
            resting = run.problem.attained and run.at_rest(flat, floors)
            if resting or run.fitted(flat):
                return times, states, used, True, resting
    return times, states, used, False, False


def _reported(run: _Run, flat: Array, grid: Array, method: str) -> Trajectory:
    """The states at the times of `grid`."""
    extended, now, methods, infinite = np.append(flat, 0.0), 0.0, [], False
    kept = [extended]
    for until in grid[1:]:
        while now < until and not infinite:
            times, states, used, infinite, _ = _advance(run, (now, float(until)), extended, method, False)
            now, extended = times[-1], states[-1]
            methods.append(used)
            flat = extended[:-1]
            run.radius = spectral_radius(run.velocity, flat, run.velocity(flat), scale=run.smallest)
        kept.append(extended)
    return _trajectory(run, grid, np.stack(kept), False, methods)


def _to_rest(run: _Run, flat: Array, end: float, method: str, samples: int) -> Trajectory:
    """Segments of doubling length until the flow is at rest."""
    extended = np.append(flat, 0.0)
    now, duration = 0.0, min(end, 4 / max(run.radius, 4 / end))
    kept_times, kept, methods = [0.0], [extended], []
    stopped, converged = run.ended(flat)
    resting = 0
    while now < end and not stopped and resting < PATIENCE:
        span = (now, min(end, now + duration))
        times, states, used, stopped, converged = _advance(run, span, extended, method, True)
        methods.append(used)
        last = len(times) - 1
        places = np.linspace(0, last, min(samples, last + 1)) if samples > 1 else np.array([last])
        for k in np.unique(places.round().astype(int)):
            kept_times.append(times[k])
            kept.append(states[k])
        now, extended = times[-1], states[-1]
        if not stopped:
            run.look(extended[:-1])
            duration = max(duration * 2, 4 / max(run.radius, 4 / end))
            stopped, converged = run.ended(extended[:-1])
            resting = resting + 1 if np.all(run.speeds(extended[:-1]) <= run.floors(extended[:-1])) else 0
    return _trajectory(run, np.array(kept_times), np.stack(kept), converged, methods)


def _trajectory(run: _Run, times: Array, path: Array, converged: bool, methods: list[str]) -> Trajectory:
    states = path[:, :-1].reshape(-1, *run.shape)
    return Trajectory(
        run.problem,
        run.parametrisation,
        times,
        states,
        path[:, -1],
        converged,
        methods,
        run.evaluations,
        run.fitted(path[-1, :-1]),
        run.rtol,
    )
