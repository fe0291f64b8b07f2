"""Families of sensing and completion problems, and how far the nuclear norm at a flow's end lies above its minimum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from theory import convex, observables
from theory.arrays import Array
from theory.chebyshev import follow
from theory.flows import Factorised, Parametrisation, Tied
from theory.problems import MatrixCompletion, MatrixSensing, Problem, random_completion
from theory.trajectory import ended


def random_sensing(size: int, rank: int, count: int, seeds: list[int]) -> tuple[MatrixSensing, Array]:
    """Symmetric Gaussian measurements of random PSD matrices of unit trace, one problem a seed; and these matrices."""
    A, y, targets = [], [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        factor = rng.standard_normal((size, rank))
        target = factor @ factor.T / np.sum(factor**2)
        draws = rng.standard_normal((count, size, size))
        draws = (draws + draws.swapaxes(1, 2)) / 2
        A.append(draws)
        y.append(np.sum(draws * target, axis=(1, 2)))
        targets.append(target)
    return MatrixSensing(np.stack(A), np.stack(y)), np.stack(targets)


@dataclass(frozen=True)
class Gaps:
    """Of the flows' ends, one a scale and seed: [scales, seeds]; and of what they are compared with: [seeds].

    Attributes:
        gap: relative gap of the nuclear norm to the convex minimum. rank: effective rank.
        distance, to_least: relative distances to the target of rank 1 and to the matrix of least norm.
        target_gap: the gap of the target itself. least_rank: effective rank of the matrix of least norm.
    """

    gap: Array
    rank: Array
    distance: Array
    to_least: Array
    target_gap: Array
    least_rank: Array


def completions(seeds: list[int]) -> tuple[MatrixCompletion, Array]:
    """6x6 completions of rank 1 and unit Frobenius norm from 18 entries, and their targets [seeds, 6, 6]."""
    problem, targets = random_completion(6, 1, 18, seeds)
    return problem.scaled(1 / 6), targets / 6


def least_completions(problem: MatrixCompletion) -> tuple[Array, Array]:
    """The matrix of least nuclear norm of every completion of a batch, by cvxpy, [B, n, m]; and these norms, [B]."""
    dense = [convex.completion_as_sensing(problem.shape, p, v) for p, v in zip(problem.positions, problem.values)]
    found = [convex.minimum_nuclear_norm(d.A, d.y) for d in dense]
    return np.stack([matrix for matrix, _ in found]), np.array([norm for _, norm in found])


def least_traces(problem: MatrixSensing) -> tuple[Array, Array]:
    """The PSD matrix of least trace of every sensing problem of a batch, by cvxpy, [B, n, n]; and these traces, [B]."""
    found = [
        convex.minimum_nuclear_norm(A, y, positive=True, tolerance=1e-10) for A, y in zip(problem.A, problem.y)
    ]
    return np.stack([matrix for matrix, _ in found]), np.array([trace for _, trace in found])


def _gaps(
    problem: Problem,
    start: Callable[[float], Parametrisation],
    scales: tuple[float, ...],
    targets: Array,
    least: tuple[Array, Array],
) -> Gaps:
    """The flows of a batch from `start(s)` for every scale s, against its targets and its (matrices, norms) of least
    norm.

    Raises:
        FlowError: a flow does not come to a loss of 1e-9. ValueError: a gap is negative.
    """
    matrices, norms = least
    ends = []
    for scale in scales:
        atol = 1e-7 * min(1.0, 1e4 * scale)
        ends.append(ended(follow(problem, start(scale), stop_loss=1e-9, rtol=1e-4, atol=atol)).weights)
    weights = np.stack(ends)
    return Gaps(
        convex.excess(observables.nuclear_norm(weights), norms),
        observables.effective_rank(weights),
        observables.relative_error(weights, targets),
        observables.relative_error(weights, matrices),
        convex.excess(observables.nuclear_norm(targets), norms),
        observables.effective_rank(matrices),
    )


def nuclear_gaps(seeds: list[int], scales: tuple[float, ...]) -> dict[str, Gaps]:
    """Where the flows of two families end, against the target and the matrix of least nuclear norm.

    Sensing: PSD 6x6 rank 1 from 9 Gaussian measurements, tied flow from `U_0 = s I`. Completion: factorised flow from
    M_0 = s I, W'_0 = 0.

    Raises:
        FlowError: a flow does not come to a loss of 1e-9. ValueError: a gap is negative.
    """
    size = 6
    eye = np.broadcast_to(np.eye(size), (len(seeds), size, size))
    sensing, planted = random_sensing(size, 1, 9, seeds)
    completion, hidden = completions(seeds)
    return {
        "sensing": _gaps(sensing, lambda s: Tied(s * eye), scales, planted, least_traces(sensing)),
        "completion": _gaps(
            completion, lambda s: Factorised(np.zeros_like(eye), s * eye), scales, hidden, least_completions(completion)
        ),
    }


#: A flow has come to the target within this relative distance, if it is ten times as far from the matrix of least norm.
NEAR = 0.05
#: Up to this gap (the convex program's tolerance) the target counts as the matrix of least norm itself.
LEAST = 1e-5
#: Up to this effective rank an end counts as of rank 1.
RANK_ONE = 1.01


@dataclass(frozen=True)
class Ends:
    """Where the flows of a family end from the smallest start.

    Attributes:
        problems: all. least: those whose target is the matrix of least norm itself; the rest are of the others:
        target: at the target, and not at the matrix of least norm. other: at another matrix of rank 1.
        lower: of `target`, with a lower effective rank than the matrix of least norm.
        off: largest relative difference between the gap of a flow of `target` and the target's own gap.
    """

    problems: int
    least: int
    target: int
    other: int
    lower: int
    off: float

    @property
    def underway(self) -> int:
        """Problems whose flow has come to none of these."""
        return self.problems - self.least - self.target - self.other


def ends_of(rows: Gaps) -> Ends:
    """Counts of one family of `nuclear_gaps`, at the last of its scales."""
    gap, rank, distance = rows.gap[-1], rows.rank[-1], rows.distance[-1]
    apart = rows.target_gap > LEAST
    target = apart & (distance < NEAR) & (10 * distance < rows.to_least[-1])
    other = apart & (distance >= NEAR) & (rows.to_least[-1] >= NEAR) & (rank < RANK_ONE)
    lower = target & (rank < rows.least_rank)
    off = np.abs(gap[target] / rows.target_gap[target] - 1)
    least, at_target, elsewhere, low = (int(part.sum()) for part in (~apart, target, other, lower))
    return Ends(len(gap), least, at_target, elsewhere, low, float(np.max(off, initial=0.0)))


def told_of_ends(gaps: dict[str, Gaps], scales: tuple[float, ...]) -> str:
    """Where the flows of the two families end from the smallest start, in words made from their counts."""
    sensing, completion = ends_of(gaps["sensing"]), ends_of(gaps["completion"])
    target, lower = sensing.target + completion.target, sensing.lower + completion.lower
    text = (
        f"At s = {scales[-1]:g} the flow ends at the target of rank 1, and not at the minimum, in {sensing.target} of "
        f"{sensing.problems} sensing problems and in {completion.target} of {completion.problems} completions; at "
        f"another matrix of rank 1 in {sensing.other} and {completion.other}. In {sensing.least} and "
        f"{completion.least} the target is the minimum itself, and {sensing.underway} and {completion.underway} flows "
        "have come to none of these."
    )
    if not target:
        return text
    return (
        f"{text} In the {target} that end at the target the gap is the target's own, to "
        f"{100 * max(sensing.off, completion.off):.2g} % of it, and the effective rank below that of the matrix of "
        f"least norm in {lower}."
    )


def counterexample(large: float = 3.0) -> tuple[MatrixCompletion, Array]:
    """The symmetric 4x4 completion of Li, Luo and Lyu (2021): W_13 = 1, W_14 = W_23 = R; and its fit of rank 1.

    With v = (1, R, 1, R), v v^T has trace 2 + 2 R^2, while a matrix of rank 2 fits with trace 4 R.
    """
    rows, columns = [[0, 0, 1, 2, 3, 2]], [[2, 3, 2, 0, 0, 1]]
    values = [[1.0, large, large, 1.0, large, large]]
    v = np.array([1.0, large, 1.0, large])
    return MatrixCompletion((4, 4), rows, columns, values), np.outer(v, v)


def counterexample_path(scales: tuple[float, ...], large: float = 3.0) -> Gaps:
    """Where the tied flow from s I ends, against the fit of rank 1 and that of least trace, [scales]; see `Gaps`."""
    problem, low = counterexample(large)
    dense = convex.completion_as_sensing(problem.shape, problem.positions[0], problem.values[0])
    minimiser, least = convex.minimum_nuclear_norm(dense.A, dense.y, positive=True)
    found = _gaps(
        problem, lambda s: Tied(s * np.eye(4)[None]), scales, low[None], (minimiser[None], np.array([least]))
    )
    return Gaps(*(np.asarray(getattr(found, name))[..., 0] for name in Gaps.__dataclass_fields__))
