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

from theory.chebyshev import CompletionFlow, chebyshev_flow
from theory.claims.bias import gaussian_product
from theory.claims.ledger import write_atomically
from theory.problems import Array, MatrixCompletion, random_completion

SIZE, RANK, OBSERVED, SCALE, STOP = 100, 5, 2000, 1e-3, 1e-6
#: The baseline runs with every one of these; the curvature at the solution allows 64 at depth 2 and 16 at depth 3.
STEPS = (64.0, 32.0, 16.0, 8.0, 4.0, 2.0)
#: Step of the plain SGD option in the public code of Arora et al.
PUBLIC_STEP = 0.01


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
    """Fixed-step gradient descent in torch, float32, dense products and masked loss, at most `limit`
    seconds.
    """
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


def run(out: Path, *, limit: float = 120.0) -> dict[str, Any]:
    """Compare both for depth 2 and 3, print the figures, and write `out`/theory.json."""
    import torch

    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "setting": f"{SIZE}x{SIZE} rank {RANK}, {OBSERVED} entries, mean squared error to {STOP:g}, "
        f"Gaussian start with product of size {SCALE:g}, one thread; baseline: torch {torch.__version__} float32, "
        "largest "
        "stable step of "
        f"{list(STEPS)}, at most {limit:g} s a run",
        "cpu": platform.processor() or platform.machine(),
    }
    for depth in (2, 3):
        flow = ours(depth)
        tried = []
        for step in STEPS:
            tried.append(baseline(depth, step, limit))
            if tried[-1]["reached"] or not tried[-1]["diverged"]:
                break
        best = tried[-1]
        ratio = best["seconds"] / flow["seconds"]
        report[f"depth {depth}"] = {
            "ours": flow,
            "baseline": best,
            "tried": tried,
            "ratio": ratio,
            "ratio_is_a_lower_bound": not best["reached"],
            "test_error_equal_or_better": flow["test_error"] <= best["test_error"] * 1.005,
        }
        bound = ">=" if not best["reached"] else ""
        print(
            f"depth {depth}: ours {flow['seconds']:.2f} s ({flow['evaluations']} evaluations, test error "
            f"{flow['test_error']:.4f}); gradient descent {best['seconds']:.1f} s ({best['iterations']} "
            "steps of "
            f"{best['step']:g}, loss {best['loss']:.2g}, test error {best['test_error']:.4f}); ratio "
            f"{bound}{ratio:.1f}",
            flush=True,
        )
    write_atomically(Path(out) / "theory.json", json.dumps(report, indent=1) + "\n")
    return report
