"""Many flows at once: an adaptive Dormand-Prince integrator in which every member of the batch has its own step.

`theory.integrators` shares one step between the members and aims at machine precision. For the statistical
claims (completion over many seeds) what counts is a faithful path at moderate tolerance, with escapes from
the saddle at the origin at different times in different members; there one step size for all would be
wasteful.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from theory.arrays import Array, as_count
from theory.flows import Parametrisation
from theory.problems import Problem
from theory.steps import check_shapes, starts_of_batch
from theory.trajectory import FlowError

_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@dataclass
class BatchEnd:
    """States [B, D], weights [B, n, m], losses [B], times [B] and whether each loss came below `stop_loss` [B].

    What reads the ends asks `theory.trajectory.ended` first.
    """

    states: Array
    weights: Array
    losses: Array
    times: Array
    converged: np.ndarray
    evaluations: int


def _check_numbers(stop_loss: float, horizon: float, rtol: float, atol: float, max_steps: int) -> None:
    if np.isnan(stop_loss):
        raise ValueError("stop_loss must be a number, got NaN.")
    if not horizon > 0:
        raise ValueError(f"horizon must be a positive time, got {horizon}.")
    if not (0 <= rtol < np.inf and 0 <= atol < np.inf and rtol + atol > 0):
        raise ValueError(f"rtol and atol must be finite, at least 0 and not both 0, got {rtol} and {atol}.")
    as_count("max_steps", max_steps)


def adaptive_flow(
    problem: Problem,
    parametrisation: Parametrisation,
    *,
    stop_loss: float,
    horizon: float = np.inf,
    rtol: float = 1e-4,
    atol: float = 1e-7,
    max_steps: int = 20_000,
) -> BatchEnd:
    """Follow B gradient flows until each one's loss is below `stop_loss`, its time beyond `horizon`,
    or for `max_steps`.

    Args:
        parametrisation: its initial state is [B, D].
        rtol, atol: error per step allowed to each member, as root mean square over its state.
    Raises:
        ValueError: shapes disagree, no batch axis, or a number out of range.
        FlowError: a member became infinite.
    """
    check_shapes(problem, parametrisation)
    _check_numbers(stop_loss, horizon, rtol, atol, max_steps)
    states = starts_of_batch("adaptive_flow", problem, parametrisation)
    count = len(states)
    times = np.zeros(count)
    active = np.arange(count)
    converged = np.zeros(count, dtype=bool)
    evaluations = 0
    part, y = problem.members(active), states.copy()

    def velocity(state: Array) -> Array:
        return parametrisation.velocity(state, part.descent(parametrisation.weight(state)))

    first = velocity(y)
    # A first step that changes no member by more than 1 %, one that starts at zero by 0.01.
    sizes = np.linalg.norm(y, axis=1)
    steps = 0.01 * np.where(sizes > 0, sizes, 1.0) / np.maximum(np.linalg.norm(first, axis=1), 1e-300)
    for _ in range(max_steps):
        h = np.minimum(steps[active], horizon - times[active])[:, None]
        stages = [first]
        for row in _A:
            increment = sum(a * k for a, k in zip(row, stages) if a)
            stages.append(velocity(y + h * increment))
        evaluations += len(_A) * len(active)
        proposal = y + h * increment
        error = h * sum(e * k for e, k in zip(_ERROR, stages) if e)
        scale = atol + rtol * np.maximum(np.abs(y), np.abs(proposal))
        size = np.sqrt(np.mean((error / scale) ** 2, axis=1))
        if not np.all(np.isfinite(size)):
            size = np.where(np.isfinite(size), size, 1e6)
        accepted = size <= 1
        steps[active] = h[:, 0] * np.clip(0.9 * np.maximum(size, 1e-10) ** -0.2, 0.2, 5.0)
        if np.any(steps[active] < 1e-300):
            raise FlowError("a member of the batch became infinite; use a smaller initialisation.")
        y = np.where(accepted[:, None], proposal, y)
        first = np.where(accepted[:, None], stages[-1], first)
        times[active] += np.where(accepted, h[:, 0], 0.0)
        done = part.loss(parametrisation.weight(y)) <= stop_loss
        over = times[active] >= horizon * (1 - 1e-12)
        stop = done | over
        if np.any(stop):
            states[active] = y
            converged[active[done]] = True
            active, y, first = active[~stop], y[~stop], first[~stop]
            if len(active) == 0:
                break
            part = problem.members(active)
    states[active] = y
    weights = parametrisation.weight(states)
    return BatchEnd(states, weights, problem.loss(weights), times, converged, evaluations)
