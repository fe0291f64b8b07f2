"""Executing a few-shot run: fit a method on the base classes, measure it on episodes of the novel ones.

Settings are chosen on the validation classes: :func:`on_validation` makes the run that measures there.
"""

from __future__ import annotations

import base64
import io
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.declare.runs import FEWSHOT, Run
from reproduce.run.attempts import code, machine
from reproduce.tasks.outcome import Outcome

if TYPE_CHECKING:
    from torch import Tensor

    from nsl.data import FewShotData, ImageSet
    from nsl.fewshot import FewShotMethod

#: Support and query images a class in the picture of an episode.
PICTURE_SUPPORT, PICTURE_QUERY = 5, 3
#: The method whose record has that picture.
PICTURED = "finetune"

#: Classes of the test episodes, `split` of a recipe's episodes; a recipe without it is measured on the novel ones.
NOVEL, VALIDATION = "novel", "validation"


def on_validation(run: Run) -> Run:
    """The same training, measured on episodes of the validation classes: another run, with a record of its own.

    Raises:
        ValueError: the run is not a few-shot run.
    """
    if run.task != FEWSHOT:
        raise ValueError(f"{run.name} is no few-shot run; only those have validation classes.")
    episodes = {**run.recipe["episodes"], "split": VALIDATION}
    return replace(run, recipe={**run.recipe, "episodes": episodes})


def measured_classes(run: Run, data: FewShotData) -> ImageSet:
    """The classes that a run is measured on.

    Raises:
        ValueError: the recipe names a split that does not exist.
    """
    split = run.recipe["episodes"].get("split", NOVEL)
    if split not in (NOVEL, VALIDATION):
        raise ValueError(f"{run.name}: episodes.split must be {NOVEL!r} or {VALIDATION!r}, got {split!r}.")
    return data.validation if split == VALIDATION else data.novel


def train(run: Run, data: FewShotData, checkpoint: Path, minutes: float, progress: bool) -> Outcome:
    """Fit and measure, on the novel classes or those that the recipe's episodes name (`measured_classes`).

    Classifiers of the base classes are shared by all runs of the store; the result lists the attempts at the one that
    this run starts from.

    The result holds, for the table's number of shots, the right answers of every episode (so that methods can be
    compared episode by episode), the time to adapt and the number of adapted parameters; for the other numbers of
    shots and of inner steps, mean accuracy and half its 95 % interval.
    """
    from nsl.fewshot import Diverged, MetaRecipe, Place, Settings, create_method, evaluate
    from nsl.training import Recipe

    episodes = run.recipe["episodes"]
    options = {name: value for name, value in run.model.items() if name not in ("name", "backbone", "width")}
    trainings: dict[str, Any] = {}
    if part := run.recipe.get("pretrain"):
        trainings["pretrain"] = Recipe(**part)
    if part := run.recipe.get("meta"):
        trainings["meta"] = MetaRecipe(**part)
    settings = Settings(
        image_size=data.image_size,
        backbone=run.model["backbone"],
        width=run.model["width"],
        way=int(episodes["way"]),
        seed=run.seed,
        **trainings,
    )
    method = create_method(run.model["name"], settings, **options)
    parameters = method.parameters
    tested = measured_classes(run, data)
    place = Place(checkpoint, checkpoint.parent, minutes, progress, {**code(), **machine()})
    try:
        history = method.fit(data.base, place, data.validation)
    except Diverged as error:
        broken = {"test_error": None, "diverged": True, "divergence": str(error), "train_seconds": 0.0}
        return Outcome(broken, parameters, {})
    started = time.perf_counter()
    represented = method.represent(tested.images)
    query, seed = int(episodes["query"]), int(episodes["seed"])

    def measure(shot: int, count: int) -> Any:
        return evaluate(method, tested, shot, query, count, seed, represented)

    main = measure(int(episodes["shot"]), int(episodes["count"]))
    per_episode = query * settings.way
    result: dict[str, Any] = {
        "accuracy": main.mean,
        "half_width": main.half_width,
        "test_error": 100.0 - main.mean,
        "right": [round(accuracy * per_episode / 100) for accuracy in main.accuracies],
        "queries": per_episode,
        "adapted_parameters": main.adapted_parameters,
        "adapt_seconds": main.adapt_seconds,
        "predict_seconds": main.predict_seconds,
        "curves": {phase: part["curve"] for phase, part in history.items()},
        "diverged": False,
        "train_seconds": sum(part["seconds"] for part in history.values()),
    }
    if "selection" in history.get("meta", {}):
        result["selection"] = history["meta"]["selection"]
    if "pretrain" in history:
        result["backbone_attempts"] = history["pretrain"]["attempts"]
    shots = {}
    for shot in episodes["shots"]:
        found = main if shot == episodes["shot"] else measure(int(shot), int(episodes["shot_count"]))
        shots[str(shot)] = [found.mean, found.half_width]
    result["shots"] = shots
    observations = _observe(method, tested, represented, episodes)
    if method.steps is not None:
        usual, result["steps"] = method.steps, {}
        for count in episodes["step_counts"]:
            method.steps = int(count)
            found = measure(int(episodes["shot"]), int(episodes["step_episodes"]))
            result["steps"][str(count)] = [found.mean, found.half_width]
        method.steps = usual
    result["evaluate_seconds"] = time.perf_counter() - started
    return Outcome(result, parameters, observations, keep=partial(_keep, method))


def _keep(method: FewShotMethod, path: Path, facts: dict[str, Any]) -> None:
    from nsl.fewshot.export import save_method

    save_method(path, method, facts)


def _observe(
    method: FewShotMethod, tested: ImageSet, represented: Tensor, episodes: dict[str, Any]
) -> dict[str, Any]:
    """A picture of the first episode, and M before and after adapting to it where a method adapts M."""
    from nsl.data import EpisodeSampler

    way, shot, query = int(episodes["way"]), int(episodes["shot"]), int(episodes["query"])
    episode = EpisodeSampler(tested.labels, way, shot, query, 1, seed=int(episodes["seed"]))[0]
    found: dict[str, Any] = {}
    if method.name == PICTURED:
        picture = _mosaic(tested.images, episode.support.view(way, -1), episode.query.view(way, -1))
        names = [tested.class_names[label] for label in episode.classes if isinstance(label, int)]
        found["episode"] = {"png": picture, "classes": names, "support": min(shot, PICTURE_SUPPORT)}
    if method.adapted_similarities():
        device = represented.device
        method.adapt(represented[episode.support.to(device)], episode.support_labels.to(device))
        found["adaptation"] = [
            {"layer": name, "before": before.cpu().tolist(), "after": after.cpu().tolist()}
            for name, before, after in method.adapted_similarities()
        ]
    return found


def _mosaic(images: Tensor, support: Tensor, query: Tensor) -> str:
    """A PNG in base64: one row a class, some support images, a gap, some query images."""
    import numpy as np
    from PIL import Image

    size, gap = images.shape[-1], max(2, images.shape[-1] // 8)
    left, right = support[:, :PICTURE_SUPPORT], query[:, :PICTURE_QUERY]
    columns = left.shape[1] + right.shape[1]
    canvas = np.full((len(support) * (size + 1) - 1, columns * (size + 1) - 1 + gap, 3), 255, np.uint8)
    for row in range(len(support)):
        for column in range(columns):
            later = column >= left.shape[1]
            position = right[row, column - left.shape[1]] if later else left[row, column]
            x, y = column * (size + 1) + (gap if later else 0), row * (size + 1)
            canvas[y : y + size, x : x + size] = images[position].permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(canvas).save(stream, format="png")
    return base64.b64encode(stream.getvalue()).decode()
