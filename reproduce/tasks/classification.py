"""Tables 1 to 5: train a network on labelled images, measure its test error, observe its M."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from reproduce.declare.runs import model_config, model_defaults
from reproduce.show.cells import number
from reproduce.show.columns import (
    Column,
    claim_columns,
    count,
    measured_columns,
    row_columns,
    seconds_column,
    seed_columns,
    size_column,
)
from reproduce.tasks.task import Outcome, Task
from reproduce.verdicts.metrics import Metric, tested_images

if TYPE_CHECKING:
    from nsl.data import Dataset
    from reproduce.declare.experiments import Method
    from reproduce.declare.profiles import Slot
    from reproduce.declare.runs import Run
    from reproduce.show.rows import Table

#: The margin just holds the paper's own largest legible gap between DNS and UNS, 0.24 (Table 4).
TEST_ERROR = Metric("test_error", "test error", False, 0.25, tested=tested_images)
TOP5_ERROR = Metric("test_top5_error", "top-5 error", False, 0.25, mark="top-5", tested=tested_images)

#: A part of all gates that is called none, and a spread over images of a mixture's weights.
FEW_GATES, SAME_MIXTURE = 0.01, 0.01

#: Images of a rehearsal's evaluation.
NOISE_IMAGES = 128


class Classification(Task):
    """One training with one recipe; its noise is counted over seeds."""

    name = "classification"
    metric = TEST_ERROR
    more_metrics: ClassVar[tuple[Metric, ...]] = (TOP5_ERROR,)

    def model(self, method: Method, options: dict[str, Any]) -> dict[str, Any]:
        return model_config(method.model, options)

    def default(self, run: Run, option: str) -> Any:
        return model_defaults(run.model["name"], run.model).get(option)

    def idle(self, record: dict[str, Any]) -> str:
        observed = record["observations"]
        layers = [layer for kind in ("static", "dynamic") for layer in observed.get(kind, ())]
        shapes = [layer["shape"] for layer in layers if "shape" in layer]
        if shapes and all(all(shape) for shape in shapes):
            return "D keeps all taps"
        model, others = record["config"]["model"]["name"], observed.get("other", ())
        gates = [share for layer in others for share in layer["mean"]] if model == "selected9" else []
        if gates and sum(0 < share < 1 for share in gates) < FEW_GATES * len(gates):
            return "gates are the same for all images"
        if model == "mixture9" and all(spread < SAME_MIXTURE for layer in others for spread in layer["std"]):
            return "the mixture is the same for all images"
        return ""

    def train(self, run: Run, dataset: Dataset, checkpoint: Path, minutes: float, progress: bool) -> Outcome:
        import torch

        import nsl
        from nsl.training import Execution, Recipe, train
        from nsl.training.export import save_model

        torch.manual_seed(run.seed)
        model = nsl.create_model(run.model["name"], dataset.num_classes, image_size=dataset.image_size, **run.options)
        trained = train(
            model,
            dataset,
            Recipe(**self.schedule(run)),
            seed=run.seed,
            execution=Execution(
                checkpoint=checkpoint, checkpoint_minutes=minutes, progress=progress, description=run.name
            ),
        )
        more, observations = ({}, {}) if trained.diverged else self.examined(run, model, dataset)
        parameters, multiply_adds = nsl.count_parameters(model), nsl.count_multiply_adds(model, dataset.image_size)
        result = trained.as_dict() | more
        if trained.diverged:
            return Outcome(result, parameters, observations, multiply_adds)

        def keep(path: Path, facts: dict[str, Any]) -> None:
            save_model(path, model, run.model["name"], run.options, dataset, facts)

        return Outcome(result, parameters, observations, multiply_adds, keep)

    def schedule(self, run: Run) -> dict[str, Any]:
        """The part of a run's recipe that trains the network: all of it."""
        return run.recipe

    def examined(self, run: Run, model: Any, dataset: Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a network shows after its training: further results, and observations."""
        from nsl.training import observe

        return {}, observe(model, dataset)

    def noise(self, run: Run, steps: int) -> Dataset:
        import torch

        from nsl.data import make_dataset

        sizes = self.shape(run.dataset)
        random = torch.Generator().manual_seed(0)
        stored, count = sizes.stored_size or sizes.image_size, steps * int(run.recipe["batch_size"])

        def part(count: int) -> tuple[Any, Any]:
            images = torch.randint(0, 256, (count, 3, stored, stored), dtype=torch.uint8, generator=random)
            return images, torch.arange(count) % sizes.classes

        classes = [f"class {i}" for i in range(sizes.classes)]
        made = make_dataset(f"{run.dataset['name']} (noise)", *part(count), *part(NOISE_IMAGES), classes)
        return replace(made, crop_size=sizes.image_size) if stored != sizes.image_size else made

    def columns(self, table: Table) -> tuple[Column, ...]:
        more = table.experiment.metrics
        name = "top-1 error" if more else "error"
        return (
            *row_columns(TEST_ERROR),
            *measured_columns(TEST_ERROR, f"paper, {name} %", "ours, top-1" if more else "ours, error %"),
            *(column for metric in more for column in _top5(metric)),
            *seed_columns(TEST_ERROR),
            _TRAIN_ERROR,
            size_column(),
            *([_MULTIPLY_ADDS] if more else []),
            seconds_column(),
            *claim_columns(),
        )

    def scope(self, table: Table) -> str:
        slots = table.slots
        parts = [
            f"{slot.title}: {slot.recipe['iterations']} iterations of {slot.recipe['batch_size']} images "
            f"({self.images(slot.recipe):,} images, {100 * slot.budget:.3g} % of the paper's), "
            f"the same for every method{_precision(table, slot)}"
            for slot in slots
        ]
        shown = ", ".join(map(str, sorted({slot.width for slot in slots})))
        if not all(slot.same_width for slot in slots):
            width = f", a network of width {shown} (full: 32)"
        else:  # tables beyond the paper have networks that it does not have
            width = f", networks of full size ({_widths_of(table)})" if isinstance(table.experiment.table, int) else ""
        return f"Profile {table.profile.name}{width}. {'; '.join(parts)}."


def _widths_of(table: Table) -> str:
    """Where the widths of full size are from: the paper's appendix A is not in our copy."""
    ours = any(method.model.startswith("cnn10") for method in table.experiment.methods)
    return "widths that meet the paper's counts of parameters" if ours else "the widths of the authors' release"


def _precision(table: Table, slot: Slot) -> str:
    """In what the methods trained, where that is not float32."""
    found = table.profile.precisions(slot.name, *table.experiment.methods)
    if len(found) > 1:
        return " but for the precision, which their names say"
    return "" if found == {"float32"} else f", in {found.pop()}"


#: Over the augmented batches of the last stretch between evaluations (`nsl.training.loop.TrainResult`).
_TRAIN_ERROR = Column(lambda row: number(row.mean_of("train_error")), "train_error", "training error %")
_MULTIPLY_ADDS = Column(lambda row: count(row.multiply_adds), "multiply_adds", "multiply-adds an image")


def _top5(metric: Metric) -> tuple[Column, ...]:
    return measured_columns(metric, f"paper, {metric.title} %", f"ours, {metric.mark}", level=False)


TASK = Classification()
