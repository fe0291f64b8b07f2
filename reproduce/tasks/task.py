"""The one interface between a table and what its runs do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from reproduce.show.columns import (
    Column,
    claim_columns,
    measured_columns,
    row_columns,
    seconds_column,
    seed_columns,
    size_column,
)

if TYPE_CHECKING:
    from reproduce.declare.experiments import Method
    from reproduce.declare.runs import Run
    from reproduce.declare.shapes import Shape
    from reproduce.show.rows import Table
    from reproduce.verdicts.metrics import Metric

#: Passes of a training step an image: forward, and backward for inputs and for weights.
STEP_PASSES = 3


@dataclass(frozen=True)
class Outcome:
    """What training a run hands back.

    ``result`` has the task's metrics by their names (``nan`` or absent where the run diverged), ``diverged``,
    ``train_seconds``, and whatever else the record keeps; ``multiply_adds`` are those of one image. ``keep`` writes
    what was trained to a file, with JSON-ready facts about it; None where nothing was, as of a run that diverged.
    """

    result: dict[str, Any]
    parameters: int
    observations: dict[str, Any]
    multiply_adds: int | None = None
    keep: Callable[[Path, dict[str, Any]], None] | None = None


class Task(ABC):
    """What the runs of a kind of table do, what is measured, and which columns show it.

    A new table with a new task is two new files, and no other file changes:

    * ``reproduce/tasks/NAME.py`` with a subclass of this class and, at its end, ``TASK = ThatClass()``. It must have
      ``name`` (that of the file, hyphens for underscores), ``metric``, and :meth:`train`. The rest has defaults, those
      of one network of ``nsl.create_model`` trained with one ``nsl.training.Recipe`` on a set of ``nsl.data.load``:
      override what differs. Import torch and ``nsl`` inside the methods: ``status`` and ``tables`` import this file.
    * ``reproduce/declare/experiments/beyond_NAME.toml`` (``tableN.toml`` are the paper's six), with
      ``task = "NAME"``, rows and claims as in the others, and, under ``[profiles.demo.slot.NAME]`` (and ``cpu``,
      ``paper``), what the profiles run for it: ``data``, ``recipe`` and whatever differs from the profile (``width``,
      ``seeds``, ``threads``, ``jobs``, ``same_data``, ``same_width``; ``method.KEY`` for single rows). A table on a
      slot that exists, such as ``cifar10``, needs none of it.

    A notebook of the table's name (``notebooks/beyond_NAME.py``) is executed where there is one. The name of the task
    is part of every run's identity, and so is all that :meth:`model` and :meth:`recipe` return: what determines the
    numbers belongs there. ``tests/reproduce/test_own_table.py`` adds a task this way, from run to summary.

    Attributes:
        name: as ``task`` in a table's declaration.
        metric: what rows are compared by; a key of ``Outcome.result``. Its ``episodes`` says what noise is counted
            over.
        more_metrics: others that a table may name under ``metrics``, or a claim under ``metric``.
        samples: what it trains on.
        trial_data: the data that recipes are chosen on, in words; ``{validation}`` is the declared number.
        one_recipe: whether all methods of a table are trained alike, so that trials of some choose for all.
        on_gpu: whether :meth:`train` works on a CUDA device where there is one; the records say where it worked.
    """

    name: ClassVar[str]
    metric: ClassVar[Metric]
    more_metrics: ClassVar[tuple[Metric, ...]] = ()
    samples: ClassVar[str] = "images"
    trial_data: ClassVar[str] = "{validation} training images held out"
    one_recipe: ClassVar[bool] = True
    on_gpu: ClassVar[bool] = True

    # What is declared.

    def model(self, method: Method, options: dict[str, Any]) -> dict[str, Any]:
        """The model's part of a run's configuration; ``options`` are the row's, with the slot's ``width`` first."""
        return {"name": method.model, **options}

    def recipe(self, method: Method, declared: dict[str, Any]) -> dict[str, Any]:
        """The recipe's part of a run's configuration, of what the profile declares for the row."""
        return declared

    def default(self, run: Run, option: str) -> Any:
        """The value of a model's option that the run does not name; None where it is not known here."""
        return None

    def images(self, recipe: dict[str, Any]) -> int:
        """Training images that a recipe processes: the budget."""
        return int(recipe["iterations"]) * int(recipe["batch_size"])

    def held_out(self, run: Run, declared: dict[str, Any]) -> Run:
        """The run as a trial of a recipe, measured on data that no table reports."""
        return replace(run, dataset={**run.dataset, "validation": int(declared["validation"])})

    def idle(self, record: dict[str, Any]) -> str:
        """What says that a training did nothing of what its row is about, in words; empty where nothing does."""
        return ""

    def remark(self, records: Sequence[dict[str, Any]]) -> str:
        """What a row's records have observed of the part that it is about, in words; empty where nothing."""
        return ""

    # What is executed.

    def load(self, dataset: dict[str, Any], data: str | None, *, download: bool = True) -> Any:
        """The data set that a profile declares (``name`` and options); it has a ``fingerprint``.

        Raises:
            nsl.data.DataError: missing or damaged data, or an unknown set or option.
        """
        import nsl.data

        options = {name: value for name, value in dataset.items() if name != "name"}
        return nsl.data.load(dataset["name"], Path(data) if data else None, download=download, **options)

    @abstractmethod
    def train(self, run: Run, dataset: Any, checkpoint: Path, minutes: float, progress: bool) -> Outcome:
        """Train the run from its seed and measure it.

        Args:
            run: what to train.
            dataset: what :meth:`load` returned.
            checkpoint: where to keep the training's state, every ``minutes``; a training that finds one goes on from
                it, to the same numbers. One of several parts keeps them beside it as ``STEM.PART.pt``. All go when
                the record is stored.
            minutes: at most so much work is lost with a killed process.
            progress: whether to show a bar.
        """

    def fitted(
        self, run: Run, dataset: Any, model: Any, loss: Any, measure: Any, count: int, **options: Any
    ) -> dict[str, Any]:
        """What ``nsl.training.fit.fit`` makes of its arguments with the run's name, recipe and seed.

        Raises:
            ValueError: the recipe has a setting that this loop leaves to the loss, which does not look at it.
        """
        from nsl.training import Recipe
        from nsl.training.fit import fit

        for name, usual in (("precision", "float32"), ("label_smoothing", 0.0), ("augment", "none")):
            if run.recipe.get(name, usual) != usual:
                raise ValueError(
                    f"{run.name}: {name} is {run.recipe[name]!r}, which the task {self.name} does not have; "
                    f"declare {usual!r}."
                )

        identity = [run.model, dataset.fingerprint]
        more: dict[str, Any] = {"seed": run.seed, "identity": identity, "description": run.name, **options}
        return fit(model, loss, measure, count, Recipe(**run.recipe), **more)

    def shares(self, run: Run) -> str:
        """Runs with equal answers wait for each other, because their first training is the same one."""
        return run.key

    # What it costs.

    def shape(self, dataset: dict[str, Any]) -> Shape:
        """The sizes of the data set that a profile declares, known without having it."""
        from reproduce.declare.shapes import shape

        return shape(dataset)

    def network(self, run: Run, sizes: Shape) -> Any:
        """The run's network as it is trained, randomly initialised."""
        import nsl

        return nsl.create_model(run.model["name"], sizes.classes, image_size=sizes.image_size, **run.options)

    def deployed(self, network: Any) -> Any:
        """The part of :meth:`network` whose parameters and multiply-adds claims count."""
        return network

    def passes(self, run: Run, sizes: Shape) -> int:
        """Images through the network, once forward each: three a training image, one a test image."""
        return STEP_PASSES * run.images + int(run.recipe["evaluations"]) * sizes.test

    def shared_images(self, run: Run) -> int:
        """Training images of the training that all runs of equal :meth:`shares` start from."""
        return 0

    def training(self, run: Run) -> tuple[int, str]:
        """Images in the network at once while it trains, and the precision."""
        return int(run.recipe["batch_size"]), str(run.recipe.get("precision", "float32"))

    def shortened(self, run: Run, steps: int) -> Run:
        """The run with so many steps in place of its budget; batches and networks keep their sizes."""
        return replace(run, recipe={**run.recipe, "iterations": steps, "evaluations": 1})

    def noise(self, run: Run, steps: int) -> Any:
        """Random data with the sizes of the run's data set, enough for so many steps and one evaluation."""
        raise ValueError(f"The task {self.name!r} makes no noise in place of data that are absent; name their folder.")

    # What is shown.

    def metric_title(self, metric: Metric, slot: str) -> str:
        """How a metric is written on the axis of a data set's picture, before its unit, percent."""
        return metric.title

    def columns(self, table: Table) -> tuple[Column, ...]:
        """The columns of the table, in order, in its CSV file and in Markdown; the paper's only where it has values."""
        metrics = (self.metric, *table.experiment.metrics)
        measured = [column for metric in metrics for column in measured_columns(metric)]
        if not any(method.paper for method in table.experiment.methods):
            measured = [column for column in measured if not column.name.startswith("paper")]
        return (
            *row_columns(self.metric),
            *measured,
            *seed_columns(self.metric),
            size_column(),
            seconds_column(),
            *claim_columns(),
        )

    def files(self, table: Table) -> dict[str, str]:
        """Contents of further CSV files, by what follows the table's name in theirs."""
        return {}

    def scope(self, table: Table) -> str:
        """What the profile trains on and how much, beside the paper, in a sentence or two."""
        parts = [
            f"{slot.title}: {self.images(slot.recipe):,} training {self.samples} a run, the same for every method"
            for slot in table.slots
        ]
        return f"Profile {table.profile.name}. {'; '.join(parts)}."
