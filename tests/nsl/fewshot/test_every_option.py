"""No option of a few-shot method is ignored: another value changes what is learned, or is refused."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import pytest
import torch

from nsl.fewshot import METHODS
from tests.nsl.fewshot.toy import method, toy
from tests.nsl.test_every_argument import contents, of, refused, tensors

OTHER: dict[Any, Any] = {
    "steps": 2, "rate": 0.05, "backbone_rate": 0.1, "momentum": 0.5, "decay": 0.1, "metric": "euclidean",
    "full_context": False, "scale": 5.0, "loss": "cross_entropy", "train_steps": 2, "first_order": True,
    "first_order_until": 0.5, "validation_episodes": 2, "vectorise": False, "similarity": "symmetric",
    "predictor": "cnn", "predictor_options": {"hidden": 5}, "classifier_rate": 1.0, "similarity_rate": 0.003,
    "learn_rates": False, "prior": "diagonal", "conditioning": False, "penalty": 1.0, "auxiliary": False,
    "auxiliary_batch": 8, "latent": 8, "weight_steps": 2, "beta": 1.0, "gamma": 1.0, "orthogonality": 1.0,
    "dropout": 0.0, "dampening": 0.5, "batch_size": 3,
}  # fmt: skip


#: TADAM's conditioning starts at nothing, and so does what is penalised of it.
ITERATIONS = {"tadam": 5}


def fitted(name: str, **options: Any) -> list[Any]:
    """What the method learns of the base classes and of a task, and how; times aside."""
    data = toy()
    learner = method(name, iterations=ITERATIONS.get(name, 2), **options)
    side_by_side = []
    with pytest.MonkeyPatch.context() as patch:
        vmap = torch.func.vmap
        patch.setattr(torch.func, "vmap", lambda *args, **more: side_by_side.append(1) or vmap(*args, **more))
        history = learner.fit(data.base, validation=data.novel)  # toy() has one class for validation
    found = learner.represent(data.novel.images[:42])
    labels = torch.arange(3).repeat_interleave(14)
    logits = learner.adapt(found, labels).predict(found)
    for part in history.values():
        part.pop("seconds", None)
    return [history, tensors(learner.network), contents(logits), bool(side_by_side)]


usual = cache(fitted)
METHOD_OPTIONS = [
    (name, option) for name, build in METHODS.items() for option in inspect.signature(build).parameters
    if option != "settings"
]  # fmt: skip


@pytest.mark.parametrize(("name", "option"), METHOD_OPTIONS)
def test_no_option_of_a_few_shot_method_is_ignored(name: str, option: str) -> None:
    value = of(OTHER, name, option)
    if not refused(option, lambda: method(name, iterations=2, **{option: value})):
        assert fitted(name, **{option: value}) != usual(name)
