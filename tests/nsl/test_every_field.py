"""No field of a recipe or of few-shot settings is ignored: another value trains other numbers, or is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch

import nsl
import nsl.data
from nsl.fewshot import MetaRecipe, Settings, create_method
from nsl.training import Execution, Recipe, train
from tests.nsl.fewshot.toy import toy

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

META: dict[str, Any] = {"iterations": 2, "tasks": 1, "way": 3, "shot": 2, "query": 2}
OTHER_META: dict[str, Any] = {
    "iterations": 3, "tasks": 2, "learning_rate": 0.01, "weight_decay": 0.1, "schedule": "constant", "way": 4,
    "shot": 1, "query": 3, "augment": "crop", "precision": "bfloat16",
}  # fmt: skip
SETTINGS: dict[str, Any] = {"image_size": 16, "width": 4, "way": 3}
OTHER_SETTINGS: dict[str, Any] = {
    "image_size": 32, "backbone": "cnn9", "width": 5, "way": 2, "pretrain": Recipe(iterations=3, batch_size=8),
    "meta": MetaRecipe(**META | {"iterations": 3}), "seed": 1, "device": "nonsense",
}  # fmt: skip


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


def test_a_rate_that_drops_nowhere_is_called_constant() -> None:
    with pytest.raises(ValueError, match="schedule 'steps' needs milestones"):
        Recipe(**{**PLAIN, "schedule": "steps", "milestones": ()})


def learned(name: str, more: dict[str, Any], **changes: Any) -> Any:
    """Everything a few-shot method learns of the base classes and makes of a task."""
    pretrain = Recipe(iterations=2, batch_size=8, evaluations=1, augment="none")
    settings = Settings(**{**SETTINGS, "meta": MetaRecipe(**META | more), "pretrain": pretrain} | changes)
    data = toy()
    method = create_method(name, settings)
    history = method.fit(data.base)
    for part in history.values():
        part.pop("seconds")
    found, labels = method.represent(data.novel.images[: 14 * settings.way]), torch.arange(settings.way)
    logits = method.adapt(found, labels.repeat_interleave(14)).predict(found)
    return repr(history), [value.tolist() for value in method.network.state_dict().values()], logits.tolist()


@pytest.mark.parametrize("name", [field.name for field in fields(MetaRecipe)])
def test_every_field_of_a_meta_recipe_has_an_effect(name: str) -> None:
    assert learned("proto", {name: OTHER_META[name]}) != learned("proto", {})


@pytest.mark.parametrize("name", [field.name for field in fields(Settings)])
def test_every_field_of_the_settings_has_an_effect_or_is_refused(name: str) -> None:
    method = "nearest" if name == "pretrain" else "proto"
    try:
        found = learned(method, {}, **{name: OTHER_SETTINGS[name]})
    except (ValueError, RuntimeError) as error:  # PyTorch's own for an unknown device
        assert name in ("image_size", "device"), error  # noqa: PT017
    else:
        assert found != learned(method, {})
