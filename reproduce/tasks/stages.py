"""From a pretrained network: train M with the backbone fixed, then finetune everything (paper 4), at one budget.

"Fixed" are kernels, classifier and batch norm's scale and shift; its running averages follow the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.tasks import named
from reproduce.tasks.task import Outcome, Task
from reproduce.verdicts.metrics import Metric, tested_images

if TYPE_CHECKING:
    from nsl.data import Dataset
    from reproduce.declare.experiments import Method
    from reproduce.declare.runs import Run
    from reproduce.declare.shapes import Shape

ERROR = Metric("test_error", "test error", False, 0.25, tested=tested_images)

#: The stages of a row: the plain network's training, then similarity alone, everything, or both.
ROUTES = {
    "finetune": ("pretrain", "finetune", "finetune"),
    "similarity": ("pretrain", "similarity", "similarity"),
    "three": ("pretrain", "similarity", "finetune"),
}
#: The network of `nsl.create_model` that a row ends as, by the row's model.
NETWORKS = {"cnn9": "cnn9", "static": "nsn9_static_diagonal", "dynamic": "nsn9_dynamic_diagonal"}
#: Every stage has a third of the iterations; those after the first start from this fraction of the learning rate.
LATER_RATE = 0.3


class Stages(Task):
    """CNN-9 in one stage, then what the row's route says in two more; ``model`` is the kind of similarity."""

    name = "stages"
    metric = ERROR

    def model(self, method: Method, options: dict[str, Any]) -> dict[str, Any]:
        if options.get("route") not in ROUTES:
            raise ValueError(f"route of row {method.key!r} must be one of {', '.join(ROUTES)}.")
        if method.model not in NETWORKS:
            raise ValueError(f"model of row {method.key!r} must be one of {', '.join(NETWORKS)}.")
        return {"name": method.model, **options}

    def recipe(self, method: Method, declared: dict[str, Any]) -> dict[str, Any]:
        return {**declared, "later_rate": LATER_RATE}

    def shortened(self, run: Run, steps: int) -> Run:
        return super().shortened(run, 3 * steps)

    def noise(self, run: Run, steps: int) -> Any:
        return named("classification").noise(run, steps)

    def train(self, run: Run, dataset: Dataset, checkpoint: Path, minutes: float, progress: bool) -> Outcome:
        """The stages one after the other; each keeps a checkpoint of its own beside ``checkpoint``."""
        import torch

        import nsl
        from nsl.training import Execution, Recipe, observe
        from nsl.training import train as train_network
        from nsl.training.export import save_model

        torch.manual_seed(run.seed)
        model = _backbone(run, dataset.num_classes, dataset.image_size)
        random = torch.get_rng_state()
        recipe = {name: value for name, value in run.recipe.items() if name != "later_rate"}
        recipe["iterations"] //= 3
        stages: list[dict[str, Any]] = []
        for number, stage in enumerate(ROUTES[run.model["route"]]):
            if number == 1:
                # Drawn as if no stage were between, and on the CPU: on a GPU other trainings draw and seed meanwhile.
                torch.set_rng_state(random)
                model = _with_similarity(model.cpu(), run)
                recipe["learning_rate"] *= run.recipe["later_rate"]
            for parameter in model.parameters():
                parameter.requires_grad_(True)
            if stage == "similarity":
                nsl.freeze_backbone(model, train_classifier=False)
            found = train_network(
                model,
                dataset,
                Recipe(**recipe),
                seed=run.seed + 1000 * number,
                execution=Execution(
                    checkpoint=checkpoint.with_name(f"{checkpoint.stem}.{number}.pt"),
                    checkpoint_minutes=minutes,
                    progress=progress,
                    description=f"{run.name}, {stage}",
                    keep_last=True,
                ),
            ).as_dict()
            stages.append({"stage": stage, **found})
            if found["diverged"]:
                break
        last = stages[-1]
        curve = [
            {**point, "iteration": point["iteration"] + number * recipe["iterations"], "stage": stage["stage"]}
            for number, stage in enumerate(stages)
            for point in stage["curve"]
        ]
        result = {
            **last,
            "curve": curve,
            "train_seconds": sum(stage["train_seconds"] for stage in stages),
            "evaluate_seconds": sum(stage["evaluate_seconds"] for stage in stages),
            "stages": [{"stage": stage["stage"], "test_error": stage["test_error"]} for stage in stages],
        }
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        parameters, cost = nsl.count_parameters(model), nsl.count_multiply_adds(model, dataset.image_size)
        if last["diverged"]:
            return Outcome(result, parameters, {}, cost)

        def keep(path: Path, facts: dict[str, Any]) -> None:
            save_model(path, model, NETWORKS[run.model["name"]], {"width": run.model["width"]}, dataset, facts)

        return Outcome(result, parameters, observe(model, dataset), cost, keep)

    def images(self, recipe: dict[str, Any]) -> int:
        """Of three stages of equally many whole steps."""
        return super().images({**recipe, "iterations": recipe["iterations"] // 3 * 3})

    def network(self, run: Run, sizes: Shape) -> Any:
        return _with_similarity(_backbone(run, sizes.classes, sizes.image_size), run)


def _backbone(run: Run, classes: int, image_size: int) -> Any:
    import nsl

    return nsl.create_model("cnn9", classes, width=run.model["width"], image_size=image_size)


def _with_similarity(model: Any, run: Run) -> Any:
    """The network with M = I in its nine convolutions; as it is where the row's model is the plain one."""
    import torch

    import nsl
    from nsl.layers.predictors import hidden_width

    kind = run.model["name"]
    if kind == "cnn9":
        return model
    hidden = hidden_width("diagonal", int(run.model["width"]))
    options: dict[str, Any] = {} if kind == "static" else {"predictor_options": {"hidden": hidden}}
    model.stages = nsl.convert(model.stages, kind=kind, similarity="diagonal", **options)
    return model.to(memory_format=torch.channels_last)


TASK = Stages()
