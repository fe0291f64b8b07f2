"""Executing a run of Tables 1 to 5: train a network on labelled images, measure its test error, observe its M."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import nsl
from nsl.data.dataset import Dataset
from nsl.training import Recipe, observe
from nsl.training import train as train_network
from nsl.training.export import save_model
from reproduce.declare.runs import Run
from reproduce.tasks.outcome import Outcome


def train(run: Run, dataset: Dataset, checkpoint: Path, minutes: float, progress: bool) -> Outcome:
    """Train the run's network from its seed, resuming from ``checkpoint``, which is written every ``minutes``."""
    options = {name: value for name, value in run.model.items() if name != "name"}
    torch.manual_seed(run.seed)
    model = nsl.create_model(run.model["name"], dataset.num_classes, image_size=dataset.image_size, **options)
    result = train_network(
        model,
        dataset,
        Recipe(**run.recipe),
        seed=run.seed,
        checkpoint=checkpoint,
        checkpoint_minutes=minutes,
        progress=progress,
        description=run.name,
    )
    observations = {} if result.diverged else observe(model, dataset)
    multiply_adds = nsl.count_multiply_adds(model, dataset.image_size)
    parameters = nsl.count_parameters(model)
    if result.diverged:
        return Outcome(result.as_dict(), parameters, observations, multiply_adds)

    def keep(path: Path, facts: dict[str, Any]) -> None:
        save_model(path, model, run.model["name"], options, dataset, facts)

    return Outcome(result.as_dict(), parameters, observations, multiply_adds, keep)
