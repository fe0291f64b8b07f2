"""No field of a recipe is ignored: another value trains other numbers, or is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch

import nsl
import nsl.data
from nsl.training import Execution, Recipe, train

PLAIN: dict[str, Any] = {"iterations": 4, "batch_size": 8, "learning_rate": 0.05, "evaluations": 1, "warmup": 0.0}
OTHER: dict[str, Any] = {
    "iterations": 5,
    "batch_size": 7,
    "learning_rate": 0.04,
    "momentum": 0.5,
    "weight_decay": 0.1,
    "schedule": "cosine",
    "milestones": (0.25,),
    "decay_factor": 0.5,
    "warmup": 0.5,
    "classifier_rate": 0.5,
    "label_smoothing": 0.2,
    "precision": "bfloat16",
    "augment": "crop",
    "evaluations": 2,
}


def outcome(**changes: Any) -> tuple[Any, ...]:
    """Everything a training leaves, times aside."""
    torch.manual_seed(0)
    model = nsl.create_model("cnn9", 10, image_size=16, width=2)
    data = nsl.data.load("digits", train_per_class=2, test_per_class=2)
    found = train(model, data, Recipe(**{**PLAIN, **changes}), seed=0, execution=Execution(progress=False))
    return found.curve, [value.tolist() for value in model.state_dict().values()]


def test_every_field_has_another_value_here() -> None:
    assert set(OTHER) == {field.name for field in fields(Recipe)}


def test_equal_recipes_give_equal_numbers() -> None:
    assert outcome() == outcome()


@pytest.mark.parametrize("name", OTHER)
def test_every_field_of_a_recipe_has_an_effect(name: str) -> None:
    assert outcome(**{name: OTHER[name]}) != outcome()


@pytest.mark.parametrize("name", ["milestones", "decay_factor"])
def test_a_field_that_the_schedule_would_ignore_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} belongs to schedule 'steps'"):
        Recipe(**{**PLAIN, "schedule": "linear", name: OTHER[name]})
