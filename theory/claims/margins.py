"""Claim 15: margins of factorised linear classifiers on separable data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from theory import convex
from theory.batched import adaptive_flow
from theory.claims.ledger import Finding, Settings, claim, verdict_of
from theory.flows import DiagonalSimilarity, Factorised, Parametrisation
from theory.arrays import Array
from theory.problems import RescaledByLoss, SeparableClassification

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
    """Normalised margins over their maxima, at each level of log L: `l2` and `l1` [levels], and
    directions.
    """

    levels: Array
    l2: Array
    l1: Array
    directions: Array


def margin_path(
    problem: SeparableClassification, parametrisation: Parametrisation, levels: tuple[float, ...] = LEVELS
) -> MarginPath:
    """Follow the flow with time rescaled by 1/L down to each level of log L; L itself may underflow."""
    best = {norm: convex.maximum_margin(problem.signed, norm)[1] for norm in ("l2", "l1")}
    rescaled = RescaledByLoss(problem)
    state = np.atleast_2d(parametrisation.initial)
    found, reached = [], []
    start = float(rescaled.loss(parametrisation.weight(state))[0])
    for level in (level for level in levels if level < start):
        end = adaptive_flow(rescaled, parametrisation.started(state), stop_loss=level, rtol=1e-6, atol=1e-9, max_steps=200_000)
        state = end.states
        found.append(end.weights[0, :, 0])
        reached.append(float(end.losses[0]))
    directions = np.array(found)
    smallest = np.min(directions @ problem.signed, axis=1)
    return MarginPath(
        np.array(reached),
        smallest / np.linalg.norm(directions, axis=1) / best["l2"],
        smallest / np.abs(directions).sum(axis=1) / best["l1"],
        directions,
    )


def small_starts(rng: np.random.Generator, n: int) -> tuple[Factorised, DiagonalSimilarity]:
    """A small start for the unconstrained and for the diagonal similarity: W' Gaussian of size 0.05, M = 0.2
    I.
    """
    kernel = 0.05 * rng.standard_normal((n, 1))
    return Factorised(kernel, 0.2 * np.eye(n)), DiagonalSimilarity(kernel, np.full(n, 0.2))


@claim(
    15,
    "margins",
    statement="On separable data the unconstrained factorised flow converges to the direction of maximum l2 "
    "margin, the "
    "diagonal one towards maximum l1 margin.",
    source="Ji and Telgarsky 2019; Gunasekar, Lee, Soudry and Srebro 2018; quoted in the paper, section 5.1",
    threshold="unconstrained: l2 margin ratio >= 0.99 at log L = -1000; diagonal: l1 ratio >= 0.95 there, rising from "
    "log L = -30 on, and above the l1 ratio of the unconstrained flow, every seed",
)
def margins(settings: Settings) -> Finding:
    seeds = distinct_seeds(len(settings.seeds(4, 2)))
    l2, l1, other, early, logistic = [], [], [], [], []
    rising: list[bool] = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        problem = separable_data(rng)
        free, diagonal = small_starts(rng, problem.shape[0])
        ours, masked = margin_path(problem, free), margin_path(problem, diagonal)
        l2.append(ours.l2[-1])
        other.append(ours.l1[-1])
        l1.append(masked.l1[-1])
        early.append(masked.l1[1])
        rising.append(bool(np.all(np.diff(masked.l1[masked.levels <= -30]) > 0)))
        softer = SeparableClassification(problem.X, problem.labels, "logistic")
        logistic.append(margin_path(softer, small_starts(rng, problem.shape[0])[0], (-100.0, -1000.0)).l2[-1])
    return Finding(
        verdict_of(min(l2) >= 0.99, min(l1) >= 0.95, all(rising), all(a > b for a, b in zip(l1, other))),
        {
            "unconstrained: l2 ratio (min)": min(l2),
            "unconstrained, logistic loss: l2 ratio (min)": min(logistic),
            "unconstrained: l1 ratio (max)": max(other),
            "diagonal: l1 ratio (min)": min(l1),
            "diagonal: l1 ratio at log L = -1 (min)": min(early),
        },
        f"{len(seeds)} separable problems (4 inputs, 12 samples; l1 and l2 directions 10 degrees apart); flow with "
        "time rescaled by 1/L down to "
        "log L = -1000; "
        "maximum margins by linear and quadratic programs.",
        "The diagonal flow is slow: coordinates outside the limit's support decay only like a power of log(1/L), and "
        "early on its ratio may fall for a while.",
    )
