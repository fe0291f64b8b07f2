"""Table 6: fit a few-shot method on the base classes, measure it on episodes of the novel ones.

Settings are chosen on the validation classes: :func:`on_validation` makes the run that measures there.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.declare.runs import NUMERICS, REVISIONS
from reproduce.run.attempts import code, machine
from reproduce.show import fewshot_tables
from reproduce.show.cells import as_csv
from reproduce.show.columns import Column
from reproduce.tasks.accuracy import ACCURACY, base_training
from reproduce.tasks.task import STEP_PASSES, Outcome, Task

if TYPE_CHECKING:
    from torch import Tensor

    from nsl.data import FewShotData, ImageSet
    from nsl.fewshot import FewShotMethod
    from reproduce.declare.experiments import Method
    from reproduce.declare.runs import Run
    from reproduce.declare.shapes import Shape
    from reproduce.show.rows import Table

#: Support and query images a class in the picture of an episode.
PICTURE_SUPPORT, PICTURE_QUERY = 5, 3
#: The method whose record has that picture.
PICTURED = "finetune"

#: Classes of the test episodes, `split` of a recipe's episodes; a recipe without it is measured on the novel ones.
NOVEL, VALIDATION = "novel", "validation"

#: What a recipe says of them.
EPISODES = ("way", "shot", "shots", "query", "count", "shot_count", "seed", "step_counts", "step_episodes", "split")

#: Images of a class where there is noise in place of data.
NOISE_IMAGES = 30


class FewShot(Task):
    """A method, its backbone, and a recipe of parts; noise is counted over episodes while there are few seeds.

    A recipe has ``pretrain`` (a classifier of all base classes) and ``meta`` (a training on episodes of them) where the
    method takes these trainings, and ``episodes``, what it is tested on.
    """

    name = "few-shot"
    metric = ACCURACY
    trial_data = "validation classes"
    one_recipe = False

    def model(self, method: Method, options: dict[str, Any]) -> dict[str, Any]:
        return {"name": method.model, "backbone": method.backbone, **options}

    def recipe(self, method: Method, declared: dict[str, Any]) -> dict[str, Any]:
        if unknown := sorted(set(declared["episodes"]) - set(EPISODES)):
            raise ValueError(f"episodes.{unknown[0]} is not read; known are {', '.join(EPISODES)}.")
        return {part: dict(declared[part]) for part in (*method.trainings, "episodes")}

    def default(self, run: Run, option: str) -> Any:
        from nsl.fewshot import METHODS

        return METHODS[run.model["name"]].defaults().get(option)

    def images(self, recipe: dict[str, Any]) -> int:
        total = super().images(recipe["pretrain"]) if "pretrain" in recipe else 0
        if part := recipe.get("meta"):
            items = int(part["way"]) * (int(part["shot"]) + int(part["query"]))
            total += int(part["iterations"]) * int(part["tasks"]) * items
        return total

    def idle(self, record: dict[str, Any]) -> str:
        # Of a method that chooses one of its states on validation classes.
        states = [state["accuracy"] for state in record["result"].get("selection", ())]
        return "the state before the training was the best and is tested" if states and states[0] == max(states) else ""

    def remark(self, records: Sequence[dict[str, Any]]) -> str:
        layers = [layer for record in records for layer in record["observations"].get("adaptation", ())]
        return f"M moves by at most {_largest_change(layers):.2g} in the episode looked at" if layers else ""

    def held_out(self, run: Run, declared: dict[str, Any]) -> Run:
        return on_validation(run)

    def load(self, dataset: dict[str, Any], data: str | None, *, download: bool = True) -> FewShotData:
        import nsl.data

        options = {name: value for name, value in dataset.items() if name != "name"}
        return nsl.data.load_fewshot(dataset["name"], Path(data) if data else None, download=download, **options)

    def train(self, run: Run, dataset: FewShotData, checkpoint: Path, minutes: float, progress: bool) -> Outcome:
        return train(run, dataset, checkpoint, minutes, progress)

    def shares(self, run: Run) -> str:
        return base_training(run.declared("")) or super().shares(run)

    def network(self, run: Run, sizes: Shape) -> Any:
        """The backbone with a classifier of the base classes."""
        from nsl.models.backbones import BackboneClassifier, create_backbone

        kind = "dynamic" if _is_dynamic(run) else "none"
        options: dict[str, Any] = {"predictor_options": run.model.get("predictor_options")} if kind == "dynamic" else {}
        backbone = create_backbone(run.model["backbone"], width=run.model["width"], kind=kind, **options)
        return BackboneClassifier(backbone, sizes.classes, sizes.image_size)

    def deployed(self, network: Any) -> Any:
        """The backbone: testing does not use the classifier of the base classes."""
        return network.backbone

    def passes(self, run: Run, sizes: Shape) -> int:
        """Passes of the backbone; what costs little beside it is left out."""
        from nsl.fewshot import METHODS
        from nsl.fewshot.meta import CURVE_POINTS

        method, recipe, episodes = METHODS[run.model["name"]], run.recipe, run.recipe["episodes"]
        options, total = method.defaults() | run.model, STEP_PASSES * self.shared_images(run)
        if part := recipe.get("meta"):
            tasks, way = int(part["iterations"]) * int(part["tasks"]), int(part["way"])
            support, query = way * int(part["shot"]), way * int(part["query"])
            total += round(tasks * method.task_passes(support, query, options))
            total += sizes.train if method.trains_on_features else 0
            # The start and every point of the curve are looked at on validation classes.
            looks = (CURVE_POINTS + 1) * int(options.get("validation_episodes") or 0)
            total += looks * method.episode_passes(support, query, int(options.get("steps") or 0))
        way, query = int(episodes["way"]), int(episodes["way"]) * int(episodes["query"])
        total += sizes.test if method.features_once else 0
        steps = options.get("steps")
        for shot in episodes["shots"]:
            count = int(episodes["count"] if shot == episodes["shot"] else episodes["shot_count"])
            total += count * method.episode_passes(way * int(shot), query, int(steps or 0))
        for number in episodes["step_counts"] if steps is not None else ():
            one = method.episode_passes(way * int(episodes["shot"]), query, int(number))
            total += int(episodes["step_episodes"]) * one
        return total

    def shared_images(self, run: Run) -> int:
        part = run.recipe.get("pretrain")
        return super().images(part) if part else 0

    def training(self, run: Run) -> tuple[int, str]:
        part = run.recipe.get("pretrain") or run.recipe["meta"]
        items = int(part["way"]) * (int(part["shot"]) + int(part["query"])) if "way" in part else part["batch_size"]
        return int(items), str(part.get("precision", "float32"))

    def shortened(self, run: Run, steps: int) -> Run:
        recipe: dict[str, Any] = {name: dict(part) for name, part in run.recipe.items()}
        for name in ("pretrain", "meta"):
            if name in recipe:
                recipe[name]["iterations"] = steps
        if "pretrain" in recipe:
            recipe["pretrain"]["evaluations"] = 1
        recipe["episodes"] |= {"count": 2, "shot_count": 1, "step_counts": [0, 1], "step_episodes": 1}
        return replace(run, recipe=recipe)

    def noise(self, run: Run, steps: int) -> FewShotData:
        import torch

        from nsl.data import split_classes

        sizes = self.shape(run.dataset)
        # Enough validation classes for the episodes that choose a meta-training's state.
        counts = {"base": sizes.classes, "validation": 20, "novel": 20}
        names = [f"{part} {i}" for part, count in counts.items() for i in range(count)]
        split = {part: [n for n in names if n.startswith(f"{part} ")] for part in counts}
        labels = torch.arange(len(names)).repeat_interleave(NOISE_IMAGES)
        size, random = sizes.image_size, torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (len(labels), 3, size, size), dtype=torch.uint8, generator=random)
        return split_classes(f"{run.dataset['name']} (noise)", images, labels, names, split)

    def columns(self, table: Table) -> tuple[Column, ...]:
        return fewshot_tables.columns(table)

    def files(self, table: Table) -> dict[str, str]:
        return {"_shots": as_csv(fewshot_tables.SHOT_COLUMNS, fewshot_tables.shot_rows(table))}

    def scope(self, table: Table) -> str:
        return fewshot_tables.scope(table)


def _largest_change(layers: Iterable[dict[str, Any]]) -> float:
    """By how much adapting changes any number of any layer's M, at most."""
    import numpy as np

    return max(float(np.abs(np.subtract(layer["after"], layer["before"])).max()) for layer in layers)


def _is_dynamic(run: Run) -> bool:
    # A static similarity folds away: the network is counted without it.
    from nsl.fewshot import METHODS

    return METHODS[run.model["name"]].kind == "dynamic"


def on_validation(run: Run) -> Run:
    """The same training, measured on episodes of the validation classes: another run, with a record of its own."""
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
    # By names made of what determines them: other settings, data or arithmetic are other files.
    revision = REVISIONS.get(run.model["name"], 0)
    shared = checkpoint.parent / (f"shared-{NUMERICS}.{revision}" if revision else f"shared-{NUMERICS}")
    place = Place(checkpoint, shared, minutes, progress, {**code(), **machine()})
    try:
        history = method.fit(data.base, place, data.validation)
    except Diverged as error:
        broken = {"test_error": None, "diverged": True, "divergence": str(error), "train_seconds": 0.0}
        return Outcome(broken, parameters, {})
    started = time.perf_counter()
    represented = method.represent(tested.images)
    query, seed = int(episodes["query"]), int(episodes["seed"])

    def measure(shot: int, count: int, steps: int | None = None) -> Any:
        return evaluate(method, tested, shot, query, count, seed, represented, steps)

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
    for part in ("selection", "choice"):
        if part in history.get("meta", {}):
            result[part] = history["meta"][part]
    if "pretrain" in history:
        result["backbone_attempts"] = history["pretrain"]["attempts"]
    shots = {}
    for shot in episodes["shots"]:
        found = main if shot == episodes["shot"] else measure(int(shot), int(episodes["shot_count"]))
        shots[str(shot)] = [found.mean, found.half_width]
    result["shots"] = shots
    observations = _observe(method, tested, represented, episodes)
    if method.steps is not None:
        result["steps"] = {}
        for count in episodes["step_counts"]:
            found = measure(int(episodes["shot"]), int(episodes["step_episodes"]), int(count))
            result["steps"][str(count)] = [found.mean, found.half_width]
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
    if method.adapts_similarities:
        device = represented.device
        adapted = method.adapt(represented[episode.support.to(device)], episode.support_labels.to(device))
        found["adaptation"] = [
            {"layer": name, "before": before.cpu().tolist(), "after": after.cpu().tolist()}
            for name, before, after in method.adapted_similarities(adapted)
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


TASK = FewShot()
