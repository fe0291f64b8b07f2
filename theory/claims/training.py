"""Claims 24, 25, 28 and 29: weight decay, a learning rate of its own for M, momentum, noise and large steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from theory import convex
from theory.arrays import Array
from theory.claims.equations import random_factorised, random_regression
from theory.claims.ledger import MEASURED, Finding, Settings, claim, verdict_of
from theory.claims.orders import slope, worst
from theory.flows import Decayed, DiagonalSimilarity, Factorised, Parametrisation
from theory.integrators import integrate
from theory.problems import LinearRegression
from theory.scales import spectral_radius
from theory.steps import gradient_descent, velocity_of
from theory.trajectory import FlowError


def decayed_gap(problem: LinearRegression, start: Parametrisation, decay: float, norm: str) -> tuple[float, float]:
    """Of the decayed flow's end: duality gap of L + decay * norm(W), and difference to cvxpy's minimum, relative.

    Whether the flow has converged is not asked: the gap tells how far any end is from the minimum.
    """
    flow = Decayed(start, (decay, decay))
    limit = integrate(problem, flow, rtol=1e-10, atol=1e-12, stop_gradient=1e-11).limit(strict=False)
    gap, objective = convex.penalised_gap(problem.X, problem.Y, decay, norm, limit)
    return gap, abs(objective / convex.penalised_minimum(problem.X, problem.Y, decay, norm) - 1)


@dataclass(frozen=True)
class OneSided:
    """The flow with decay on W' alone, up to t = 1e7.

    Attributes:
        slope: of the distance to the least-squares fit of least norm, in time, both logarithmic; within the range of X.
        off_slope: the same of what lies off the range of X; NaN where X X^T has full rank.
        distance: the whole distance at the end, relative. size: |M| there.
        off, free_off: |Pi W| at the end, Pi projecting off the range of X; and that of the flow without decay.
    """

    slope: float
    off_slope: float
    distance: float
    size: float
    off: float
    free_off: float


def one_sided_decay(problem: LinearRegression, start: Factorised, decay: float) -> OneSided:
    """What decay on W' alone leaves on W, in the range of X and off it."""
    times = np.concatenate([[0.0], np.geomspace(1e2, 1e7, 11)])
    path = integrate(problem, Decayed(start, (decay, 0.0)), times=times, rtol=1e-9, atol=1e-12)
    exact, projector = problem.minimum_norm_solution, problem.null_projector
    off = projector @ path.weights

    def sizes(parts: Array) -> Array:
        return np.linalg.norm(parts, axis=(-1, -2))

    def late(distances: Array) -> float:
        return slope(times[4:], distances[4:])

    deficient = np.linalg.matrix_rank(problem.X) < problem.shape[0]
    free = integrate(problem, start).limit() if deficient else exact
    return OneSided(
        late(sizes(path.weights - off - exact)),
        late(sizes(off)) if deficient else np.nan,
        float(sizes(path.weights[-1] - exact) / np.linalg.norm(exact)),
        float(np.linalg.norm(start.blocks(path.states[-1])[1])),
        float(sizes(off[-1])),
        float(np.linalg.norm(projector @ free)),
    )


@claim(
    24,
    "weight-decay",
    statement="Equal weight decay lambda/2 (||W'||^2 + ||M||^2) is lambda times the nuclear norm of W (UNS), and a "
    "group lasso over its rows (DNS). Decay on W' alone, as the paper variant of this package trains, leaves nothing "
    "on W where X X^T has full rank: M grows and the penalty vanishes, like t^(-1/2). Where it has not, W goes to the "
    "least-squares fit of least norm, at that rate within the range of X and like t^(-1/4) off it, where the flow "
    "without decay keeps part of W.",
    source="Srebro, Rennie and Jaakkola 2004 (variational form of the nuclear norm), carried over; the rest ours",
    threshold="duality gap of the limit < 1e-8 of the objective, cvxpy's minimum within 1e-6, every seed; decay on W' "
    "alone: slope in log t of the distance to least squares -0.5 +- 0.05 within the range of X and, where X X^T has "
    "not full rank, -0.25 +- 0.025 off it, where less than a tenth is left at t = 1e7 of what the flow without decay "
    "keeps",
    mutants=("frozen M", "doubled rate"),
)
def weight_decay(settings: Settings) -> Finding:
    seeds, decay = settings.seeds(3, 1), 0.5
    nuclear, rows, full, deficient = [], [], [], []
    for seed in seeds:
        rng = np.random.default_rng(2400 + seed)
        problem = random_regression(rng, 4, 8, 3)
        nuclear.append(decayed_gap(problem, random_factorised(rng, 4, 3, 0.5), decay, "nuclear"))
        mask = DiagonalSimilarity(rng.standard_normal((4, 3)), np.ones(4))
        rows.append(decayed_gap(problem, mask, decay, "rows"))
        full.append(one_sided_decay(problem, random_factorised(rng, 4, 3, 0.5), decay))
        few = random_regression(rng, 6, 4, 3)
        deficient.append(one_sided_decay(few, random_factorised(rng, 6, 3, 0.5), decay))
    on_slope = worst([end.slope for end in full + deficient], -0.5)
    off_slope = worst([end.off_slope for end in deficient], -0.25)
    left = max(end.off / end.free_off for end in deficient)
    both = nuclear + rows
    return Finding(
        verdict_of(
            max(r[0] for r in both) < 1e-8,
            max(r[1] for r in both) < 1e-6,
            abs(on_slope + 0.5) < 0.05,
            abs(off_slope + 0.25) < 0.025,
            left < 0.1,
        ),
        {
            "UNS: duality gap (max)": max(r[0] for r in nuclear),
            "DNS: duality gap (max)": max(r[0] for r in rows),
            "difference to cvxpy (max)": max(r[1] for r in both),
            "decay on W' alone: slope of the distance within the range of X (worst)": on_slope,
            "decay on W' alone, full rank: distance to least squares at t = 1e7 (max)": max(e.distance for e in full),
            "decay on W' alone, full rank: |M| at t = 1e7 (min)": min(end.size for end in full),
            "decay on W' alone, 4 samples: slope of |Pi W| (worst)": off_slope,
            "decay on W' alone, 4 samples: |Pi W| at t = 1e7 (max)": max(end.off for end in deficient),
            "without decay, 4 samples: |Pi W| at the limit (min)": min(end.free_off for end in deficient),
            "decay on W' alone, 4 samples: the first over the second (max)": left,
            "decay on W' alone, 4 samples: distance to the fit of least norm at t = 1e7 (max)": max(
                end.distance for end in deficient
            ),
        },
        f"{len(seeds)} Gaussian regressions (4 inputs, 8 samples, 3 outputs) and, for decay on W' alone to t = 1e7, as "
        f"many of 6 inputs and 4 samples, where Pi projects off the range of X; lambda = {decay:g}.",
        "The release variant decays an unconstrained M too, at a rate of its own. The limits hold for the flow; a "
        "training of finite length keeps part of the penalty. M Pi is conserved, so that Pi W = (M Pi)^T W' falls as "
        "W' does, while ||M||^2 grows like t^(1/2).",
    )


class Rated(Factorised):
    """`Factorised` with M learned at `rate` times the rate of W'."""

    def __init__(self, W_prime0: Array, M0: Array, rate: float) -> None:
        super().__init__(W_prime0, M0)
        self.rate = rate

    def velocity(self, state: Array, descent: Array) -> Array:
        kernel, similarity = self.blocks(state)
        return self.pack(similarity @ descent, self.rate * kernel @ descent.swapaxes(-1, -2))


def clock(rate: float) -> float:
    """How much faster the equivalent plain flow runs."""
    return float(np.sqrt(rate))


@claim(
    25,
    "rate-of-similarity",
    statement="M learned at gamma times the rate of W' is the plain flow from gamma^(1/4) W'_0 and gamma^(-1/4) M_0, "
    "run sqrt(gamma) times as fast: a rate of its own for M is another start, no other dynamics.",
    source="ours",
    threshold="largest difference of the two paths of W < 1e-9, gamma = 0.1, 3 and 100",
    mutants=("wrong order", "frozen M", "doubled rate", "forgotten clock"),
)
def rate_of_similarity(settings: Settings) -> Finding:
    seeds, rates = settings.seeds(4, 1), (0.1, 3.0, 100.0)
    gaps: dict[str, float] = {}
    for rate in rates:
        worst = 0.0
        for seed in seeds:
            rng = np.random.default_rng(2500 + seed)
            problem = random_regression(rng, 4, 3, 2)
            kernel, similarity = 0.5 * rng.standard_normal((4, 2)), 0.5 * rng.standard_normal((4, 4))
            times = np.linspace(0, 3, 7)
            rated = integrate(problem, Rated(kernel, similarity, rate), times=times)
            plain = Factorised(rate**0.25 * kernel, rate**-0.25 * similarity)
            path = integrate(problem, plain, times=clock(rate) * times)
            worst = max(worst, float(np.max(np.abs(rated.weights - path.weights))))
        gaps[f"gamma = {rate:g} (max)"] = worst
    return Finding(
        verdict_of(max(gaps.values()) < 1e-9),
        gaps,
        f"{len(seeds)} Gaussian regressions (4 inputs, 3 samples, 2 outputs), W' and M Gaussian of size 0.5, "
        "7 times up to 3.",
    )


def heavy_ball_residual(problem: LinearRegression, pair: Factorised, friction: float, time: float) -> float:
    """Residual along heavy-ball dynamics of `C'' + mu C' = 2 (V V^T - U U^T)`, integrated over time.

    Raises:
        FlowError: the solver does not come to `time`.
    """
    size = pair.initial.size

    def blocks(flat: Array) -> tuple[Array, Array]:
        kernel, similarity = pair.blocks(flat)
        return kernel, similarity

    def source(speed: Array) -> Array:
        kernel, similarity = blocks(speed)
        return 2 * (kernel @ kernel.T - similarity @ similarity.T)

    def right_side(_: float, y: Array) -> Array:
        state, speed = y[:size], y[size : 2 * size]
        force = pair.velocity(state, problem.descent(pair.weight(state)))
        return np.concatenate([speed, force - friction * speed, source(speed).reshape(-1)])

    n = pair.shape[0]
    start = np.concatenate([pair.initial, np.zeros(size), np.zeros(n * n)])
    found = solve_ivp(right_side, (0, time), start, method="DOP853", rtol=1e-12, atol=1e-13)
    if not found.success:
        raise FlowError(f"heavy-ball dynamics ended at time {found.t[-1]:.3g} of {time:g} ({found.message}).")

    def imbalance(y: Array) -> tuple[Array, Array]:
        """C and its time derivative."""
        (kernel, similarity), (dk, ds) = blocks(y[:size]), blocks(y[size : 2 * size])
        change = dk @ kernel.T + kernel @ dk.T - ds @ similarity.T - similarity @ ds.T
        return kernel @ kernel.T - similarity @ similarity.T, change

    (before, slow), (after, fast) = imbalance(found.y[:, 0]), imbalance(found.y[:, -1])
    integral = found.y[2 * size :, -1].reshape(n, n)
    return float(np.max(np.abs(fast - slow + friction * (after - before) - integral)))


@claim(
    28,
    "heavy-ball",
    statement="Under heavy-ball dynamics theta'' + mu theta' = -grad L the balance is no longer conserved: C = W'W'^T "
    "- M M^T obeys C'' + mu C' = 2 (V V^T - U U^T), V and U the velocities of W' and M.",
    source="direct computation",
    threshold="residual of the equation, integrated over time, < 1e-9",
    mutants=("wrong order", "frozen M", "preconditioned"),
)
def heavy_ball(settings: Settings) -> Finding:
    residuals = []
    for seed in settings.seeds(4, 1):
        rng = np.random.default_rng(2800 + seed)
        problem, pair = random_regression(rng, 4, 3, 2), random_factorised(rng, 4, 2, 0.5)
        residuals += [heavy_ball_residual(problem, pair, friction, 4.0) for friction in (0.1, 1.0)]
    return Finding(
        verdict_of(max(residuals) < 1e-9),
        {"residual (max)": max(residuals)},
        f"{len(residuals) // 2} Gaussian regressions (4 inputs, 3 samples, 2 outputs), mu = 0.1 and 1, from rest to "
        "time 4.",
    )


def noisy_descent(
    problem: LinearRegression, pair: Factorised, *, step: float, steps: int, noise: float, seed: int
) -> tuple[float, float]:
    """||C|| and ||W'||^2 + ||M||^2 after gradient descent with fresh Gaussian noise on the targets at every step."""
    rng = np.random.default_rng(seed)
    state = pair.initial
    for _ in range(steps):
        descent = problem.descent(pair.weight(state))
        descent = descent + noise * problem.X @ rng.standard_normal(problem.Y.shape).T
        state = state + step * pair.velocity(state, descent)
    return float(np.linalg.norm(next(iter(pair.invariants(state).values())))), float(state @ state)


def _noisy_problem(seed: int) -> tuple[LinearRegression, Factorised]:
    rng = np.random.default_rng(2900 + seed)
    return random_regression(rng, 4, 8, 3).whitened(), random_factorised(rng, 4, 3, 0.7)


def _ratios(seeds: list[int], measure: Callable[[LinearRegression, Factorised, int], float]) -> float:
    return float(np.median([measure(*_noisy_problem(seed), seed) for seed in seeds]))


@dataclass(frozen=True)
class LargeStep:
    """The end of gradient descent with a large step: ||C|| over its start, and whether the loss is the minimum."""

    imbalance: float
    minimal: bool


def sharpness(problem: LinearRegression, pair: Factorised) -> float:
    """Largest eigenvalue of the loss's Hessian in (W', M) where the flow ends.

    Gradient descent is stable there with steps below 2 / sharpness.
    """
    state = integrate(problem, pair, stop_gradient=1e-10).states[-1]
    velocity = velocity_of(problem, pair)
    return spectral_radius(velocity, state, velocity(state), iterations=200)


def large_step(problem: LinearRegression, pair: Factorised, factor: float, steps: int = 5000) -> LargeStep | None:
    """Gradient descent with `factor` times the largest step that is stable where the flow ends; None: it diverges."""
    step = factor * 2 / sharpness(problem, pair)
    try:
        path = gradient_descent(problem, pair, step=step, steps=steps, every=steps)
    except FlowError:
        return None
    drift = [float(np.linalg.norm(next(iter(pair.invariants(s).values())))) for s in path.states[[0, -1]]]
    least = float(problem.loss(problem.minimum_norm_solution))
    return LargeStep(drift[1] / drift[0], bool(path.losses[-1] < least * (1 + 1e-6)))


@claim(
    29,
    "noise-and-large-steps",
    statement="Beyond the flow: what do noise on the labels and large steps do to the balance that the flow conserves?",
    source="ours; compare Blanc et al. 2020 (label noise) and Wang et al. 2022 (large steps)",
    threshold="none: ||C|| and ||W'||^2 + ||M||^2 at the end over the start",
)
def noise_and_large_steps(settings: Settings) -> Finding:
    seeds, steps = settings.seeds(6, 2), 2000 if settings.quick else 10_000
    figures: dict[str, float] = {}
    for noise in (0.0, 0.3, 1.0):

        def balance(problem: LinearRegression, pair: Factorised, seed: int, noise: float = noise) -> float:
            start = float(np.linalg.norm(next(iter(pair.invariants(pair.initial).values()))))
            return noisy_descent(problem, pair, step=0.02, steps=steps, noise=noise, seed=seed)[0] / start

        def size(problem: LinearRegression, pair: Factorised, seed: int, noise: float = noise) -> float:
            end = noisy_descent(problem, pair, step=0.02, steps=steps, noise=noise, seed=seed)[1]
            return end / float(pair.initial @ pair.initial)

        figures[f"label noise {noise:g}: ||C|| over its start (median)"] = _ratios(seeds, balance)
        figures[f"label noise {noise:g}: ||W'||^2 + ||M||^2 over its start (median)"] = _ratios(seeds, size)
    for factor in (0.1, 0.5, 1.0, 1.5, 1.9):
        ends = [large_step(*_noisy_problem(seed), factor) for seed in seeds]
        kept = [end for end in ends if end is not None]
        name = f"step {factor:g} x 2/sharpness"
        figures[f"{name}: diverge"] = len(ends) - len(kept)
        figures[f"{name}: end at the minimum"] = sum(end.minimal for end in kept)
        if kept:
            figures[f"{name}: ||C|| over its start (median of the rest)"] = float(
                np.median([end.imbalance for end in kept])
            )
    return Finding(
        MEASURED,
        figures,
        f"{len(seeds)} whitened regressions (4 inputs, 3 outputs), W' and M of size 0.7; {steps} steps of 0.02 "
        "with label noise; 5000 steps of 0.1 to 1.9 times 2/sharpness, the largest step that is stable where the flow "
        "ends.",
        "Descent whose step is too large for the flow's end diverges, goes on without settling, or ends at a flatter "
        "minimum, which is better balanced.",
    )
