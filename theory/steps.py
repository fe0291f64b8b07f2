"""Finite steps: gradient descent as people run it, Runge-Kutta, and a step that conserves quadratic invariants."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from theory import trajectory
from theory.arrays import Array, as_count
from theory.flows import Parametrisation
from theory.problems import Problem
from theory.trajectory import FlowError, Trajectory

#: A numpy array or a torch tensor.
T = TypeVar("T", bound=Any)


def velocity_of(problem: Problem, parametrisation: Parametrisation) -> Callable[[Array], Array]:
    """d(state)/dt [..., D] of the gradient flow as a function of the state alone."""

    def velocity(state: Array) -> Array:
        return parametrisation.velocity(state, problem.descent(parametrisation.weight(state)))

    return velocity


def check_shapes(problem: Problem, parametrisation: Parametrisation) -> None:
    """Raises ValueError where the parametrisation's W has not the problem's shape, or the problem takes no batches."""
    if tuple(parametrisation.shape) != tuple(problem.shape):
        raise ValueError(
            f"the problem needs an effective weight of shape {tuple(problem.shape)}, the parametrisation gives "
            f"{tuple(parametrisation.shape)}."
        )
    # A path is looked at with all its weights at once.
    weight = np.asarray(parametrisation.weight(parametrisation.initial), dtype=float)
    if weight.ndim > 2:  # batches of problems are the package's own
        return
    with suppress(ValueError, TypeError, IndexError):  # told below
        if batch := np.shape(problem.loss(weight)):  # a batch of problems, where all else agrees
            each = np.broadcast_to(weight, (*batch, *weight.shape))
            if np.shape(problem.loss(each)) == batch and np.shape(problem.descent(each)) == each.shape:
                return
    weights = np.stack([weight, weight])
    asked = (("loss", problem.loss, weights.shape[:-2]), ("descent", problem.descent, weights.shape))
    for name, method, shape in asked:
        try:
            found = f"gives {list(np.shape(method(weights)))}"
        except (ValueError, TypeError, IndexError) as error:
            found = f"fails ({' '.join(str(error).split())})"
        if found != f"gives {list(shape)}":
            raise ValueError(
                f"the problem's {name} must take weights {list(weights.shape)} to {list(shape)}, and {found}; write it "
                "for leading axes, with W.swapaxes(-1, -2) and sum(axis=(-1, -2))."
            )


def common_start(problem: Problem, parametrisation: Parametrisation) -> Array:
    """The initial state, once for each member of the problem's batch."""
    start = parametrisation.initial
    batch = np.broadcast_shapes(start.shape[:-1], np.shape(problem.loss(parametrisation.weight(start))))
    return np.broadcast_to(start, (*batch, start.shape[-1]))


def starts_of_batch(what: str, problem: Problem, parametrisation: Parametrisation) -> Array:
    """A copy of the initial states [B, D] for a method that follows one of each member of the problem's batch.

    Raises:
        ValueError: they have not one batch axis, or the problem has another number of members.
    """
    states = np.array(parametrisation.initial)
    if states.ndim != 2:
        raise ValueError(
            f"{what} needs a batch of initial states [B, D], got shape {states.shape}; give the start a batch axis "
            "(start[None]), or use integrate."
        )
    problems = np.shape(problem.loss(parametrisation.weight(states[:1])))
    if problems not in ((1,), (len(states),)):
        raise ValueError(
            f"{what} follows {len(states)} initial states, but the problem is a batch of {list(problems)}: give one "
            "initial state for each of its members."
        )
    return states


def _check_numbers(step: float, momentum: float = 0.0) -> None:
    if not 0 < step < np.inf or not 0 <= momentum < 1:
        raise ValueError(
            f"step must be > 0 and finite and momentum in [0, 1); got step={step}, momentum={momentum}."
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

    Args:
        every: keep each `every`-th state (and the last).
    Raises:
        ValueError: step, steps, every or momentum out of range.
        FlowError: the iteration diverges.
    """
    check_shapes(problem, parametrisation)
    _check_numbers(step, momentum)
    steps, every = as_count("steps", steps), as_count("every", every)
    state = common_start(problem, parametrisation).copy()
    memory = np.zeros_like(state)
    states = [state.copy()]
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(1, steps + 1):
            rate = parametrisation.velocity(state, problem.descent(parametrisation.weight(state)))
            memory = momentum * memory + rate
            renewed = state + step * memory
            if np.all(np.abs(renewed) < 1e150):
                state = renewed
            elif trajectory.GUARDED:
                raise FlowError(f"gradient descent diverges at step {k} with step size {step:g}; use a smaller step.")
            if k % every == 0 or k == steps:
                states.append(state)
    return _discrete(problem, parametrisation, states, step, every, steps)


def runge_kutta(velocity: Callable[[T], T], state: T, *, step: float, steps: int) -> T:
    """`state` after `steps` classical fourth-order Runge-Kutta steps of an autonomous equation.

    Args:
        velocity: d(state)/dt of numpy arrays or torch tensors of any shape. step: may be negative.
    """
    for _ in range(steps):
        a = velocity(state)
        b = velocity(state + step / 2 * a)
        c = velocity(state + step / 2 * b)
        state = state + step / 6 * (a + 2 * b + 2 * c + velocity(state + step * c))
    return state


def _midpoint(velocity: Callable[[Array], Array], state: Array, step: float) -> Array | None:
    """The solution of `y = state + step / 2 velocity(y)` by fixed-point iteration to rounding; None: it finds none."""
    middle = state + step / 2 * velocity(state)
    before = np.inf
    for _ in range(200):
        renewed = state + step / 2 * velocity(middle)
        change = float(np.max(np.abs(renewed - middle)))
        middle = renewed
        # Rounding level: the change no longer falls.
        if change == 0 or (change >= before and change < 1e-13 * (1 + np.max(np.abs(state)))):
            return middle if np.all(np.isfinite(middle)) else None
        before = change
    return None


def implicit_midpoint(
    problem: Problem, parametrisation: Parametrisation, *, step: float, steps: int, every: int = 1
) -> Trajectory:
    """Implicit midpoint rule, which conserves every quadratic invariant of the flow to rounding.

    Each step's equation `y+ = y + h f((y + y+) / 2)` is solved by fixed-point iteration down to rounding.

    Raises:
        ValueError: step, steps or every out of range.
        FlowError: the fixed-point iteration does not contract (the step is too large).
    """
    check_shapes(problem, parametrisation)
    _check_numbers(step)
    steps, every = as_count("steps", steps), as_count("every", every)
    velocity = velocity_of(problem, parametrisation)
    state = common_start(problem, parametrisation).copy()
    states = [state]
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(1, steps + 1):
            middle = _midpoint(velocity, state, step)
            if middle is None and trajectory.GUARDED:
                raise FlowError(f"the implicit midpoint step {step:g} is too large at step {k}; use a smaller step.")
            state = state if middle is None else 2 * middle - state
            if k % every == 0 or k == steps:
                states.append(state)
    return _discrete(problem, parametrisation, states, step, every, steps)
