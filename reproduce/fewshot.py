"""Executing a few-shot run: fit a method on the base classes, measure it on episodes of the novel ones."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.runs import Run
from reproduce.worker import Outcome

if TYPE_CHECKING:
    from torch import Tensor

    from nsl.data import FewShotData, ImageSet
    from nsl.fewshot import FewShotMethod

#: Support and query images a class in the picture of an episode.
PICTURE_SUPPORT, PICTURE_QUERY = 5, 3


def run_fewshot(run: Run, data: FewShotData, checkpoint: Path, minutes: float, progress: bool) -> Outcome:
    """Fit and measure; classifiers of the base classes are shared by all runs of the store.

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
    place = Place(checkpoint, checkpoint.parent, minutes, progress)
    try:
        history = method.fit(data.base, place)
    except Diverged as error:
        broken = {"test_error": None, "diverged": True, "divergence": str(error), "train_seconds": 0.0}
        return Outcome(broken, parameters, {})
    started = time.perf_counter()
    represented = method.represent(data.novel.images)
    query, seed = int(episodes["query"]), int(episodes["seed"])

    def measure(shot: int, count: int) -> Any:
        return evaluate(method, data.novel, shot, query, count, seed, represented)

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
    shots = {}
    for shot in episodes["shots"]:
        found = main if shot == episodes["shot"] else measure(int(shot), int(episodes["shot_count"]))
        shots[str(shot)] = [found.mean, found.half_width]
    result["shots"] = shots
    observations = _observe(method, data.novel, represented, episodes)
    if method.steps is not None:
        usual, result["steps"] = method.steps, {}
        for count in episodes["step_counts"]:
            method.steps = int(count)
            found = measure(int(episodes["shot"]), int(episodes["step_episodes"]))
            result["steps"][str(count)] = [found.mean, found.half_width]
        method.steps = usual
    result["evaluate_seconds"] = time.perf_counter() - started
    return Outcome(result, parameters, observations)


def _observe(
    method: FewShotMethod, novel: ImageSet, represented: Tensor, episodes: dict[str, Any]
) -> dict[str, Any]:
    """A picture of the first episode, and M before and after adapting to it where a method adapts M."""
    from nsl.data import EpisodeSampler
    from nsl.fewshot.finetune import Finetune
    from nsl.fewshot.meta_nsn import MetaStaticNSN
    from nsl.fewshot.static_nsn import StaticNSN

    way, shot, query = int(episodes["way"]), int(episodes["shot"]), int(episodes["query"])
    episode = EpisodeSampler(novel.labels, way, shot, query, 1, seed=int(episodes["seed"]))[0]
    if isinstance(method, Finetune):
        picture = _mosaic(novel.images, episode.support.view(way, -1), episode.query.view(way, -1))
        names = [novel.class_names[label] for label in episode.classes if isinstance(label, int)]
        return {"episode": {"png": picture, "classes": names, "support": min(shot, PICTURE_SUPPORT)}}
    if not isinstance(method, StaticNSN | MetaStaticNSN):
        return {}
    device = represented.device
    method.adapt(represented[episode.support.to(device)], episode.support_labels.to(device))
    if isinstance(method, StaticNSN):
        import torch

        layers = [(name, torch.eye(len(after)), after) for name, after in method.similarities()]
    else:
        layers = method.similarities()
    return {
        "adaptation": [
            {"layer": name, "before": before.cpu().tolist(), "after": after.cpu().tolist()}
            for name, before, after in layers
        ]
    }


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
