"""Claim 16: what finite steps do to the flow's conserved quantity and to its path."""

from __future__ import annotations

import numpy as np

from theory.arrays import Array
from theory.claims.equations import random_factorised, random_regression
from theory.claims.ledger import Finding, Settings, claim, verdict_of
from theory.claims.orders import slope, worst
from theory.flows import Factorised
from theory.integrators import integrate
from theory.problems import Problem
from theory.steps import gradient_descent, implicit_midpoint, runge_kutta, velocity_of


def step_identity(problem: Problem, pair: Factorised, step: float) -> float:
    """Relative error of `C+ - C = step^2 (M S S^T M^T - W' S^T S W'^T)` for one gradient step."""
    kernel, similarity = pair.blocks(pair.initial)
    descent = problem.descent(pair.weight(pair.initial))
    after = gradient_descent(problem, pair, step=step, steps=1).states[-1]
    change = pair.invariants(after)["W'W'^T - M M^T"] - pair.invariants(pair.initial)["W'W'^T - M M^T"]
    push, pull = similarity @ descent, kernel @ descent.T
    stated = step**2 * (push @ push.T - pull @ pull.T)
    return float(np.linalg.norm(change - stated) / np.linalg.norm(stated))


def convergence_slopes(problem: Problem, pair: Factorised, time: float = 1.0) -> dict[str, float]:
    """Slopes of log(global error) against log(step) of Euler (gradient descent) and of Runge-Kutta 4."""
    exact = integrate(problem, pair, times=[0.0, time]).states[-1]

    def order(counts: list[int], end: dict[int, Array]) -> float:
        errors = [float(np.linalg.norm(end[k] - exact)) for k in counts]
        if not np.all(np.isfinite(errors)):
            return np.inf
        return slope([time / k for k in counts], errors)

    many, few = [2000, 4000, 8000], [200, 400, 800]
    euler = {k: gradient_descent(problem, pair, step=time / k, steps=k, every=k).states[-1] for k in many}
    with np.errstate(over="ignore", invalid="ignore"):  # a wrong flow may become infinite
        classic = {k: runge_kutta(velocity_of(problem, pair), pair.initial, step=time / k, steps=k) for k in few}
    return {"Euler": order(many, euler), "RK4": order(few, classic)}


@claim(
    16,
    "discrete-steps",
    statement="One gradient step changes C by exactly eta^2 (M S S^T M^T - W' S^T S W'^T); gradient descent follows "
    "the flow to first order and Runge-Kutta to fourth; the implicit midpoint rule conserves C.",
    source="direct computation; Hairer, Lubich and Wanner 2006 (quadratic invariants)",
    threshold="identity < 1e-12 relative; slopes 1 +- 0.05 and 4 +- 0.1; drift of C under midpoint < 1e-12",
    mutants=("wrong order", "frozen M", "doubled rate", "preconditioned", "Euler for Runge-Kutta"),
)
def discrete_steps(settings: Settings) -> Finding:
    seeds = settings.seeds(3, 1)
    identity, euler, classic, midpoint, descent, momentum = [], [], [], [], [], []
    for seed in seeds:
        rng = np.random.default_rng(1600 + seed)
        problem, pair = random_regression(rng, 4, 3, 2), random_factorised(rng, 4, 2, 0.5)
        identity.append(step_identity(problem, pair, 0.05))
        slopes = convergence_slopes(problem, pair)
        euler.append(slopes["Euler"])
        classic.append(slopes["RK4"])
        midpoint.append(max(implicit_midpoint(problem, pair, step=0.02, steps=300).invariants().values()))
        descent.append(max(gradient_descent(problem, pair, step=0.005, steps=1200).invariants().values()))
        heavy = gradient_descent(problem, pair, step=0.0005, steps=1200, momentum=0.9)
        momentum.append(max(heavy.invariants().values()))

    return Finding(
        verdict_of(
            max(identity) < 1e-12,
            abs(worst(euler, 1) - 1) <= 0.05,
            abs(worst(classic, 4) - 4) <= 0.1,
            max(midpoint) < 1e-12,
        ),
        {
            "identity for one step (max relative error)": max(identity),
            "Euler slope (worst)": worst(euler, 1),
            "RK4 slope (worst)": worst(classic, 4),
            "drift of C: implicit midpoint (max)": max(midpoint),
            "drift of C: gradient descent, step 0.005 (max)": max(descent),
            "drift of C: momentum 0.9, step 0.0005 (max)": max(momentum),
        },
        f"{len(seeds)} Gaussian regressions (4 inputs, 3 samples, 2 outputs) to time 1; midpoint 300 steps of 0.02.",
    )
