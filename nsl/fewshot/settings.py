"""What all few-shot methods are told: the backbone, the two trainings, the seed, and where to keep their state."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from nsl.training.execution import Execution, choose_device
from nsl.training.ranges import check_counts, check_numbers, check_seed
from nsl.training.schedule import AUGMENTATIONS, PRECISIONS, Recipe

META_SCHEDULES = ("constant", "linear")


def _check_way(what: str, way: int) -> None:
    if way < 2:
        raise ValueError(f"{what}: way must be at least 2, since of one class nothing is to be told apart, got {way}")


@dataclass(frozen=True)
class MetaRecipe:
    """Training on episodes of the base classes, with Adam.

    Attributes:
        iterations: optimiser steps.
        tasks: episodes a step (the meta-batch).
        learning_rate, weight_decay: of Adam.
        schedule: "constant" or "linear" (to zero).
        way, shot, query: of the training episodes; way may be larger than in testing (Snell et al., 2017).
        augment: of the images, as in `nsl.training.Recipe`.
        precision: "float32", or "bfloat16" for autocast with float32 weights; distances, cosines, losses and the
            full-context embeddings of MatchingNet stay in float32.

    Raises:
        ValueError: a value is impossible; the sentence names the field.
    """

    iterations: int
    tasks: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "linear"
    way: int = 5
    shot: int = 5
    query: int = 15
    augment: str = "none"
    precision: str = "float32"

    def __post_init__(self) -> None:
        check_counts("meta recipe", self, ("iterations", "tasks", "way", "shot", "query"))
        check_numbers("meta recipe", self, ("learning_rate", "weight_decay"))
        _check_way("meta recipe", self.way)
        choices_by_name = (
            ("schedule", META_SCHEDULES),
            ("augment", AUGMENTATIONS),
            ("precision", PRECISIONS),
        )
        for name, choices in choices_by_name:
            if getattr(self, name) not in choices:
                raise ValueError(f"meta recipe: {name} must be one of {list(choices)}, got {getattr(self, name)!r}")

    def rate(self, iteration: int) -> float:
        """Learning rate of step `iteration` (0-based)."""
        return self.learning_rate * (1 - iteration / self.iterations if self.schedule == "linear" else 1.0)


@dataclass(frozen=True)
class Settings:
    """One method's circumstances.

    Attributes:
        image_size: height and width of the images.
        backbone, width: see `nsl.models.backbones.create_backbone`; width None: the paper's.
        way: classes of a test episode.
        pretrain: training of a classifier on all base classes.
        meta: training on episodes; each method uses the trainings that belong to it.
        seed: of initialisation, batches and training episodes.
        device: "auto" or a torch device.

    Raises:
        ValueError: a value is impossible; the sentence names the field.
    """

    image_size: int
    backbone: str = "cnn4"
    width: int | None = None
    way: int = 5
    pretrain: Recipe = field(default_factory=lambda: Recipe(iterations=1000))
    meta: MetaRecipe = field(default_factory=lambda: MetaRecipe(iterations=1000))
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, kind in (("pretrain", Recipe), ("meta", MetaRecipe)):
            if not isinstance(getattr(self, name), kind):
                got = type(getattr(self, name)).__name__
                raise ValueError(f"settings: {name} must be a {kind.__name__}, got {got}")
        check_counts("settings", self, ("image_size", "way", *(("width",) if self.width is not None else ())))
        _check_way("settings", self.way)
        object.__setattr__(self, "seed", check_seed("settings", self.seed))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values of what determines a result: the device is none of it."""
        values = asdict(self) | {"pretrain": self.pretrain.as_dict()}
        del values["device"]
        return values

    def torch_device(self) -> torch.device:
        return choose_device(self.device)


@dataclass(frozen=True)
class Place:
    """Where a training keeps its state; without files nothing is kept.

    Attributes:
        checkpoint: the file of the training on episodes.
        shared: a folder of classifiers trained on the base classes: methods that start from the same one train it
            once.
        minutes: between two checkpoints.
        progress: show a bar on a terminal.
        attempt: what is remembered of whoever trains a shared classifier, JSON-ready (commit, machine).
    """

    checkpoint: Path | None = None
    shared: Path | None = None
    minutes: float = 5.0
    progress: bool = False
    attempt: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("checkpoint", "shared"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)).expanduser())

    def execution(self, description: str) -> Execution:
        """How the training on episodes keeps its state. The finished training is kept too: what follows it, hundreds
        of test episodes, may be interrupted."""
        return Execution(
            checkpoint=self.checkpoint,
            checkpoint_minutes=self.minutes,
            keep_last=True,
            progress=self.progress,
            description=description,
        )


class Diverged(ValueError):
    """A training whose loss is no longer finite; the sentence says where."""


History = dict[str, Any]
"""What a training was like, JSON-ready: phase name to curve (list of dicts) and seconds."""
