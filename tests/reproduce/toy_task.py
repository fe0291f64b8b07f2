"""A task that no other file knows: the network is a random guess, which gets better with its width."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from reproduce.declare.runs import Run
from reproduce.declare.shapes import Shape
from reproduce.tasks.task import Outcome, Task
from reproduce.verdicts.metrics import Metric


class Toy(Task):
    """Guesses right more often the wider it is."""

    name = "toy"
    metric = Metric("hits", "share of hits", True, 0.5)

    def load(self, dataset: dict[str, Any], data: str | None, *, download: bool = True) -> Any:
        return SimpleNamespace(fingerprint=f"toys of {dataset['size']} pixels")

    def train(self, run: Run, dataset: Any, checkpoint: Path, minutes: float, progress: bool) -> Outcome:
        diverged = run.model["name"] == "broken"
        hits = None if diverged else 50.0 + run.model["width"] + 0.1 * run.seed
        how = {"diverged": diverged, "divergence": "as it always does"}
        result = {"hits": hits, "curve": [], "train_seconds": 1.0, **how}
        return Outcome(result, 3 * run.model["width"], {})

    def shape(self, dataset: dict[str, Any]) -> Shape:
        size = int(dataset["size"])
        return Shape(size, 2, 100, 10, size)

    def network(self, run: Run, sizes: Shape) -> Any:
        from torch import nn

        return nn.Conv2d(3, run.model["width"], 1)


TASK = Toy()
