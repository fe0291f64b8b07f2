"""Semantic segmentation: a class at every pixel (paper 8)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from reproduce.tasks.task import Outcome, Task
from reproduce.verdicts.metrics import Metric

if TYPE_CHECKING:
    from nsl.data.scenes import SegmentationSet
    from reproduce.declare.runs import Run
    from reproduce.declare.shapes import Shape

MEAN_IOU = Metric("mean_iou", "mean IoU", True, 1.0)
PIXEL_ERROR = Metric("pixel_error", "wrong pixels", False, 1.0, mark="pixels")
#: Images that are evaluated at once.
BATCH = 100


class Segmentation(Task):
    """One fully convolutional network, trained with cross entropy at every pixel."""

    name = "segmentation"
    metric = MEAN_IOU
    more_metrics = (PIXEL_ERROR,)
    trial_data = "{validation} further scenes of the training digits"
    on_gpu = False

    def load(self, dataset: dict[str, Any], data: str | None, *, download: bool = True) -> SegmentationSet:
        from nsl.data.scenes import load_segmentation

        return load_segmentation(**dataset)

    def train(self, run: Run, dataset: SegmentationSet, checkpoint: Path, minutes: float, progress: bool) -> Outcome:
        import torch
        import torch.nn.functional as F

        import nsl
        from nsl.training import observe

        sizes = self.shape(run.dataset)
        torch.manual_seed(run.seed)
        network = _network(run, sizes.classes).to(memory_format=torch.channels_last)
        values = dataset.train_images.float().div(255).movedim(1, 0).flatten(1)
        mean, std = values.mean(1).view(3, 1, 1), values.std(1).view(3, 1, 1)

        def inputs(images: Any) -> Any:
            return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

        def loss(model: Any, chosen: Any, _step: int) -> Any:
            return F.cross_entropy(model(inputs(dataset.train_images[chosen])), dataset.train_masks[chosen].long())

        def predictions(model: Any) -> Any:
            parts = dataset.test_images.split(BATCH)
            return torch.cat([model(inputs(part)).argmax(1) for part in parts])

        def measure(model: Any) -> dict[str, Any]:
            found, truth = predictions(model), dataset.test_masks.long()
            ious = class_ious(found, truth, dataset.num_classes)
            present = [value for value in ious if value is not None]
            wrong = 100 * float((found != truth).float().mean())
            return {"mean_iou": sum(present) / len(present), "pixel_error": wrong, "class_iou": ious}

        keeping: Any = {"checkpoint": checkpoint, "minutes": minutes, "progress": progress}
        result = self.fitted(run, dataset, network, loss, measure, len(dataset.train_images), **keeping)
        observations: dict[str, Any] = {}
        if not result["diverged"]:
            moments = {"mean": mean.flatten().tolist(), "std": std.flatten().tolist()}
            seen: Any = SimpleNamespace(test_images=dataset.test_images, crop_size=None, **moments)
            observations = observe(network, seen)
            with torch.no_grad():
                first = network(inputs(dataset.test_images[:3])).argmax(1)
            observations |= {
                "images": dataset.test_images[:3].tolist(),
                "truth": dataset.test_masks[:3].tolist(),
                "predicted": first.tolist(),
            }
        cost = nsl.count_multiply_adds(network, sizes.image_size)
        return Outcome(result, nsl.count_parameters(network), observations, cost)

    def network(self, run: Run, sizes: Shape) -> Any:
        """The network and the mean of its logits over the pixels, which is what costs are counted and timed on."""
        from torch import nn

        return nn.Sequential(_network(run, sizes.classes), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _network(run: Run, classes: int) -> Any:
    from nsl.models.segmentation import SegmentationNetwork

    return SegmentationNetwork(classes, kind=run.model["name"], **run.options)


def class_ious(predicted: Any, truth: Any, classes: int) -> list[float | None]:
    """Intersection over union of every class over all pixels, in percent; None of a class that is in neither.

    Args:
        predicted, truth: int64 of one shape, values 0 .. classes - 1.
        classes: their number.
    """
    counts = (truth * classes + predicted).flatten().bincount(minlength=classes**2).view(classes, classes).double()
    both = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - both
    return [100 * float(b / e) if e > 0 else None for b, e in zip(both, either)]


TASK = Segmentation()
