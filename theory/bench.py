"""Speed of completion: time to training loss 1e-6, against fixed-step gradient descent that ends at the same matrix.

The setting of Arora et al. (2019): 100x100 of rank 5, entries of unit mean square, 2,000 observed entries, mean
squared error, Gaussian factors whose product has entries of size 1e-3 / sqrt(100) (singular values of size 1e-3). All
sides start from the same factors, use one thread and float32, and count only where they end within 1 % of where the
flow itself ends. Two baselines: torch autograd with plain SGD, as in their public code with its SGD option, and
gradient descent on our flow's own products, which has no autograd to pay for.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from theory.arrays import Array
from theory.chebyshev import CompletionFlow, chebyshev_flow
from theory.claims.bias import gaussian_product
from theory.problems import MatrixCompletion, random_completion

SIZE, RANK, OBSERVED, SCALE, STOP = 100, 5, 2000, 1e-3, 1e-6
#: The baselines run with every one of these, the root of 2 apart; the curvature at the solution allows 64 at depth 2
#: and 8 at depth 3.
STEPS = tuple(float(f"{64 * 2 ** (-k / 2):.4g}") for k in range(11))
#: Each side's time is the fastest of so many runs.
RUNS = 3
#: Baseline steps up to so many times slower than the fastest are run again too: one run may have been disturbed.
NEAR = 1.3
#: Distance from the flow's own end, relative, that counts as the same end. A large step ends elsewhere.
FIDELITY = 0.01
#: Loss at which the inner dimensions are cut down.
BURN_IN = 0.7
#: By depth: error allowed a step, and singular values kept, relative to the largest.
OURS = {2: {"rtol": 1e-3, "keep": 0.02}, 3: {"rtol": 1e-2, "keep": 0.05}}


def setting(depth: int, seed: int = 0) -> tuple[MatrixCompletion, Array, Array]:
    """The problem, its target [n, n] and the initial factors [depth, n, n]."""
    problem, target = random_completion(SIZE, RANK, OBSERVED, [seed], mean=True)
    single = problem.single(0)
    start = gaussian_product(SIZE, depth, SCALE, [seed]).initial[0]
    return single, target[0], start.reshape(depth, SIZE, SIZE)


def reference(depth: int, seed: int) -> Array:
    """W [n, n] where the flow itself ends (tolerance 1e-4): what fidelity is measured against."""
    problem, _, factors = setting(depth, seed)
    flow = CompletionFlow(problem, depth)
    end = chebyshev_flow(flow, factors.reshape(-1), stop_loss=STOP, rtol=1e-4, atol=1e-5)
    return flow.weight(end.state).copy()


def _row(weight: Array, target: Array, exact: Array, **figures: Any) -> dict[str, Any]:
    return {
        **figures,
        "test_error": float(np.linalg.norm(weight - target) / np.linalg.norm(target)),
        "endpoint": float(np.linalg.norm(weight - exact) / np.linalg.norm(exact)),
    }


def ours(depth: int, seed: int, exact: Array) -> dict[str, Any]:
    """Our flow in float32 by Runge-Kutta-Chebyshev, within the leading inner dimensions once the loss is below 0.7."""
    problem, target, factors = setting(depth, seed)
    start, choice = factors.reshape(-1).astype(np.float32), OURS[depth]
    cpu = time.process_time()
    flow = CompletionFlow(problem, depth, np.float32)
    rtol = choice["rtol"]
    burn = chebyshev_flow(flow, start, stop_loss=BURN_IN, rtol=rtol, atol=rtol / 10)
    flow, state = flow.compressed(burn.state, choice["keep"], np.float32)
    end = chebyshev_flow(flow, state, stop_loss=STOP, rtol=rtol, atol=rtol / 10)
    cpu = time.process_time() - cpu
    return _row(
        flow.weight(end.state),
        target,
        exact,
        cpu_seconds=cpu,
        loss=end.loss,
        reached=end.converged,
        evaluations=burn.evaluations + end.evaluations,
        rank=flow.shapes[0][1],
    )


def autograd_descent(depth: int, step: float, limit: float, seed: int, exact: Array) -> dict[str, Any]:
    """Fixed-step gradient descent in torch, float32, dense products and masked loss, as in the public code."""
    import torch

    problem, target, factors = setting(depth, seed)
    rows, columns = (torch.from_numpy(k) for k in (problem.positions // SIZE, problem.positions % SIZE))
    values = torch.from_numpy(problem.values).float()
    parameters = [torch.nn.Parameter(torch.from_numpy(factor.copy()).float()) for factor in factors]
    optimiser = torch.optim.SGD(parameters, lr=step)
    cpu = time.process_time()
    iterations, loss = 0, float("inf")
    while time.process_time() - cpu < limit:
        weight: torch.Tensor = parameters[0]
        for factor in parameters[1:]:
            weight = weight @ factor
        error = (weight[rows, columns] - values).pow(2).mean()
        loss = error.item()
        if not loss < 1e6 or loss <= STOP:
            break
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        iterations += 1
    cpu = time.process_time() - cpu
    end = weight.detach().double().numpy()
    return _row(end, target, exact, step=step, cpu_seconds=cpu, loss=loss, iterations=iterations, reached=loss <= STOP)


def product_descent(depth: int, step: float, limit: float, seed: int, exact: Array) -> dict[str, Any]:
    """Fixed-step gradient descent in float32 on our own flow's products: no autograd, no allocation."""
    problem, target, factors = setting(depth, seed)
    flow = CompletionFlow(problem, depth, np.float32)
    state = factors.reshape(-1).astype(np.float32)
    rate = np.empty_like(state)
    cpu = time.process_time()
    iterations, loss = 0, float("inf")
    with np.errstate(over="ignore", invalid="ignore"):
        while time.process_time() - cpu < limit:
            loss = flow(state, rate)
            if not loss < 1e6 or loss <= STOP:
                break
            rate *= np.float32(step)
            state += rate
            iterations += 1
        cpu = time.process_time() - cpu
        end = flow.weight(state)
        return _row(
            end, target, exact, step=step, cpu_seconds=cpu, loss=loss, iterations=iterations, reached=loss <= STOP
        )


BASELINES = {"torch autograd": autograd_descent, "products of our flow": product_descent}


def fastest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of least CPU time."""
    return min(rows, key=lambda row: row["cpu_seconds"])


def best_of_grid(once: Callable[[float], dict[str, Any]], tried: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The fastest faithful row of a baseline: of the steps `tried` once, those near the fastest are run again, so that
    each has `RUNS` runs; None where no step is faithful."""
    faithful = [row for row in tried if row["reached"] and row["endpoint"] <= FIDELITY]
    if not faithful:
        return None
    near = [row for row in faithful if row["cpu_seconds"] <= NEAR * fastest(faithful)["cpu_seconds"]]
    return fastest([fastest([row, *(once(row["step"]) for _ in range(RUNS - 1))]) for row in near])


def compare(depth: int, seed: int, limit: float) -> dict[str, Any]:
    """Our flow against both baselines at every step of the grid, from the same factors; each the fastest of `RUNS`."""
    exact = reference(depth, seed)
    flow = fastest([ours(depth, seed, exact) for _ in range(RUNS)])
    report: dict[str, Any] = {"depth": depth, "seed": seed, "ours": flow}
    for name, descent in BASELINES.items():

        def once(step: float, descent: Callable[..., dict[str, Any]] = descent) -> dict[str, Any]:
            return descent(depth, step, limit, seed, exact)

        tried = [once(step) for step in STEPS]
        best = best_of_grid(once, tried)
        ratio = best["cpu_seconds"] / flow["cpu_seconds"] if best and flow["endpoint"] <= FIDELITY else None
        report[name] = {"tried": tried, "best": best, "ratio": ratio}
    return report


def _describe(row: dict[str, Any] | None) -> str:
    if row is None:
        return "no step of the grid ends within the fidelity"
    return f"{row['cpu_seconds']:.3f} s, {row['iterations']} steps of {row['step']:g}, endpoint {row['endpoint']:.4f}"


def run(out: Path, *, limit: float = 10.0, seeds: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    """Compare for depth 2 and 3, print the figures, and write `out`/theory.json.

    Times are CPU seconds of this one-thread process: another program on the machine then disturbs them less.
    """
    import torch

    from nsl.outputs import check_output, write_text

    check_output(Path(out) / "theory.json", "--out")
    torch.set_num_threads(1)
    exact = reference(2, 0)
    ours(2, 0, exact)  # the first call loads what later calls share
    autograd_descent(2, STEPS[0], 0.2, 0, exact)
    rows = []
    for depth in (2, 3):
        for seed in seeds:
            row = compare(depth, seed, limit)
            rows.append(row)
            flow = row["ours"]
            print(
                f"depth {depth}, seed {seed}: ours {flow['cpu_seconds']:.3f} s, {flow['evaluations']} evaluations, "
                f"rank {flow['rank']}, endpoint {flow['endpoint']:.4f}; "
                + "; ".join(f"gradient descent, {name}: {_describe(row[name]['best'])}" for name in BASELINES),
                flush=True,
            )
    report: dict[str, Any] = {
        "setting": f"{SIZE}x{SIZE} rank {RANK}, {OBSERVED} entries, mean squared error to {STOP:g}, Gaussian start "
        f"with product of size {SCALE:g}, one thread, CPU seconds, float32; both sides end within {FIDELITY:g} of the "
        f"flow's own end; both sides the fastest of {RUNS} runs; baseline: the fastest of the fixed steps "
        f"{list(STEPS)}, at most {limit:g} s each, in torch "
        f"{torch.__version__} autograd or on the products of our flow",
        "cpu": platform.processor() or platform.machine(),
        "runs": rows,
    }
    for depth in (2, 3):
        for name in BASELINES:
            ratios = [row[name]["ratio"] for row in rows if row["depth"] == depth and row[name]["ratio"] is not None]
            median = float(np.median(ratios)) if ratios else None
            report[f"depth {depth}: {name}"] = {"median": median, "all": ratios}
            shown = f"{median:.1f} times our time" if median else "no faithful pair"
            print(f"depth {depth}, gradient descent, {name}: {shown} (median of {len(ratios)} seeds; target 10)")
    write_text(Path(out) / "theory.json", json.dumps(report, indent=1) + "\n")
    return report
