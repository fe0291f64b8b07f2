"""Speed of completion: time to training loss 1e-6, against fixed-step gradient descent in torch.

The setting of Arora et al. (2019): 100x100 of rank 5, entries of unit mean square, 2,000 observed entries,
mean squared error, Gaussian factors whose product has entries of size 1e-3. Both sides start from the same
factors and use one thread; the baseline is dense float32 autograd with plain SGD, as in their public code
with its SGD option.
"""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from theory.arrays import Array
from theory.chebyshev import CompletionFlow, chebyshev_flow
from theory.claims.bias import gaussian_product
from theory.claims.ledger import write_atomically
from theory.problems import MatrixCompletion, random_completion

SIZE, RANK, OBSERVED, SCALE, STOP = 100, 5, 2000, 1e-3, 1e-6
#: The baseline runs with every one of these; the curvature at the solution allows 64 at depth 2 and 16 at depth 3.
STEPS = (64.0, 32.0, 16.0, 8.0, 4.0, 2.0)
#: Step of the plain SGD option in the public code of Arora et al.
PUBLIC_STEP = 0.01
#: Test errors (relative to the target) this close count as equal.
SAME_ERROR = 0.005


def setting(depth: int, seed: int = 0) -> tuple[MatrixCompletion, Array, Array]:
    """The problem, its target [n, n] and the initial factors [depth, n, n]."""
    problem, target = random_completion(SIZE, RANK, OBSERVED, [seed], mean=True)
    single = MatrixCompletion(
        problem.shape, problem.positions[0] // SIZE, problem.positions[0] % SIZE, problem.values[0], mean=True
    )
    start = gaussian_product(SIZE, depth, SCALE, [seed]).initial[0]
    return single, target[0], start.reshape(depth, SIZE, SIZE)


def _test_error(weight: Array, target: Array) -> float:
    return float(np.linalg.norm(weight - target) / np.linalg.norm(target))


def ours(depth: int, seed: int = 0, rtol: float = 1e-2, atol: float = 1e-3) -> dict[str, Any]:
    """Our flow by Runge-Kutta-Chebyshev, in float64 (its error estimate needs the digits)."""
    problem, target, factors = setting(depth, seed)
    flow = CompletionFlow(problem, depth)
    started, cpu = time.perf_counter(), time.process_time()
    end = chebyshev_flow(flow, factors.reshape(-1), stop_loss=STOP, rtol=rtol, atol=atol)
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    return {
        "cpu_seconds": cpu,
        "seconds": seconds,
        "loss": end.loss,
        "test_error": _test_error(flow.weight(end.state), target),
        "evaluations": end.evaluations,
        "steps": end.steps,
        "flow_time": end.time,
        "reached": end.converged,
    }


def baseline(depth: int, step: float, limit: float, seed: int = 0) -> dict[str, Any]:
    """Fixed-step gradient descent in torch, float32, dense products and masked loss, at most `limit` seconds."""
    import torch

    problem, target, factors = setting(depth, seed)
    rows, columns = (torch.from_numpy(k) for k in (problem.positions // SIZE, problem.positions % SIZE))
    values = torch.from_numpy(problem.values).float()
    parameters = [torch.nn.Parameter(torch.from_numpy(factor.copy()).float()) for factor in factors]
    optimiser = torch.optim.SGD(parameters, lr=step)
    started, cpu = time.perf_counter(), time.process_time()
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
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    return {
        "step": step,
        "cpu_seconds": cpu,
        "seconds": seconds,
        "loss": loss,
        "iterations": iterations,
        "reached": loss <= STOP,
        "test_error": _test_error(weight.detach().double().numpy(), target),
        "diverged": not loss < 1e6,
        "milliseconds_per_iteration": 1e3 * seconds / max(iterations, 1),
    }


def compare(depth: int, seed: int, limit: float) -> dict[str, Any]:
    """Our flow against gradient descent at every step of the grid, from the same factors."""
    flow = ours(depth, seed)
    tried = [baseline(depth, step, limit, seed) for step in STEPS]
    public = baseline(depth, PUBLIC_STEP, 5.0, seed)
    reached = [row for row in tried if row["reached"]]
    as_good = [row for row in reached if row["test_error"] <= flow["test_error"] + SAME_ERROR]

    def fastest(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
        return min(rows, key=lambda row: row["cpu_seconds"]) if rows else None

    report: dict[str, Any] = {
        "depth": depth,
        "seed": seed,
        "ours": flow,
        "tried": tried,
        "public_step": public,
    }
    for name, best in (("fastest", fastest(reached)), ("fastest_as_good", fastest(as_good))):
        report[name] = best
        report[f"ratio_{name}"] = best["cpu_seconds"] / flow["cpu_seconds"] if best else None
    return report


def _describe(row: dict[str, Any] | None) -> str:
    if row is None:
        return "none of the grid"
    return f"{row['cpu_seconds']:.3f} s, {row['iterations']} steps of {row['step']:g}, error {row['test_error']:.4f}"


def run(out: Path, *, limit: float = 10.0, seeds: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    """Compare both for depth 2 and 3, print the figures, and write `out`/theory.json.

    Times are CPU seconds of this one-thread process: another program on the machine then disturbs them less.
    """
    import torch

    torch.set_num_threads(1)
    ours(2)  # the first call loads what later calls share
    baseline(2, STEPS[0], 0.2)
    rows = []
    for depth in (2, 3):
        for seed in seeds:
            row = compare(depth, seed, limit)
            rows.append(row)
            flow, public = row["ours"], row["public_step"]
            print(
                f"depth {depth}, seed {seed}: ours {flow['cpu_seconds']:.3f} s, {flow['evaluations']} evaluations, "
                f"error {flow['test_error']:.4f}; gradient descent, fastest step: {_describe(row['fastest'])}; "
                f"fastest with an error as good: {_describe(row['fastest_as_good'])}; public code's step "
                f"{PUBLIC_STEP:g}: loss {public['loss']:.2g} after {public['cpu_seconds']:.1f} s",
                flush=True,
            )
    report: dict[str, Any] = {
        "setting": f"{SIZE}x{SIZE} rank {RANK}, {OBSERVED} entries, mean squared error to {STOP:g}, Gaussian start "
        f"with product of size {SCALE:g}, one thread, CPU seconds; baseline torch {torch.__version__} float32 with "
        f"steps {list(STEPS)}, at most {limit:g} s each; errors relative to the target",
        "cpu": platform.processor() or platform.machine(),
        "runs": rows,
    }
    for depth in (2, 3):
        for name in ("ratio_fastest", "ratio_fastest_as_good"):
            ratios = [row[name] for row in rows if row["depth"] == depth and row[name] is not None]
            report[f"depth {depth}: {name}"] = {
                "median": float(np.median(ratios)) if ratios else None,
                "all": ratios,
            }
            shown = f"{np.median(ratios):.1f}" if ratios else "not reached by any step of the grid"
            print(f"depth {depth}, {name.replace('_', ' ')}: {shown} (median of {len(ratios)} seeds; target 10)")
    write_atomically(Path(out) / "theory.json", json.dumps(report, indent=1) + "\n")
    return report
