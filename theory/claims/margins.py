"""Claim 15: margins of factorised linear classifiers on separable data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from theory import convex
from theory.arrays import Array
from theory.batched import adaptive_flow
from theory.claims.ledger import Finding, Settings, claim, shared, verdict_of
from theory.claims.orders import slope, worst
from theory.flows import DiagonalSimilarity, Factorised, Parametrisation
from theory.problems import RescaledByLoss, SeparableClassification
from theory.trajectory import ended

LEVELS = (0.0, -1.0, -3.0, -10.0, -30.0, -100.0, -300.0, -1000.0)


def separable_data(
    rng: np.random.Generator, n: int = 4, count: int = 12, loss: str = "exponential"
) -> SeparableClassification:
    """Gaussian inputs [n, count] labelled by the sign of one coordinate, pushed to 0.3 where it is smaller.

    Labels that depend on one coordinate make the l1 and the l2 margin direction differ visibly.
    """
    normal = np.zeros(n)
    normal[int(rng.integers(n))] = rng.choice([-1.0, 1.0])
    X = rng.standard_normal((n, count))
    side = normal @ X
    labels = np.where(side >= 0, 1.0, -1.0)
    X = X + normal[:, None] * labels * np.maximum(0.3 - np.abs(side), 0)
    return SeparableClassification(X, labels, loss)


def directions_apart(problem: SeparableClassification) -> float:
    """Angle in degrees between the directions of maximum l1 and of maximum l2 margin."""
    one, two = (convex.maximum_margin(problem.signed, norm)[0] for norm in ("l1", "l2"))
    cosine = one @ two / (np.linalg.norm(one) * np.linalg.norm(two))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def distinct_seeds(count: int, n: int = 4, samples: int = 12, first: int = 1500) -> list[int]:
    """The first seeds whose two margin directions are at least 10 degrees apart: elsewhere nothing can be told."""
    found: list[int] = []
    seed = first
    while len(found) < count:
        if directions_apart(separable_data(np.random.default_rng(seed), n, samples)) >= 10:
            found.append(seed)
        seed += 1
    return found


@dataclass(frozen=True)
class MarginPath:
    """Normalised margins over their maxima, `l2` and `l1` [levels], at each level of log L; directions; states."""

    levels: Array
    l2: Array
    l1: Array
    directions: Array
    states: Array


def margin_path(
    problem: SeparableClassification, parametrisation: Parametrisation, levels: tuple[float, ...] = LEVELS
) -> MarginPath:
    """Follow the flow with time rescaled by 1/L down to each level of log L; L itself may underflow.

    Raises:
        FlowError: a level is not reached.
    """
    best = {norm: convex.maximum_margin(problem.signed, norm)[1] for norm in ("l2", "l1")}
    rescaled = RescaledByLoss(problem)
    state = np.atleast_2d(parametrisation.initial)
    found, reached, states = [], [], []
    start = float(rescaled.loss(parametrisation.weight(state))[0])
    for level in (level for level in levels if level < start):
        begun = parametrisation.started(state)
        end = ended(adaptive_flow(rescaled, begun, stop_loss=level, rtol=1e-6, atol=1e-9, max_steps=200_000))
        state = end.states
        found.append(end.weights[0, :, 0])
        reached.append(float(end.losses[0]))
        states.append(state[0])
    directions = np.array(found)
    smallest = np.min(directions @ problem.signed, axis=1)
    return MarginPath(
        np.array(reached),
        smallest / np.linalg.norm(directions, axis=1) / best["l2"],
        smallest / np.abs(directions).sum(axis=1) / best["l1"],
        directions,
        np.array(states),
    )


def alignment(pair: Factorised, states: Array) -> tuple[Array, Array]:
    """sigma_2 / sigma_1 of M and 1 - |<u_1, w'>| / |w'|, u_1 M's first left singular vector, of states [T, D]."""
    kernel, similarity = pair.blocks(states)
    u, values, _ = np.linalg.svd(similarity)
    unit = kernel[..., 0] / np.linalg.norm(kernel[..., 0], axis=-1, keepdims=True)
    overlap = np.abs(np.einsum("ta,ta->t", u[..., 0], unit))
    return values[:, 1] / values[:, 0], 1 - overlap


def small_starts(problem: SeparableClassification, rng: np.random.Generator) -> tuple[Factorised, DiagonalSimilarity]:
    """A small start for the unconstrained and for the diagonal similarity: W' Gaussian of size 0.05, M = 0.2 I.

    The sign of W' is such that the loss is below that of W = 0, as Ji and Telgarsky's theorem asks.
    """
    n = problem.shape[0]
    kernel = 0.05 * rng.standard_normal((n, 1))
    if problem.log_loss(0.2 * kernel) >= problem.log_loss(np.zeros((n, 1))):
        kernel = -kernel
    return Factorised(kernel, 0.2 * np.eye(n)), DiagonalSimilarity(kernel, np.full(n, 0.2))


@shared
def _free_paths(settings: Settings) -> list[tuple[Factorised, MarginPath]]:
    paths = []
    for seed in distinct_seeds(len(settings.seeds(6, 2))):
        rng = np.random.default_rng(seed)
        problem = separable_data(rng)
        free, _ = small_starts(problem, rng)
        paths.append((free, margin_path(problem, free)))
    return paths


@claim(
    15,
    "margins",
    statement="On separable data the unconstrained factorised flow converges to the direction of maximum l2 margin, "
    "its factors align with each other, and the diagonal one goes towards maximum l1 margin.",
    source="Ji and Telgarsky 2019; Gunasekar, Lee, Soudry and Srebro 2018; quoted in the paper, section 5.1",
    threshold="at log L = -1000: unconstrained l2 margin ratio >= 0.99 and sigma_2/sigma_1 of M < 0.01; diagonal l1 "
    "ratio >= 0.95, rising from log L = -30 on, and above the l1 ratio of the unconstrained flow; every seed",
    mutants=("frozen M",),
)
def margins(settings: Settings) -> Finding:
    seeds = distinct_seeds(len(settings.seeds(6, 2)))
    l1, early, logistic, rising = [], [], [], []
    free_paths = _free_paths(settings)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        problem = separable_data(rng)
        masked = margin_path(problem, small_starts(problem, rng)[1])
        l1.append(masked.l1[-1])
        early.append(masked.l1[1])
        rising.append(bool(np.all(np.diff(masked.l1[masked.levels <= -30]) > 0)))
        softer = SeparableClassification(problem.X, problem.labels, "logistic")
        logistic.append(margin_path(softer, small_starts(softer, rng)[0], (-100.0, -1000.0)).l2[-1])
    l2, other = ([getattr(path, name)[-1] for _, path in free_paths] for name in ("l2", "l1"))
    spread = [alignment(free, path.states)[0][-1] for free, path in free_paths]
    above = all(a > b for a, b in zip(l1, other))
    return Finding(
        verdict_of(min(l2) >= 0.99, max(spread) < 0.01, min(l1) >= 0.95, all(rising), above),
        {
            "unconstrained: l2 ratio (min)": min(l2),
            "unconstrained: sigma_2/sigma_1 of M (max)": max(spread),
            "unconstrained, logistic loss: l2 ratio (min)": min(logistic),
            "unconstrained: l1 ratio (max)": max(other),
            "diagonal: l1 ratio (min)": min(l1),
            "diagonal: l1 ratio at log L = -1 (min)": min(early),
        },
        f"{len(seeds)} separable problems (4 inputs, 12 samples; l1 and l2 directions 10 degrees apart), starts whose "
        "loss is below that of W = 0; flow with time rescaled by 1/L down to log L = -1000; maximum margins by linear "
        "and quadratic programs.",
        "The l2 ratio alone is that of w' with M frozen, too; alignment is not. The diagonal flow is slow: coordinates "
        "outside the limit's support decay only like a power of log(1/L), and early on its ratio may fall.",
    )


@claim(
    22,
    "alignment",
    statement="On separable data M aligns with w' and loses all its singular values but one: sigma_2/sigma_1 of M "
    "falls like |log L|^(-1/2), since sigma_1 grows with the margin and the rest stays.",
    source="Ji and Telgarsky 2019 (alignment of layers); the rate is ours",
    threshold="at log L = -1000: sigma_2/sigma_1 < 0.01 and 1 - |<u_1, w'>| / |w'| < 1e-8; slope in log |log L| from "
    "-30 on -0.5 +- 0.05; every seed",
    mutants=("frozen M", "preconditioned"),
)
def factors_align(settings: Settings) -> Finding:
    paths = _free_paths(settings)
    ratios, misses, slopes = [], [], []
    for free, path in paths:
        spread, off = alignment(free, path.states)
        late = path.levels <= -30
        ratios.append(float(spread[-1]))
        misses.append(float(off[-1]))
        slopes.append(slope(-path.levels[late], spread[late]))
    farthest = worst(slopes, -0.5)
    return Finding(
        verdict_of(max(ratios) < 0.01, max(misses) < 1e-8, abs(farthest + 0.5) < 0.05),
        {
            "sigma_2/sigma_1 at log L = -1000 (max)": max(ratios),
            "1 - |<u_1, w'>| / |w'| (max)": max(misses),
            "slope of sigma_2/sigma_1 (worst)": farthest,
        },
        f"{len(paths)} problems and starts of claim 15.",
    )
