"""Claims 1 to 6: the flow itself, what it conserves, and its exact solutions."""

from __future__ import annotations

import numpy as np

from theory import closed_forms
from theory.arrays import Array
from theory.claims.ledger import Finding, Settings, claim, shared, verdict_of
from theory.flows import Factorised, Parametrisation, Product, Standard, balanced_factors, lambda_balanced
from theory.integrators import integrate
from theory.problems import LinearRegression, Problem
from theory.steps import runge_kutta, velocity_of
from theory.trajectory import Trajectory, ended


def random_regression(rng: np.random.Generator, n: int, samples: int, m: int) -> LinearRegression:
    """Gaussian inputs [n, samples] and targets [m, samples]."""
    return LinearRegression(rng.standard_normal((n, samples)), rng.standard_normal((m, samples)))


def random_factorised(rng: np.random.Generator, n: int, m: int, scale: float = 1.0) -> Factorised:
    """Gaussian W' [n, m] and M [n, n] with entries of size `scale`."""
    return Factorised(scale * rng.standard_normal((n, m)), scale * rng.standard_normal((n, n)))


def loss_gradient_by_differences(problem: Problem, parametrisation: Parametrisation, state: Array) -> Array:
    """grad of the loss in the parameters, [D], by central differences of step 1.

    Exact up to rounding where the loss is quadratic in each single parameter, as in every bilinear model.
    """
    gradient = np.empty_like(state)
    for j in range(len(state)):
        shift = np.zeros_like(state)
        shift[j] = 1.0
        above = problem.loss(parametrisation.weight(state + shift))
        gradient[j] = 0.5 * (above - problem.loss(parametrisation.weight(state - shift)))
    return gradient


def flow_equation_residuals(problem: LinearRegression, pair: Factorised) -> dict[str, float]:
    """Relative residuals of the parameter flow and of equation (6) in both orders, against finite differences."""
    state = pair.initial
    descent = problem.descent(pair.weight(state))
    velocity = pair.velocity(state, descent)
    by_difference = -loss_gradient_by_differences(problem, pair, state)
    # W is quadratic along a straight line in parameter space, so this central difference is exact too.
    slope = 0.5 * (pair.weight(state + velocity) - pair.weight(state - velocity))
    size = np.linalg.norm(slope)
    return {
        "parameter flow": float(np.linalg.norm(velocity - by_difference) / np.linalg.norm(by_difference)),
        "M^T M": float(np.linalg.norm(pair.weight_velocity(state, descent) - slope) / size),
        "M M^T": float(np.linalg.norm(pair.other_order(state, descent) - slope) / size),
    }


@claim(
    1,
    "flow-equations",
    statement="dW'/dt = M S, dM/dt = W' S^T and dW/dt = M^T M S + S W'^T W' are gradient flow on (W', M); the order "
    "M M^T is not.",
    source="paper, equation (6); our derivation, because the transposes are illegible in our copy. Nothing is claimed "
    "about the print",
    threshold="relative residual < 1e-12 for the flow and for M^T M, > 1e-3 for M M^T",
    mutants=("wrong order", "frozen M", "doubled rate", "preconditioned"),
)
def flow_equations(settings: Settings) -> Finding:
    seeds = settings.seeds(30, 10)
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        n, samples, m = (int(k) for k in rng.integers(2, 9, 3))
        found.append(flow_equation_residuals(random_regression(rng, n, samples, m), random_factorised(rng, n, m)))
    flow = max(row["parameter flow"] for row in found)
    right, wrong = max(row["M^T M"] for row in found), min(row["M M^T"] for row in found)
    return Finding(
        verdict_of(flow < 1e-12, right < 1e-12, wrong > 1e-3),
        {"parameter flow (max)": flow, "(6) with M^T M (max)": right, "(6) with M M^T (min)": wrong},
        f"{len(seeds)} Gaussian problems, 2 to 8 inputs, outputs and samples; central differences, which are "
        "exact for this loss.",
    )


def path_gap(problem: LinearRegression, pair: Factorised, points: int = 120) -> dict[str, float]:
    """How far the factorised flow lies from two flows from the same W: the standard one, and that with M_0 frozen.

    With M frozen, W = M_0^T W' where W' follows the standard flow on inputs M_0 X. Curves are compared as sets, so
    that going along the same curve at another speed counts as no difference.
    """
    kernel, similarity = pair.blocks(pair.initial)
    start = pair.weight(pair.initial)
    nsl = ended(integrate(problem, pair, stop_loss=1e-15))
    plain = ended(integrate(problem, Standard(start), stop_loss=1e-15))
    end = max(nsl.times[-1], plain.times[-1])
    times = np.concatenate([[0.0], np.geomspace(end * 1e-5, end, points)])
    ours = integrate(problem, pair, times=times).weights
    theirs = closed_forms.standard_flow(problem, start, times)
    fixed = LinearRegression(similarity @ problem.X, problem.Y)
    frozen = similarity.T @ closed_forms.standard_flow(fixed, kernel, times)

    def distances(other: Array) -> Array:
        return np.sqrt(np.sum((ours[:, None] - other[None]) ** 2, axis=(-1, -2)))

    between = distances(theirs)
    return {
        "gap at equal times": float(np.max(np.diagonal(between))),
        "gap of the curves": float(np.max(between.min(axis=1))),
        "gap of the curves, M frozen": float(np.max(distances(frozen).min(axis=1))),
        "gap of the limits": float(between[-1, -1]),
        "loss": float(max(problem.loss(ours[-1]), problem.loss(theirs[-1]))),
    }


@claim(
    2,
    "different-dynamics",
    statement="From the same W, gradient descent on W and on (W', M) follow different paths, though both fit the "
    "data; and M's own learning is part of the difference: with M frozen the path is again another one.",
    source="paper, section 5.1, below equation (6)",
    threshold="gap of the curves (time ignored) > 0.1 to the standard flow and to the flow with M_0 frozen, both "
    "losses < 1e-12, every seed",
    mutants=("frozen M",),
)
def different_dynamics(settings: Settings) -> Finding:
    seeds = settings.seeds(6, 3)
    found = []
    for seed in seeds:
        rng = np.random.default_rng(100 + seed)
        found.append(path_gap(random_regression(rng, 6, 4, 3), random_factorised(rng, 6, 3, 0.5)))
    gap = min(row["gap of the curves"] for row in found)
    frozen = min(row["gap of the curves, M frozen"] for row in found)
    loss = max(row["loss"] for row in found)
    return Finding(
        verdict_of(gap > 0.1, frozen > 0.1, loss < 1e-12),
        {
            "smallest gap of the curves": gap,
            "the same to the flow with M frozen": frozen,
            "smallest gap at equal times": min(row["gap at equal times"] for row in found),
            "smallest gap of the limits": min(row["gap of the limits"] for row in found),
            "largest loss": loss,
        },
        f"{len(seeds)} Gaussian regressions (6 inputs, 4 samples, 3 outputs), W' and M Gaussian of size 0.5.",
        "Any other parametrisation of W would differ from the standard flow as well; hence the control.",
    )


def conservation(problem: LinearRegression, pair: Factorised) -> tuple[dict[str, float], Trajectory]:
    """Drifts along the flow of the conserved quantities and of a wrong candidate, and the dissipation's error."""
    path = ended(integrate(problem, pair, stop_loss=1e-20))
    kernel, similarity = pair.blocks(path.states)
    descent = problem.descent(path.weights)
    stated = np.sum((similarity @ descent) ** 2, axis=(-1, -2)) + np.sum(
        (kernel @ descent.swapaxes(-1, -2)) ** 2, axis=(-1, -2)
    )
    speed = np.sum(pair.velocity(path.states, descent) ** 2, axis=-1)
    wrong = kernel @ kernel.swapaxes(-1, -2) - similarity.swapaxes(-1, -2) @ similarity
    off = similarity @ problem.null_projector
    lost = path.losses[0] - path.losses[-1]
    return {
        "C": float(np.max(np.abs(next(iter(path.invariants().values()))))),
        "M Pi": float(np.max(np.abs(off - off[0]))),
        "wrong": float(np.max(np.abs(wrong - wrong[0]))),
        "dissipation": float(np.max(np.abs((path.losses[0] - path.losses) - path.dissipated)) / abs(lost)),
        "integrand": float(np.max(np.abs(stated - speed)) / np.max(stated)),
    }, path


@shared
def _conservation_rows(settings: Settings) -> tuple[list[dict[str, float]], str]:
    seeds = settings.seeds(8, 4)
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(200 + seed)
        problem, pair = random_regression(rng, 6, 4, 3), random_factorised(rng, 6, 3, 0.5)
        rows.append(conservation(problem, pair)[0])
    text = f"{len(seeds)} Gaussian regressions (6 inputs, 4 samples, 3 outputs), W' and M Gaussian of size 0.5, "
    return rows, text + "flow run to a loss of 1e-20."


@claim(
    3,
    "conserved-quantities",
    statement="C = W'W'^T - M M^T and M Pi (Pi projects off the range of X) stay constant; W'W'^T - M^T M does not.",
    source="Arora, Cohen and Hazan 2018; Du, Hu and Lee 2018",
    threshold="drift of C < 1e-11, of M Pi < 1e-13, of the wrong candidate > 0.1",
    mutants=("wrong order", "frozen M", "preconditioned"),
)
def conserved_quantities(settings: Settings) -> Finding:
    rows, text = _conservation_rows(settings)
    drift, off, wrong = max(r["C"] for r in rows), max(r["M Pi"] for r in rows), min(r["wrong"] for r in rows)
    return Finding(
        verdict_of(drift < 1e-11, off < 1e-13, wrong > 0.1),
        {"drift of C (max)": drift, "drift of M Pi (max)": off, "drift of W'W'^T - M^T M (min)": wrong},
        text,
    )


@claim(
    4,
    "dissipation",
    statement="L(0) - L(T) equals the integral of ||M S||^2 + ||W' S^T||^2.",
    source="chain rule along gradient flow",
    threshold="relative error < 1e-9 at every recorded time; the integrand equals the squared velocity to 1e-12",
    mutants=("wrong order", "frozen M", "doubled rate", "preconditioned"),
)
def dissipation(settings: Settings) -> Finding:
    rows, text = _conservation_rows(settings)
    error = max(row["dissipation"] for row in rows)
    integrand = max(row["integrand"] for row in rows)
    figures = {"relative error (max)": error, "integrand to squared velocity (max)": integrand}
    return Finding(verdict_of(error < 1e-9, integrand < 1e-12), figures, text)


def balanced_closure(problem: LinearRegression, pair: Factorised, lam: float, times: Array) -> dict[str, float]:
    """Residual of the closed flow in W, of the two Gram formulas, and of the Riccati solution, along one path.

    Infinite where W loses rank on the way, so that there are no such formulas.
    """
    path = integrate(problem, pair, times=times)
    kernel, similarity = pair.blocks(path.states)
    try:
        left, right = closed_forms.balanced_grams(path.weights, lam)
    except ValueError:
        return dict.fromkeys(("M^T M", "W'^T W'", "closed flow", "trajectory"), np.inf)
    descent = problem.descent(path.weights)
    closed = left @ descent + descent @ right
    found = {
        "M^T M": float(np.max(np.abs(similarity.swapaxes(-1, -2) @ similarity - left))),
        "W'^T W'": float(np.max(np.abs(kernel.swapaxes(-1, -2) @ kernel - right))),
        "closed flow": float(np.max(np.abs(pair.weight_velocity(path.states, descent) - closed))),
    }
    if problem.is_whitened:
        exact = closed_forms.whitened_riccati(problem, kernel[0], similarity[0], lam, times)
        found["trajectory"] = float(np.max(np.abs(exact - path.weights)))
    return found


@claim(
    5,
    "balanced-closed-form",
    statement="For W'W'^T - M M^T = lambda I the flow closes in W alone (both Gram matrices are functions of W; for "
    "m > n, W'^T W' with the projector on W's row space, and for lambda > 0 then while W has full rank), and "
    "with whitened inputs the whole trajectory is the "
    "explicit solution of a matrix Riccati equation, for every shape that admits such a start.",
    source="Fukumizu 1998; Braun, Domine, Fitzgerald and Saxe 2022; Domine et al. 2024",
    threshold="Gram and trajectory errors < 1e-10",
    mutants=("wrong order", "frozen M", "doubled rate", "preconditioned"),
)
def balanced_closed_form(settings: Settings) -> Finding:
    seeds, times = settings.seeds(3, 1), np.linspace(0, 6, 13)
    shapes = ((4, 4, 0.5), (4, 4, 0.0), (4, 4, -0.7), (5, 2, -0.7), (3, 5, -0.4), (5, 3, 0.0), (3, 5, 0.0), (3, 5, 0.5))
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(300 + seed)
        for n, m, lam in shapes:
            problem = random_regression(rng, n, 2 * n, m).whitened()
            pair = lambda_balanced(0.3 * rng.standard_normal((n, m)), lam, rng)
            rows.append(balanced_closure(problem, pair, lam, times))
    grams = max(max(row["M^T M"], row["W'^T W'"], row["closed flow"]) for row in rows)
    error = max(row["trajectory"] for row in rows)
    wide = rows[len(shapes) - 1 :: len(shapes)]
    return Finding(
        verdict_of(grams < 1e-10, error < 1e-10),
        {
            "Gram formulas and closed flow (max)": grams,
            "trajectory (max)": error,
            "trajectory, lambda = 0.5, n = 3 < m = 5 (max)": max(row["trajectory"] for row in wide),
            "W'^T W', lambda = 0.5, n = 3 < m = 5 (max)": max(row["W'^T W'"] for row in wide),
        },
        f"{len(seeds)} whitened problems for each of (n, m, lambda) = "
        + ", ".join(f"({n},{m},{lam:g})" for n, m, lam in shapes)
        + "; 13 times up to 6.",
        "lambda > 0 needs m >= n to exist at all. For m > n the formula without the projector is off by exactly lambda "
        "on the kernel of W; the trajectory is not touched by that. Where W loses rank there, with lambda > 0, "
        "different balanced pairs have the same W and go on differently.",
    )


def singular_value_rates(
    problem: Problem, parametrisation: Parametrisation, states: Array, step: float = 2e-4
) -> tuple[Array, Array, Array]:
    """Singular values [T, r], their time derivative by a five-point difference of the flow, and u_r^T S v_r.

    The flow is continued by high-order integration to t +- step and t +- 2 step from every given state [T,
    D].
    """

    velocity = velocity_of(problem, parametrisation)
    weight = parametrisation.weight(states)
    u, values, vt = np.linalg.svd(weight, full_matrices=False)
    slopes = np.einsum("...ar,...ab,...rb->...r", u, problem.descent(weight), vt)
    around = [
        np.linalg.svd(
            parametrisation.weight(runge_kutta(velocity, states, step=k * step / 4, steps=4)), compute_uv=False
        )
        for k in (-2, -1, 1, 2)
    ]
    rates = (around[0] - 8 * around[1] + 8 * around[2] - around[3]) / (12 * step)
    return values, rates, slopes


def singular_value_residual(problem: Problem, path: Trajectory, depth: int, lam: float = 0.0) -> float:
    """Largest deviation of the measured d sigma/dt from the stated rate, away from crossings and from zero."""
    values, rates, slopes = singular_value_rates(problem, path.parametrisation, path.states)
    if depth == 2:
        stated = closed_forms.lambda_modes_rate(values, slopes, lam)
    else:
        stated = closed_forms.depth_modes_rate(values, slopes, depth)
    padded = np.concatenate([np.full((len(values), 1), np.inf), values, np.zeros((len(values), 1))], axis=1)
    apart = np.minimum(padded[:, :-2] - padded[:, 1:-1], padded[:, 1:-1] - padded[:, 2:]) > 0.05
    return float(np.max(np.abs(rates - stated)[apart]))


@claim(
    6,
    "singular-value-dynamics",
    statement="Balanced depth N: d sigma_r/dt = -N (sigma_r^2)^(1-1/N) <grad L, u_r v_r^T>; lambda-balanced N = 2: "
    "d sigma_r/dt = sqrt(lambda^2 + 4 sigma_r^2) u_r^T S v_r.",
    source="Arora, Cohen, Hu and Luo 2019, theorem 3; the lambda form follows from claim 5",
    threshold="deviation < 1e-7 where singular values are 0.05 apart",
    mutants=("frozen M", "doubled rate", "preconditioned"),
)
def singular_value_dynamics(settings: Settings) -> Finding:
    seeds, times = settings.seeds(3, 1), np.linspace(0, 3, 31)
    worst: dict[str, float] = {}
    for seed in seeds:
        rng = np.random.default_rng(400 + seed)
        problem = LinearRegression(0.6 * rng.standard_normal((4, 6)), rng.standard_normal((4, 6)))
        start = 0.4 * rng.standard_normal((4, 4))
        for depth in (2, 3, 4):
            path = integrate(problem, Product(list(balanced_factors(start, depth))), times=times)
            name = f"N = {depth}, balanced"
            worst[name] = max(worst.get(name, 0.0), singular_value_residual(problem, path, depth))
        for lam in (0.5, -0.8):
            path = integrate(problem, lambda_balanced(start, lam, rng), times=times)
            name = f"N = 2, lambda = {lam}"
            worst[name] = max(worst.get(name, 0.0), singular_value_residual(problem, path, 2, lam))
    return Finding(
        verdict_of(max(worst.values()) < 1e-7),
        worst,
        f"{len(seeds)} Gaussian 4x4 regressions, 31 times in [0, 3]; five-point differences of the singular values.",
    )
