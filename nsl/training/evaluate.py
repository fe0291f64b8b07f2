"""Error and loss of a network over a test set, with nothing read back before the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.data.augment import Normalise, centre_crop
from nsl.data.dataset import Dataset, check_dataset
from nsl.models.modes import evaluating
from nsl.training.batches import split_on_device
from nsl.training.distributed import add_up, own_range, share_buffers
from nsl.training.graph import Captured
from nsl.training.ranges import check_counts
from nsl.training.schedule import PRECISIONS
from nsl.training.side_by_side import wait_for

EVALUATION_BATCH = 500


class Evaluation(NamedTuple):
    """What `evaluate` finds: percent of wrong first guesses, percent without the class among the first five (None
    with fewer than six classes), and the mean cross entropy in nats."""

    error: float
    top5_error: float | None
    loss: float


def check_logits(logits: Any, count: int, classes: int) -> None:
    """Raise ValueError unless these are logits [count, classes], or of more classes than the data have."""
    shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != count or logits.shape[1] < classes:
        raise ValueError(f"the network must give logits [{count}, {classes}] of so many images, got {shape}")


class Evaluator:
    """Measures a network on a set's test images as often as it is called; sums stay on the device until the end.

    Processes that share a training share the images, and find the same.

    Args:
        model: from images [B, 3, H, W] to logits [B, num_classes]; one without parameters works on the CPU.
        dataset: whose test images are meant.
        precision: "float32", or "bfloat16" for autocast.
        batch_size: images at a time.
        graph: on CUDA capture the work on a batch, whose tensors then lie where they lie.

    Raises:
        TypeError: the data are no data set.
        ValueError: an unknown precision, a batch of no image, or (when called) logits of fewer classes than the data
            have.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        precision: str = "float32",
        batch_size: int = EVALUATION_BATCH,
        graph: bool = False,
    ) -> None:
        self.model, self.dataset, self.precision, self.batch_size = model, dataset, precision, batch_size
        check_dataset(dataset)
        check_counts("evaluation", self, ("batch_size",))
        if precision not in PRECISIONS:
            raise ValueError(f"evaluation: precision must be one of {list(PRECISIONS)}, got {precision!r}")
        self.device = next(model.parameters(), torch.empty(0, device="cpu")).device
        self.normalise = Normalise(dataset.mean, dataset.std, self.device)
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._whole: Callable[[], None] | None = None
        if graph and self.device.type == "cuda":
            size = centre_crop(dataset.test_images[:1], dataset.crop_size).shape[1:]
            images = torch.empty(batch_size, *size, dtype=torch.uint8, device=self.device)
            labels = torch.empty(batch_size, dtype=torch.int64, device=self.device)
            self._inputs = images, labels
            self._whole = Captured(lambda: self._measure(images, labels), self.device)

    def end(self) -> None:
        """Let go of the captured work, which holds this object and the card's memory; batches are then measured as they
        are."""
        self._whole = None

    def _measure(self, images: Tensor, labels: Tensor) -> None:
        """Add loss, errors and top-5 errors of a batch, uint8 [B, 3, S, S] and [B], to the sums."""
        inputs = self.normalise(images, channels_last=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits = self.model(inputs)
        check_logits(logits, len(images), self.dataset.num_classes)
        logits = logits.float()
        lost = ~logits.isfinite().all(1)  # logits that are no numbers are no answer
        found = [F.cross_entropy(logits, labels, reduction="sum"), ((logits.argmax(1) != labels) | lost).sum()]
        if self.dataset.num_classes > 5:
            found.append(((logits.topk(5).indices != labels[:, None]).all(1) | lost).sum())
        for own, value in zip(self.sums, found):
            own.add_(value)

    @torch.no_grad()
    def __call__(self) -> Evaluation:
        """Error, top-5 error and loss over the whole test set, in evaluation mode."""
        with evaluating(self.model):
            return self._over_all_images()

    def _over_all_images(self) -> Evaluation:
        share_buffers(self.model)
        self.sums.zero_()
        everything, classes = split_on_device(self.dataset, "test", self.device)
        own = own_range(len(classes))
        for start in range(own.start, own.stop, self.batch_size):
            stop = min(start + self.batch_size, own.stop)
            images, labels = centre_crop(everything[start:stop], self.dataset.crop_size), classes[start:stop]
            if self._whole is not None and self._inputs is not None and len(labels) == self.batch_size:
                self._inputs[0].copy_(images)
                self._inputs[1].copy_(labels)
                self._whole()
            else:
                self._measure(images.to(self.device), labels.to(self.device))
        count = len(classes)
        loss, errors, errors5 = wait_for(add_up(self.sums))
        top5 = 100.0 * errors5 / count if self.dataset.num_classes > 5 else None
        return Evaluation(100.0 * errors / count, top5, loss / count)


def evaluate(
    model: nn.Module, dataset: Dataset, precision: str = "float32", batch_size: int = EVALUATION_BATCH
) -> Evaluation:
    """Error, top-5 error and loss over the whole test set, in evaluation mode; arguments as for `Evaluator`."""
    return Evaluator(model, dataset, precision, batch_size)()
