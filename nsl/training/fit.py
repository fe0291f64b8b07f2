"""Training of networks that are no classifiers of images: sequences, pixels, metrics. One loop, the same recipe.

As in `nsl.training.loop`, every random choice comes from the seed and the step's number, so that a resumed training
makes the same choices as an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nsl.training import CheckpointError, Recipe, load_checkpoint, parameter_groups, save_checkpoint

Measured = Mapping[str, float | None]


def order_of(count: int, seed: int, epoch: int) -> Tensor:
    """The order of the samples in an epoch, int64 [count]."""
    random = np.random.Generator(np.random.PCG64([seed, epoch]))
    return torch.from_numpy(random.permutation(count))


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, Tensor, int], Tensor],
    measure: Callable[[nn.Module], Measured],
    count: int,
    recipe: Recipe,
    *,
    seed: int,
    identity: Any,
    checkpoint: Path | None = None,
    minutes: float = 5.0,
    clip: float | None = None,
) -> dict[str, Any]:
    """Train `model` in place by SGD.

    Args:
        model: anything with parameters; `model.classifier` has the recipe's `classifier_rate`.
        loss: of the model, the batch's samples int64 [B] and the step's number (for further random choices), a scalar.
        measure: the model's test metrics by name, in evaluation mode; called at the recipe's points.
        count: number of training samples.
        recipe: budget, batch size and SGD; `augment`, `precision` and `label_smoothing` are the loss's own affair.
        seed: of the order of the samples.
        identity: what else determines the result (JSON-ready), so that a checkpoint of another training is refused.
        checkpoint: to resume from, and to write every `minutes`; the caller deletes it.
        minutes: at most so much work is lost.
        clip: largest norm of the gradient; longer ones are shortened to it.

    Returns:
        What `measure` found last, curve (one dict a point: iteration, images, learning_rate, train_loss and what was
        measured), diverged, divergence, train_seconds, evaluate_seconds, iterations_done.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another training.
    """
    optimiser = torch.optim.SGD(parameter_groups(model, recipe), lr=recipe.learning_rate, momentum=recipe.momentum)
    who = {"recipe": recipe.as_dict(), "seed": seed, "count": count, "identity": identity}
    result: dict[str, Any] = {"curve": [], "diverged": False, "divergence": None, "iterations_done": 0}
    result |= {"train_seconds": 0.0, "evaluate_seconds": 0.0}
    total = 0.0
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint)
        if state.get("identity") != who:
            raise CheckpointError(
                f"checkpoint {checkpoint} belongs to another training; delete it to start this one again"
            )
        try:
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            result, total = state["result"], state["total"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint {checkpoint} does not fit this network; delete it to start this training again"
            ) from error
    size, points = min(recipe.batch_size, count), recipe.evaluation_points()
    per_epoch, epoch, order = count // size, -1, torch.empty(0)
    started = saved = time.perf_counter()
    for iteration in range(result["iterations_done"], recipe.iterations):
        if iteration // per_epoch != epoch:
            epoch = iteration // per_epoch
            order = order_of(count, seed, epoch)
        place = iteration % per_epoch * size
        rate = recipe.rate(iteration)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["rate"]
        model.train()
        optimiser.zero_grad(set_to_none=True)
        value = loss(model, order[place : place + size], iteration)
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        found = value.item()
        result["iterations_done"] = iteration + 1
        if not math.isfinite(found):
            result |= {"diverged": True, "divergence": f"training loss {found:g} at iteration {iteration + 1}"}
            break
        total += found
        if iteration + 1 in points:
            now = time.perf_counter()
            result["train_seconds"] += now - started
            model.eval()
            with torch.no_grad():
                measured = dict(measure(model))
            point = {"iteration": iteration + 1, "images": (iteration + 1) * size, "learning_rate": rate}
            steps = iteration + 1 - (result["curve"][-1]["iteration"] if result["curve"] else 0)
            result["curve"].append({**point, "train_loss": total / steps, **measured})
            result |= measured
            total, started = 0.0, time.perf_counter()
            result["evaluate_seconds"] += started - now
        if checkpoint is not None and time.perf_counter() - saved > 60 * minutes and iteration + 1 < recipe.iterations:
            now = time.perf_counter()
            result["train_seconds"] += now - started
            state = {"identity": who, "model": model.state_dict(), "optimiser": optimiser.state_dict()}
            save_checkpoint(checkpoint, {**state, "result": result, "total": total})
            saved = started = time.perf_counter()
    model.eval()
    return result
