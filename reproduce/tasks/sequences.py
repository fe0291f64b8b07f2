"""Recurrent networks on sequences: digits read row by row, and the adding problem (paper 1, 5.2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.tasks.task import Outcome, Task
from reproduce.verdicts.metrics import Metric, Record, tested_images

if TYPE_CHECKING:
    from nsl.data.sequences import SequenceSet
    from reproduce.declare.runs import Run
    from reproduce.declare.shapes import Shape

#: An error on the adding problem so many points below that without the marks is called no better.
NEAR = 2.0


def unmarked(length: int) -> float:
    """The error on the adding problem, in percent of the targets' variance, of who knows the numbers and not the marks.

    The best guess is then twice the mean of the numbers, which explains 2 / length of the variance.
    """
    return 100 * (1 - 2 / length)


def tested_sequences(record: Record) -> int | None:
    """The number of test sequences that are classified; None where the target is a number."""
    return None if record["config"]["dataset"]["name"] == "adding" else tested_images(record)


#: Percent of wrong classes; where the target is a number, the squared error in percent of the targets' variance.
ERROR = Metric("test_error", "test error", False, 1.0, tested=tested_sequences)
#: Largest norm of the gradient (Pascanu, Mikolov, Bengio, ICML 2013), the same for every cell.
CLIP = 1.0


class Sequences(Task):
    """One recurrent network, trained on sequences of one length."""

    name = "sequences"
    metric = ERROR
    samples = "sequences"
    trial_data = "{validation} training sequences held out"
    on_gpu = False

    def load(self, dataset: dict[str, Any], data: str | None, *, download: bool = True) -> SequenceSet:
        from nsl.data.sequences import load_sequences

        return load_sequences(**dataset)

    def train(self, run: Run, dataset: SequenceSet, checkpoint: Path, minutes: float, progress: bool) -> Outcome:
        import torch
        import torch.nn.functional as F

        import nsl

        sizes = self.shape(run.dataset)
        torch.manual_seed(run.seed)
        network = _network(run, dataset.channels, dataset.num_classes)
        variance = float((dataset.test_targets.float() - dataset.train_targets.float().mean()).square().mean())

        def loss(model: Any, chosen: Any, _step: int) -> Any:
            outputs, targets = model(dataset.train_inputs[chosen]), dataset.train_targets[chosen]
            if dataset.num_classes:
                return F.cross_entropy(outputs, targets)
            return (outputs[:, 0] - targets).square().mean()

        def measure(model: Any) -> dict[str, float]:
            outputs = model(dataset.test_inputs)
            if dataset.num_classes:
                wrong = (outputs.argmax(1) != dataset.test_targets).float().mean()
                return {"test_error": 100 * float(wrong)}
            squared = (outputs[:, 0] - dataset.test_targets).square().mean()
            return {"test_error": 100 * float(squared) / variance}

        keeping: Any = {"checkpoint": checkpoint, "minutes": minutes, "progress": progress, "clip": CLIP}
        result = self.fitted(run, dataset, network, loss, measure, len(dataset.train_inputs), **keeping)
        shown = self.network(run, sizes)
        observations = {} if result["diverged"] else _observed(network, dataset)
        cost = nsl.count_multiply_adds(shown, sizes.image_size)
        return Outcome(result, nsl.count_parameters(network), observations, cost)

    def metric_title(self, metric: Metric, slot: str) -> str:
        return "squared error, of the targets' variance" if slot == "adding" else super().metric_title(metric, slot)

    def idle(self, record: dict[str, Any]) -> str:
        data, error = record["config"]["dataset"], record["result"].get("test_error")
        if data["name"] == "adding" and error is not None and error > unmarked(data["length"]) - NEAR:
            return "no better than without the marks"
        return super().idle(record)

    def network(self, run: Run, sizes: Shape) -> Any:
        """The network behind a part that reads a sequence out of an image, which is what costs are counted on."""
        from torch import nn

        from reproduce.declare.shapes import CATALOGUE

        class Rows(nn.Module):
            def forward(self, images: Any) -> Any:
                return images[:, 0, :, :channels]

        channels = CATALOGUE[run.dataset["name"]].channels or sizes.image_size
        return nn.Sequential(Rows(), _network(run, channels, sizes.classes))


def _network(run: Run, channels: int, classes: int) -> Any:
    from nsl.models.sequence import SequenceNetwork

    return SequenceNetwork(channels, max(1, classes), cell=run.model["name"], **run.options)


def _observed(network: Any, dataset: SequenceSet) -> dict[str, Any]:
    """Of a dynamic cell the predicted masks over the first test sequence, step by step, and that sequence."""
    import torch

    predict = getattr(network.cell, "predict_similarity", None)
    if predict is None or not network.cell.structure.is_mask:
        return {}
    with torch.no_grad():
        inputs = dataset.test_inputs[:1]
        states = network.states(inputs)
        before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)
        masks = torch.stack([predict(inputs[:, t], before[:, t])[0] for t in range(dataset.length)])
    return {
        "sequence": [[round(float(v), 3) for v in row] for row in inputs[0]],
        "masks": [[round(float(v), 3) for v in row] for row in masks],
    }


TASK = Sequences()
