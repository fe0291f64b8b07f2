"""A small, easy few-shot set: each class is a coarse colour pattern under noise."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from nsl.data import FewShotData, split_classes
from nsl.fewshot import FewShotMethod, MetaRecipe, Settings, create_method
from nsl.fewshot.meta import Tasks
from nsl.training import Recipe

BACKBONES = {"tadam": "resnet12", "kshot": "resnet34", "leo": "wrn28_10"}


@cache
def toy(classes: int = 13, images: int = 14, noise: float = 40.0) -> FewShotData:
    """16x16 images; the last six classes are novel, the one before them is for validation."""
    draw = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 256, (classes, 3, 4, 4), generator=draw).float()
    patterns = patterns.repeat_interleave(4, 2).repeat_interleave(4, 3)
    labels = torch.arange(classes).repeat_interleave(images)
    noisy = patterns[labels] + noise * torch.randn(classes * images, 3, 16, 16, generator=draw)
    names = [f"pattern {c}" for c in range(classes)]
    split = {"base": names[:-7], "validation": names[-7:-6], "novel": names[-6:]}
    return split_classes("toy", noisy.clamp(0, 255).to(torch.uint8), labels, names, split)


def method(name: str, *, iterations: int = 4, width: int = 4, way: int = 3, **options: Any) -> FewShotMethod:
    """A method small enough for a test, not fitted."""
    settings = Settings(
        image_size=16,
        backbone=BACKBONES.get(name, "cnn4"),
        width=4 if name == "leo" else width,
        way=way,
        pretrain=Recipe(iterations=iterations, batch_size=16, learning_rate=0.05, augment="none", evaluations=1),
        meta=MetaRecipe(iterations=iterations, tasks=2, way=way, shot=2, query=3),
    )
    return create_method(name, settings, **options)


def tasks(count: int, way: int, shot: int, query: int, shape: tuple[int, ...], seed: int = 0) -> Tasks:
    """Random float64 tasks."""
    draw = torch.Generator().manual_seed(seed)

    def items(number: int) -> torch.Tensor:
        return torch.randn(count, number, *shape, dtype=torch.float64, generator=draw)

    def labels(each: int) -> torch.Tensor:
        return torch.arange(way).repeat_interleave(each)

    return Tasks(items(way * shot), labels(shot), items(way * query), labels(query), 0, draw)
