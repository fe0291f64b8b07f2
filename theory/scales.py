"""Sizes that a flow's tolerances refer to: its stiffness, its curvature and scale in W, and whether it can go lower."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from theory.arrays import Array
from theory.flows import Parametrisation
from theory.problems import Problem
from theory.steps import velocity_of

#: Step of the differences that make a spectral radius, relative to the size of the state.
DIFFERENCE = 1e-7


def spectral_radius(
    velocity: Callable[[Array], Array], state: Array, rate: Array, *, scale: float = 1e-3, iterations: int = 12
) -> float:
    """Largest |eigenvalue| of the flow's (symmetric) Jacobian at `state` [D], by power iteration on differences.

    Args:
        rate: the velocity at `state`. scale: size of a state that counts as large, for states near zero.
    """
    direction = np.random.default_rng(0).standard_normal(state.shape)
    radius = 0.0
    size = max(float(np.linalg.norm(state)), scale)
    for _ in range(iterations):
        length = float(np.linalg.norm(direction))
        if length == 0 or not np.isfinite(length):
            break
        step = DIFFERENCE * size / length
        direction = (velocity(state + step * direction) - rate) / (step * length)
        radius = float(np.linalg.norm(direction))
    return radius


def curvature(problem: Problem, weight: Array) -> float:
    """Largest curvature of the loss in W at `weight` [..., n, m].

    From differences of the gradient; where W is so small that they would be lost in its rounding, over larger steps.
    """
    slope = problem.descent(weight)
    length, size, found = float(np.linalg.norm(weight)) or 1.0, float(np.linalg.norm(slope)), 0.0
    for _ in range(10):
        bent = spectral_radius(problem.descent, weight, slope, scale=length, iterations=8)
        found = bent if np.isfinite(bent) else found
        if not np.isfinite(bent) or DIFFERENCE * length * bent > 1000 * np.finfo(float).eps * size:
            break
        length *= 1e3
    return found


def weight_scale(problem: Problem, weight: Array) -> float:
    """How far W [..., n, m] is from where the gradient would vanish, in norm: ||S|| over the curvature in W."""
    size = float(np.linalg.norm(problem.descent(weight)))
    if size == 0:
        return 0.0
    bent = curvature(problem, weight)
    return size / bent if bent > 0 else float(np.linalg.norm(weight)) or 1.0


def leads_down(problem: Problem, parametrisation: Parametrisation, state: Array) -> bool:
    """Whether the objective can be lowered from the neighbourhood of `state` [D]: a plateau, not a minimum.

    Minimises (L-BFGS) from a point displaced by 10 % of the problem's own scale. First and second derivatives at
    `state` would not do: at the origin of a deep product both vanish.
    """
    scale = weight_scale(problem, parametrisation.weight(state)) ** (1 / parametrisation.degree)
    size = 0.1 * max(scale, float(np.max(np.abs(state))))
    velocity = velocity_of(problem, parametrisation)

    def objective(trial: Array) -> tuple[float, Array]:
        loss = float(problem.loss(parametrisation.weight(trial))) + float(parametrisation.penalty(trial))
        return loss, -velocity(trial)

    here = objective(state)[0]
    start = state + size * np.random.default_rng(0).standard_normal(state.shape) / np.sqrt(len(state))
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 3000, "ftol": 0, "gtol": 0})
    return float(found.fun) < here - 1e-6 * abs(here)
