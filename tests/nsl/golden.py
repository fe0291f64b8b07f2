"""Trainings small enough to repeat, as numbers and as a digest: what `golden_training.json` was written from.

The file has the numbers of the loop before it was taken apart (commit 424577e), and of methods that have changed since
their own, with the machine that made them. `python -m tests.nsl.golden` writes all anew, which says that they changed;
with `elsewhere` it adds those of a machine that rounds otherwise, where all tests pass.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import nsl
from nsl.data import Dataset
from nsl.fewshot import METHODS, Place, evaluate
from nsl.kernels import compiled, paths
from nsl.training import Execution, Recipe, train
from tests.nsl.fewshot.toy import method, toy
from tests.nsl.test_training import tiny

FILE = Path(__file__).with_name("golden_training.json")
RECIPE = Recipe(iterations=24, batch_size=16, learning_rate=0.05, augment="crop_flip", evaluations=3)
#: Network, changes of the recipe, parts of a batch, stored size of the images (cut to 8), weight of a penalty.
TRAININGS: dict[str, tuple[str, dict[str, Any], int, int, float]] = {
    "cnn9": ("cnn9", {}, 1, 8, 0.0),
    "static, parts": ("nsn9_static_unconstrained", {"augment": "resized_crop", "schedule": "cosine"}, 3, 8, 0.0),
    "dynamic, bfloat16": ("nsn9_dynamic_diagonal", {"precision": "bfloat16", "label_smoothing": 0.1}, 1, 8, 0.0),
    "windows, penalty": (
        "nsn9_dynamic_unconstrained",
        {"augment": "window_flip", "classifier_rate": 0.1},
        1,
        12,
        1e-3,
    ),
}
ONE_BY_ONE = "maml, one by one"
CASES = [*TRAININGS, *sorted(METHODS), ONE_BY_ONE]


def machine() -> str:
    """What the last bits depend on beside the code."""
    parts = [torch.__version__, compiled._processor(), paths.path(torch.empty(0))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def digest(module: nn.Module, *parts: Any) -> str:
    """Of a module's tensors to the bit, whatever they are called, and of JSON-ready values."""
    tensors = (value.contiguous().reshape(-1).view(torch.uint8).numpy() for value in module.state_dict().values())
    found = sorted(hashlib.sha256(tensor.tobytes()).hexdigest() for tensor in tensors)
    return hashlib.sha256(json.dumps([found, *parts], sort_keys=True).encode()).hexdigest()[:16]


def dataset(stored: int) -> Dataset:
    data = tiny(stored)
    return data if stored == 8 else replace(data, crop_size=8)


def network(name: str, width: int = 4) -> nn.Module:
    torch.manual_seed(3)
    return nsl.create_model(name, 4, width=width, image_size=8)


def _penalty(weight: float) -> Callable[[nn.Module], Tensor] | None:
    if weight == 0:
        return None
    return lambda model: weight * sum((p.square().sum() for p in model.parameters()), torch.zeros(()))


def trained(case: str) -> dict[str, Any]:
    """The numbers of a classifier's training."""
    name, changes, parts, stored, weight = TRAININGS[case]
    model = network(name)
    execution = Execution(device="cpu", progress=False, accumulate=parts)
    recipe = replace(RECIPE, **changes)
    result = train(model, dataset(stored), recipe, seed=3, execution=execution, penalty=_penalty(weight))
    keys = ("train_loss", "train_error", "test_loss", "test_error")
    curve = [[point[key] for key in keys] for point in result.curve]
    return {"curve": curve, "digest": digest(model, result.curve)}


def fitted(case: str) -> dict[str, Any]:
    """The numbers of a few-shot method's trainings and of its evaluation."""
    if case == ONE_BY_ONE:
        found = method("maml", iterations=4, vectorise=False, first_order_until=0.5)
        part = found.fit(toy().base)["meta"]["curve"]
        curve = [[point["loss"]] for point in part]
        return {"curve": curve, "digest": digest(found.network, part)}
    found = method(case, iterations=3)
    history = found.fit(toy().base, Place())
    accuracies = list(evaluate(found, toy().novel, 2, 3, 3, 0).accuracies)
    curve = [
        [point.get("loss", point.get("train_loss"))] for phase in history.values() for point in phase["curve"]
    ]
    curves = [phase["curve"] for phase in history.values()]
    made = digest(found.network, curves, accuracies)
    return {"curve": curve, "accuracies": accuracies, "digest": made}


def numbers(case: str) -> dict[str, Any]:
    """Curve, accuracies and digest of a case, computed by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return trained(case) if case in TRAININGS else fitted(case)
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    own, known = machine(), json.loads(FILE.read_text())
    if sys.argv[1:] == ["add"]:  # what is new, with the machine it was computed on
        new = {case: {**numbers(case), "machine": own} for case in CASES if case not in known}
        FILE.write_text(json.dumps(known | new, indent=1) + "\n")
        sys.exit()
    found = {case: numbers(case) for case in CASES}
    if sys.argv[1:] == ["elsewhere"]:
        stored = json.loads(FILE.read_text())
        stored["elsewhere"] = stored.get("elsewhere", {}) | {own: found}
    else:
        stored = {"machine": own, **found, "elsewhere": {}}
    FILE.write_text(json.dumps(stored, indent=1) + "\n")
