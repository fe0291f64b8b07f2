"""One optimiser step of a classifier: batch, forward, backward, update, with nothing read back."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.data.augment import Normalise
from nsl.data.dataset import Dataset
from nsl.layers.similarity import has_penalty, similarity_penalty
from nsl.training.batches import make_batches
from nsl.training.distributed import own_range, world
from nsl.training.evaluate import check_logits
from nsl.training.execution import Execution
from nsl.training.graph import Captured
from nsl.training.optimiser import ScheduledSGD
from nsl.training.schedule import Recipe

Note = Callable[[Tensor, Tensor, Tensor], None]
"""Where a step leaves what it found: (number of the step int64 [1], loss, number of wrong guesses), on the device."""


class ClassifierStep:
    """A step, called with its number; on CUDA captured as a graph after the first few.

    Args:
        model: on its device, in training mode when called.
        dataset: its train images.
        recipe: the settings.
        optimiser: of the model's parameters.
        execution: parts of a batch, torch.compile, graph.
        seed: of batch order and augmentation.
        penalty: see `nsl.training.train`.

    Attributes:
        size: images of the whole batch.
        captured: whether a graph is made of the step.
        note: called in every step.

    Raises:
        ValueError: the parts are more than the batch has images.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        optimiser: ScheduledSGD,
        execution: Execution,
        *,
        seed: int,
        penalty: Callable[[nn.Module], Tensor] | None = None,
    ) -> None:
        self.model, self.recipe, self.optimiser = model, recipe, optimiser
        self.device = next(model.parameters()).device
        self.processes = world().size
        self.num_classes = dataset.num_classes
        self.size = min(recipe.batch_size, len(dataset.train_images))
        self.parts, own = execution.accumulate, own_range(self.size)
        if not 1 <= self.parts <= len(own):
            raise ValueError(
                f"a batch of {self.size} images cannot be computed by {self.processes} processes in {self.parts} parts "
                "each; choose a larger batch_size, or fewer of these."
            )
        self.batches = make_batches(dataset, recipe, seed, self.device, None if self.processes == 1 else own)
        self.normalise = Normalise(dataset.mean, dataset.std, self.device)
        self.penalties = [] if penalty is None else [penalty]
        if has_penalty(model) and penalty is not similarity_penalty:
            self.penalties.append(similarity_penalty)
        self.network: nn.Module = model
        if self.processes > 1:
            # Training reads no buffer that a step changes; evaluation shares them itself.
            devices = [self.device] if self.device.type == "cuda" else None
            self.network = nn.parallel.DistributedDataParallel(model, devices, broadcast_buffers=False)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.network) if execution.compiled else self.network
        self.captured = execution.graph and self.device.type == "cuda" and self.processes == 1
        self.note: Note = lambda clock, loss, wrong: None
        self.launch: Callable[[], None] = Captured(self.work, self.device) if self.captured else self.work

    def end(self) -> None:
        """Let go of the step's graph and of what it works on: they hold each other, and with them the card's memory."""
        self.launch = self.work_ended

    @staticmethod
    def work_ended() -> None:
        """In place of the work of a step that has ended."""
        raise RuntimeError("this training has ended")

    def __call__(self, iteration: int) -> None:
        """Take step `iteration` (from 0): first the host's part, then the device's."""
        self.optimiser.begin(iteration)
        self.batches.begin(iteration)
        self.launch()

    def work(self) -> None:
        """The device's part: everything between the choices and the updated parameters."""
        images, labels = self.batches.batch()
        inputs = self.normalise(images, channels_last=True)
        self.optimiser.zero_grad()
        value = torch.zeros((), dtype=torch.float64, device=self.device)
        wrong = torch.zeros((), dtype=torch.int64, device=self.device)
        parts = zip(inputs.tensor_split(self.parts), labels.tensor_split(self.parts))
        for part, (x, y) in enumerate(parts, start=1):
            # Processes exchange gradients with the last part.
            waits = isinstance(self.network, nn.parallel.DistributedDataParallel) and part < self.parts
            with self.network.no_sync() if waits else nullcontext():  # type: ignore[operator]
                loss, logits = self.loss(x, y, last=part == self.parts)
                loss.backward()
            value += loss.detach()
            wrong += (logits.detach().argmax(1) != y).sum()
        self.optimiser.step(self.batches.clock)
        self.note(self.batches.clock, value, wrong)

    def penalty(self) -> float:
        """The sum of the penalties of the network as it is; 0 where that is no number."""
        with torch.no_grad():
            value = sum(float(extra(self.model)) for extra in self.penalties)
        return value if math.isfinite(value) and value > 0 else 0.0

    def loss(self, images: Tensor, labels: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """Loss and logits of a part of the batch; the penalties belong to the last part."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            logits = self.forward(images)
        check_logits(logits, len(images), self.num_classes)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        if len(labels) * self.processes != self.size:
            # The mean over the batch, of parts that need not be of one size; gradients are averaged.
            loss = loss * (len(labels) * self.processes / self.size)
        for extra in self.penalties if last else ():
            loss = loss + extra(self.model)
        return loss, logits
