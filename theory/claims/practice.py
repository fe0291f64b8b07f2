"""Claim 19, beyond the paper: the practical initialisation M_0 = I, and static NSL inside a real CNN."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from theory import observables
from theory.arrays import Array
from theory.chebyshev import follow
from theory.claims.ledger import MEASURED, Finding, Settings, claim
from theory.flows import Factorised
from theory.problems import MatrixCompletion, random_completion
from theory.trajectory import ended

if TYPE_CHECKING:
    from torch import nn


def standard_ends(problem: MatrixCompletion, starts: Array) -> Array:
    """Where the flow of W itself ends from `starts` [B, n, m]: observed entries fitted, all others where they were."""
    ends = starts.reshape(len(starts), -1).copy()
    np.put_along_axis(ends, problem.positions, problem.values, axis=1)
    return ends.reshape(starts.shape)


def completions_from_identity(settings: Settings) -> dict[str, float]:
    """Completion from M_0 = I with W'_0 Gaussian of He size, against the small start and the flow of W itself.

    "share of the fall in rank": that from the end of the standard flow, from the same W, to the end of the factorised
    one, over the same of the start that is small in both factors.
    """
    size, rank, observed = 16, 2, 110
    seeds = [1900 + k for k in settings.seeds(8, 4)]
    problem, targets = random_completion(size, rank, observed, seeds)
    noise = np.stack([np.random.default_rng([seed, 1]).standard_normal((size, size)) for seed in seeds])
    identity = np.broadcast_to(np.eye(size), (len(seeds), size, size))
    starts = {
        "M_0 = I, W'_0 of He size": Factorised(noise * np.sqrt(2 / size), identity),
        "M_0 = I, W'_0 of size 1e-3": Factorised(noise * 1e-3, identity),
        "both of size 1e-2": Factorised(noise * 1e-2 / np.sqrt(size), 1e-2 * identity),
    }
    figures: dict[str, float] = {}
    falls: dict[str, float] = {}
    for name, start in starts.items():
        end = ended(follow(problem, start, stop_loss=1e-4, rtol=1e-4, atol=1e-7))
        plain = standard_ends(problem, start.weight(start.initial))
        ranks = [float(np.median(observables.effective_rank(weights))) for weights in (end.weights, plain)]
        figures[f"{name}: effective rank"] = ranks[0]
        figures[f"{name}: effective rank, standard flow"] = ranks[1]
        figures[f"{name}: test error"] = float(np.median(observables.relative_error(end.weights, targets)))
        figures[f"{name}: test error, standard flow"] = float(np.median(observables.relative_error(plain, targets)))
        falls[name] = ranks[1] - ranks[0]
    small = "both of size 1e-2"
    least = falls.pop(small)
    return figures | {f"{name}: share of the fall in rank": fall / least for name, fall in falls.items()}


def effective_kernels(model: nn.Module) -> list[Array]:
    """The deployed kernels of the 3x3 layers between root and classifier, each as a matrix [9, F * C].

    That is the unfolding in which a block M_s acts on the left, and whose rank it may bias (claim 20).
    """
    import torch

    import nsl

    found = []
    for module in model.modules():
        if isinstance(module, nsl.NSConv2d):
            kernel = module.effective_weight()
        elif isinstance(module, torch.nn.Conv2d) and module.in_channels > 3 and module.kernel_size == (3, 3):
            kernel = module.weight
        else:
            continue
        taps = kernel.detach().double().flatten(2).permute(2, 0, 1).flatten(1)
        found.append(taps.cpu().numpy().copy())
    return found


def track_training(
    name: str, iterations: int, *, width: int = 8, every: int = 10, seed: int = 0, weight_decay: float | None = None
) -> dict[str, Any]:
    """Train `nsl`'s network `name` on the digits; record its kernels' spectra every `every` iterations and at the end.

    Args:
        weight_decay: default that of `Recipe`, on W alone.
    Returns:
        "iteration" [T] (0 to `iterations`), "effective_rank", "nuclear_norm", "frobenius_norm" [T] (means over layers)
        and "test_error" in percent at the end.
    """
    import torch

    import nsl
    from nsl import data
    from nsl.training import Execution, Recipe, train

    dataset = data.load("digits", image_size=16)
    torch.manual_seed(seed)
    model = nsl.create_model(name, 10, width=width, image_size=16)
    recipe = Recipe(iterations=iterations, batch_size=64, learning_rate=0.05, augment="crop", evaluations=1)
    if weight_decay is not None:
        recipe = replace(recipe, weight_decay=weight_decay)
    rows: list[list[float]] = []

    def record(iteration: int) -> None:
        if iteration % every == 0 or iteration == iterations:
            kernels = effective_kernels(model)
            rows.append(
                [
                    float(iteration),
                    float(np.mean([observables.effective_rank(k) for k in kernels])),
                    float(np.mean([observables.nuclear_norm(k) for k in kernels])),
                    float(np.mean([observables.frobenius_norm(k) for k in kernels])),
                ]
            )

    execution = Execution(device="cpu", progress=False)
    result = train(model, dataset, recipe, seed=seed, execution=execution, before_step=record)
    record(iterations)  # before_step told of 0 to iterations - 1
    columns = np.array(rows).T
    keys = ("iteration", "effective_rank", "nuclear_norm", "frobenius_norm")
    return {**dict(zip(keys, columns)), "test_error": float(result.test_error or np.nan)}


@claim(
    19,
    "practice",
    statement="Beyond the paper, a question: what does the practical start M_0 = I with random W' (neither small nor "
    "balanced) leave of the low-rank bias, and do the deployed kernels M^T W of a CNN with static NSL differ in "
    "effective rank and norms from plain W?",
    source="ours",
    threshold="none: effective ranks, errors and norms are measured",
)
def practice(settings: Settings) -> Finding:
    figures = completions_from_identity(settings)
    shares = [value for name, value in figures.items() if name.endswith("share of the fall in rank")]
    iterations = 40 if settings.quick else 80
    seeds = settings.seeds(3, 1)
    kept: dict[str, float] = {}
    for label, name in (
        ("CNN, plain W", "cnn9"),
        ("static DNS, M^T W", "nsn9_static_diagonal"),
        ("static UNS, M^T W", "nsn9_static_unconstrained"),
    ):
        for suffix, decay in (("", None), (", no weight decay", 0.0)):
            paths = [track_training(name, iterations, seed=seed, weight_decay=decay) for seed in seeds]
            if decay is None:
                kept[name] = float(np.mean([path["effective_rank"][-1] / path["effective_rank"][0] for path in paths]))
            for key in ("effective_rank", "nuclear_norm", "frobenius_norm"):
                words = key.replace("_", " ")
                change = [path[key][-1] / path[key][0] for path in paths]
                figures[f"{label}{suffix}: {words}, end over start (mean)"] = float(np.mean(change))
                figures[f"{label}{suffix}: {words}, end over start (spread)"] = float(np.ptp(change))
            figures[f"{label}{suffix}: test error (%, mean)"] = float(np.mean([path["test_error"] for path in paths]))
    return Finding(
        MEASURED,
        figures,
        f"{4 if settings.quick else 8} completions of 16x16 rank 2 from 110 entries, stopped at loss 1e-4; "
        f"{len(seeds)} training runs each of three 9-layer networks (width 8) on the digits, {iterations} iterations "
        "of 64 images, with the recipe's weight decay (on W alone) and without; means over the nine 3x3 layers, "
        "kernels as matrices [9, F C], on whose left M acts; spread: largest minus smallest over the seeds.",
        "The standard flow from the same W is the start's rank without any bias. From M_0 = I the factorised flow "
        f"takes {100 * shares[0]:.2g} % (W'_0 of He size) and {100 * shares[1]:.2g} % (1e-3) of the fall in effective "
        "rank that it takes from a small start. A small network and a short training: figures for orientation, not a "
        "comparison of methods. With the recipe's "
        f"decay the effective rank ends at {kept['cnn9']:.3g} of its start with plain W, at "
        f"{kept['nsn9_static_diagonal']:.3g} under DNS and at {kept['nsn9_static_unconstrained']:.3g} under UNS.",
    )
