"""The recipe of a training and its learning-rate schedule, in fractions of the budget.

The paper's steps (lr 0.1, divided by 10 at 34K and 54K of 64K iterations) are written as fractions 34/64 and
54/64, so that a budget of any size has the same shape.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from nsl.numbers import plain
from nsl.training.ranges import check_below, check_counts, check_numbers, check_steps

SCHEDULES = ("steps", "linear", "cosine", "constant")
PRECISIONS = ("float32", "bfloat16")
AUGMENTATIONS = ("crop_flip", "crop", "window_flip", "resized_crop", "none")
_MILESTONES, _DECAY_FACTOR = (34 / 64, 54 / 64), 0.1


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; everything in it determines the result's numbers.

    Attributes:
        iterations: optimiser steps, the whole budget.
        batch_size: images a step.
        learning_rate, momentum: of SGD (paper: 0.1 and 0.9).
        weight_decay: l2 coefficient on kernels (the release's; the paper gives none); see
            `nsl.training.parameter_groups`.
        schedule: "steps" (paper), "linear" or "cosine" (both to zero), or "constant".
        milestones, decay_factor: of "steps"; fractions of the budget after which the rate is multiplied.
        warmup: fraction of the budget over which the rate rises linearly from zero. The library's default is a tenth,
            whatever the budget; the paper, which names none, is reproduced with a hundredth. The reason is written in
            DISCREPANCIES.md.
        classifier_rate: learning rate of the classifier relative to the other layers'. CNN-9's
            classifier sees 2048 features of squared norm near 2800, so that plain gradient descent is stable for
            it only below about 0.007; short budgets cannot afford to wait until batch norm has shrunk the features.
        label_smoothing: of the cross entropy (the paper names none: 0; release: 0.01).
        precision: "float32", or "bfloat16" for autocast with float32 weights.
        augment: "crop_flip" (pad 4, random crop, flip), "crop" (for characters, which have a handedness),
            "window_flip" (a random window of larger stored images, flip), "resized_crop" (a random rectangle brought
            to the image's size, flip), "none"; see `nsl.data.augment`.
        evaluations: points of the learning curve, the last at the end; at most one a step.

    Raises:
        ValueError: a value is impossible; the sentence names the field.
    """

    iterations: int
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "steps"
    milestones: tuple[float, ...] = _MILESTONES
    decay_factor: float = _DECAY_FACTOR
    warmup: float = 0.1
    classifier_rate: float = 1.0
    label_smoothing: float = 0.0
    precision: str = "float32"
    augment: str = "crop_flip"
    evaluations: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.milestones, list | tuple):
            raise ValueError(f"recipe: milestones must be a list of numbers, got {self.milestones!r}")
        object.__setattr__(self, "milestones", tuple(plain(milestone) for milestone in self.milestones))
        object.__setattr__(self, "decay_factor", plain(self.decay_factor))
        for field, choices in (
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("augment", AUGMENTATIONS),
        ):
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"recipe: {field} must be one of {list(choices)}, got {getattr(self, field)!r}"
                )
        what = "recipe"
        check_counts(what, self, ("iterations", "batch_size", "evaluations"))
        numbers = ("learning_rate", "momentum", "weight_decay", "warmup", "classifier_rate", "label_smoothing")
        check_numbers(what, self, numbers)
        check_below(what, self, {"momentum": 1, "label_smoothing": 1})
        if self.warmup > 1:
            raise ValueError(f"recipe: warmup must be a fraction of the budget, 0 to 1, got {self.warmup!r}")
        check_steps(what, self.schedule, self.milestones, self.decay_factor, (_MILESTONES, _DECAY_FACTOR))

    @classmethod
    def release(cls, **changes: Any) -> Recipe:
        """The authors' release: 42,500 iterations, divided by 10 at 20K, 30K and 37.5K, label smoothing 0.01.

        Belongs with `variant="release"` of `nsl.create_model`. Any field can be changed by name; milestones are
        fractions, so that another number of iterations keeps the schedule's shape.
        """
        own = {
            "iterations": 42_500,
            "milestones": (20 / 42.5, 30 / 42.5, 37.5 / 42.5),
            "label_smoothing": 0.01,
            "warmup": 0.0,
        }
        if changes.get("schedule", "steps") != "steps":
            del own["milestones"]
        return cls(**{**own, **changes})

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return {**asdict(self), "milestones": list(self.milestones)}

    def rate(self, iteration: int) -> float:
        """Learning rate of step `iteration` (0-based): the schedule times the linear warm-up."""
        progress = iteration / self.iterations
        warm = self.warmup * self.iterations
        factor = min(1.0, (iteration + 1) / warm) if warm > 0 else 1.0
        if self.schedule == "linear":
            # From the full rate at the end of the warm-up to zero at the end of the budget.
            factor = min(factor, (1 - progress) / max(1e-9, 1 - self.warmup))
        elif self.schedule == "cosine":
            left = max(0.0, progress - self.warmup) / max(1e-9, 1 - self.warmup)
            factor *= 0.5 * (1 + math.cos(math.pi * left))
        elif self.schedule == "steps":
            factor *= self.decay_factor ** sum(progress >= milestone for milestone in self.milestones)
        return self.learning_rate * factor

    def evaluation_points(self) -> set[int]:
        """Numbers of finished steps after which the test set is evaluated."""
        if self.evaluations >= self.iterations:
            return set(range(1, self.iterations + 1))
        return {round(self.iterations * (i + 1) / self.evaluations) for i in range(self.evaluations)} - {0}
