"""Training of networks that are no classifiers of images, by the same loop and recipe: sequences, pixels, metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nsl.models.modes import begin_training, evaluating
from nsl.training.execution import Execution
from nsl.training.optimiser import ScheduledSGD
from nsl.training.schedule import Recipe
from nsl.training.state import TrainingState, described, frozen_parameters, own_draws

Measured = Mapping[str, float | None]


def order_of(count: int, seed: int, epoch: int) -> Tensor:
    """The order of the samples in an epoch, int64 [count]."""
    random = np.random.Generator(np.random.PCG64([seed, epoch]))
    return torch.from_numpy(random.permutation(count))


class FitState(TrainingState):
    """The state of `fit`; the numbers of a checkpoint are its result and the sum of losses since the last point.

    Args:
        model: what is measured.
        measure: see `fit`.
        recipe: the settings.
        batch: samples a step.
        arguments: see `TrainingState`.
    """

    def __init__(
        self, *arguments: Any, model: nn.Module, measure: Callable[[nn.Module], Measured], recipe: Recipe, batch: int
    ) -> None:
        device = next(model.parameters()).device
        # A step counts once: its loss is the batch's mean.
        super().__init__(*arguments, device=device, total=recipe.iterations, points=recipe.evaluation_points(), size=1)
        self.model, self.measured_by, self.recipe, self.batch = model, measure, recipe, batch
        self.evaluate_seconds = 0.0

    def result(self) -> dict[str, Any]:
        """What `fit` returns."""
        point = {"iteration", "images", "learning_rate", "train_loss"}
        # What the curve holds stays; the headline numbers of a broken network do not.
        last = self.curve[-1] if self.curve and self.divergence is None else {}
        measured = {key: value for key, value in last.items() if key not in point}
        return {
            "curve": self.curve,
            "diverged": self.divergence is not None,
            "divergence": self.divergence,
            "iterations_done": self.iteration,
            "train_seconds": self.seconds,
            "evaluate_seconds": self.evaluate_seconds,
            **measured,
        }

    def numbers(self) -> dict[str, Any]:
        return {"result": self.result(), "total": self.loss_sum}

    def restore(self, kept: dict[str, Any]) -> None:
        result, self.loss_sum = kept["result"], kept["total"]
        self.curve, self.iteration = result["curve"], result["iterations_done"]
        self.seconds, self.evaluate_seconds = result["train_seconds"], result["evaluate_seconds"]
        self.seen = self.iteration - (self.curve[-1]["iteration"] if self.curve else 0)

    def broken(self, loss: float, iteration: int) -> str | None:
        return None if math.isfinite(loss) else f"training loss {loss:g} at iteration {iteration}"

    def measure(self) -> None:
        started = time.perf_counter()
        with evaluating(self.model), torch.no_grad():
            measured = dict(self.measured_by(self.model))
        self.evaluate_seconds += time.perf_counter() - started
        # A step is judged by its loss, which comes before its update.
        numbers = {key: _number(value) for key, value in measured.items()}
        if self.iteration == self.total and not _finite(self.model):
            self.divergence = f"weights that are no numbers after iteration {self.iteration}"
        lost = [key for key, value in measured.items() if numbers[key] is None and value is not None]
        if self.iteration == self.total and lost and self.divergence is None:
            self.divergence = f"{lost[0]} that is no number after iteration {self.iteration}"
        self.curve.append(
            {
                "iteration": self.iteration,
                "images": self.iteration * self.batch,
                "learning_rate": self.recipe.rate(self.iteration - 1),
                "train_loss": self.loss_sum / self.seen,
                **numbers,
            }
        )


def _number(value: Any) -> Any:
    """None in place of what is no number, which JSON has not; of a tensor of one number that number."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _finite(model: nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


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
    progress: bool = False,
    description: str = "",
) -> dict[str, Any]:
    """Train `model` in place by SGD.

    Args:
        model: anything with parameters, on its device; `model.classifier` has the recipe's `classifier_rate`.
        loss: of the model, the batch's samples int64 [B] and the step's number (for further random choices), a scalar.
        measure: the model's test metrics by name, in evaluation mode; called at the recipe's points.
        count: number of training samples.
        recipe: budget, batch size and SGD; `augment`, `precision` and `label_smoothing` are the loss's own affair.
        seed: of the order of the samples, and of what the model or the loss draws from the CPU's global generator.
        identity: what else determines the result (JSON-ready), so that a checkpoint of another training is refused.
        checkpoint: to resume from, and to write every `minutes`; the caller deletes it.
        minutes: at most so much work is lost.
        clip: largest norm of the gradient; longer ones are shortened to it.
        progress, description: see `Execution`.

    Returns:
        What `measure` found last, curve (one dict a point: iteration, images, learning_rate, train_loss and what was
        measured), diverged, divergence, train_seconds, evaluate_seconds, iterations_done.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another training.
    """
    optimiser, size = ScheduledSGD(model, recipe), min(recipe.batch_size, count)
    state = FitState(
        {
            "recipe": recipe.as_dict(),
            "seed": seed,
            "count": count,
            "identity": identity,
            "network": described(model),
            "clip": clip,
            "frozen": frozen_parameters(model),
        },
        {"model": model, "optimiser": optimiser},
        Execution(checkpoint=checkpoint, checkpoint_minutes=minutes, progress=progress, description=description),
        model=model,
        measure=measure,
        recipe=recipe,
        batch=size,
    )
    state.resume()
    begin_training(model)
    clock = torch.zeros(1, dtype=torch.int64, device=state.device)
    per_epoch, epoch, order = count // size, -1, torch.empty(0, device="cpu")
    with own_draws(seed) as seeded:
        for iteration in state.steps():
            if iteration // per_epoch != epoch:
                epoch = iteration // per_epoch
                order = order_of(count, seed, epoch)
            place = iteration % per_epoch * size
            optimiser.begin(iteration)
            optimiser.zero_grad()
            seeded(iteration)
            value = loss(model, order[place : place + size], iteration)
            value.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            clock.fill_(iteration)
            optimiser.step(clock)
            state.note(clock, value)
    model.eval()
    return state.result()
