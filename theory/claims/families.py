"""Families of sensing and completion problems, and how far the nuclear norm at a flow's end lies above its minimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from theory import convex, observables
from theory.arrays import Array
from theory.chebyshev import follow
from theory.flows import Factorised, Tied
from theory.problems import MatrixCompletion, MatrixSensing, random_completion
from theory.trajectory import ended


def random_sensing(size: int, rank: int, count: int, seeds: list[int]) -> MatrixSensing:
    """Symmetric Gaussian measurements of a random PSD matrix of unit trace, one problem a seed."""
    A, y = [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        factor = rng.standard_normal((size, rank))
        target = factor @ factor.T / np.sum(factor**2)
        draws = rng.standard_normal((count, size, size))
        draws = (draws + draws.swapaxes(1, 2)) / 2
        A.append(draws)
        y.append(np.sum(draws * target, axis=(1, 2)))
    return MatrixSensing(np.stack(A), np.stack(y))


@dataclass(frozen=True)
class Gaps:
    """Of the flows' ends, one a scale and seed: [scales, seeds].

    Attributes:
        gap: relative gap of the nuclear norm to the convex minimum. distance: relative distance to the target.
        rank: effective rank. least_rank: that of the convex minimiser, [seeds].
    """

    gap: Array
    distance: Array
    rank: Array
    least_rank: Array


def completions(seeds: list[int], size: int = 6) -> tuple[MatrixCompletion, Array]:
    """6x6 completions of rank 1 and unit Frobenius norm from 18 entries, and their targets [seeds, 6, 6]."""
    problem, targets = random_completion(size, 1, 18, seeds)
    return problem.scaled(1 / size), targets / size


def least_completions(problem: MatrixCompletion) -> tuple[Array, Array]:
    """The matrix of least nuclear norm of every completion of a batch, by cvxpy, [B, n, m]; and these norms, [B]."""
    dense = [convex.completion_as_sensing(problem.shape, p, v) for p, v in zip(problem.positions, problem.values)]
    found = [convex.minimum_nuclear_norm(d.A, d.y) for d in dense]
    return np.stack([matrix for matrix, _ in found]), np.array([norm for _, norm in found])


def nuclear_gaps(seeds: list[int], scales: tuple[float, ...]) -> dict[str, Gaps]:
    """Gap of the flow's nuclear norm to the convex minimum, in two families.

    Sensing: PSD 6x6 rank 1 from 9 Gaussian measurements, tied flow from `U_0 = s I`. Completion: factorised flow from
    M_0 = s I, W'_0 = 0.

    Raises:
        FlowError: a flow does not come to a loss of 1e-9. ValueError: a gap is negative.
    """
    size = 6
    sensing = random_sensing(size, 1, 9, seeds)
    completion, targets = completions(seeds)
    traces = [convex.minimum_nuclear_norm(a, b, positive=True) for a, b in zip(sensing.A, sensing.y)]
    least_trace = np.array([trace for _, trace in traces])
    minimisers, least_norm = least_completions(completion)
    least_rank = {
        "sensing": observables.effective_rank(np.stack([matrix for matrix, _ in traces])),
        "completion": observables.effective_rank(minimisers),
    }
    rows: dict[str, list[tuple[Array, Array, Array]]] = {"sensing": [], "completion": []}
    for scale in scales:
        start = np.broadcast_to(scale * np.eye(size), (len(seeds), size, size))
        atol = 1e-7 * min(1.0, 1e4 * scale)
        end = ended(follow(sensing, Tied(start), stop_loss=1e-9, rtol=1e-4, atol=atol))
        gap = convex.excess(observables.nuclear_norm(end.weights), least_trace)
        rows["sensing"].append((gap, np.zeros(len(seeds)), observables.effective_rank(end.weights)))
        pair = Factorised(np.zeros_like(start), start)
        end = ended(follow(completion, pair, stop_loss=1e-9, rtol=1e-4, atol=atol))
        distance = observables.relative_error(end.weights, targets)
        gap = convex.excess(observables.nuclear_norm(end.weights), least_norm)
        rows["completion"].append((gap, distance, observables.effective_rank(end.weights)))
    ends = {name: [np.array(part) for part in zip(*row)] for name, row in rows.items()}
    return {name: Gaps(gap, distance, rank, least_rank[name]) for name, (gap, distance, rank) in ends.items()}


#: The size of the start from which on a gap grows or not, and the part of the norm below which it has vanished.
GROWS_FROM, VANISHED = 1e-2, 1e-3


@dataclass(frozen=True)
class GapCounts:
    """Problems of a family: all, those whose gap grows, those where it has vanished; and how many of the growing ones
    end at a lower effective rank than the matrix of least norm has."""

    problems: int
    growing: int
    vanished: int
    lower: int


def gap_counts(rows: Gaps, scales: tuple[float, ...]) -> GapCounts:
    """Counts of one family of `nuclear_gaps`, whose `scales` fall and hold `GROWS_FROM`."""
    grows = rows.gap[-1] > rows.gap[scales.index(GROWS_FROM)]
    lower = grows & (rows.rank[-1] < rows.least_rank)
    vanished = rows.gap[-1] < VANISHED
    return GapCounts(len(grows), int(grows.sum()), int(vanished.sum()), int(lower.sum()))


def told_of_gaps(gaps: dict[str, Gaps], scales: tuple[float, ...]) -> str:
    """What the gaps of the two families do as the start vanishes, in words made from their counts."""
    sensing, completion = (gap_counts(gaps[name], scales) for name in ("sensing", "completion"))
    growing, lower = sensing.growing + completion.growing, sensing.lower + completion.lower
    where = f"In {lower} of these {growing}" if growing > 1 else f"In {lower} of 1"
    ends = f" {where} the flow ends at a lower effective rank than the matrix of least norm." if growing else ""
    return (
        f"At s = {scales[-1]:g} the gap is below {100 * VANISHED:g} % of the norm in {sensing.vanished} of "
        f"{sensing.problems} sensing problems and in {completion.vanished} of {completion.problems} completions. "
        f"Between s = {GROWS_FROM:g} and {scales[-1]:g} it grows in {sensing.growing} sensing "
        f"problem{'s' * (sensing.growing != 1)} and in {completion.growing} completion"
        f"{'s' * (completion.growing != 1)}.{ends}"
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
    """Gap of the trace to its minimum, and distance to the fit of rank 1, of the tied flow from s I, [scales]."""
    problem, low = counterexample(large)
    dense = convex.completion_as_sensing(problem.shape, problem.positions[0], problem.values[0])
    minimiser, least = convex.minimum_nuclear_norm(dense.A, dense.y, positive=True)
    ends = []
    for s in scales:
        start, atol = Tied(s * np.eye(4)[None]), 1e-7 * min(1.0, 1e4 * s)
        ends.append(ended(follow(problem, start, stop_loss=1e-9, rtol=1e-4, atol=atol)).weights)
    weights = np.concatenate(ends)
    return Gaps(
        convex.excess(observables.nuclear_norm(weights), least),
        observables.relative_error(weights, low),
        observables.effective_rank(weights),
        observables.effective_rank(minimiser),
    )
