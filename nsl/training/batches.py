"""Augmented training batches: every choice from the seed and the step's number, the work where the network is.

The choices (which images, which windows, which are mirrored) are drawn on the CPU, so that they are the same for every
device, and go to the device for a stretch of steps at once. `begin` is the host's part of a step, `batch` the device's:
it reads the step's number from a tensor, makes no tensor of the host's and reads nothing back, so that it can be
captured as a part of a CUDA graph.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from nsl.data import augment as augmentation
from nsl.data.augment import Choices
from nsl.data.dataset import Dataset
from nsl.training.execution import pinned, stretch, upload
from nsl.training.schedule import Recipe

#: Training images up to this many bytes lie on the device as a whole; more are gathered on the host.
DEVICE_BYTES = 8 << 30
#: Batches that the host gathers ahead of the device where the images stay with the host.
AHEAD = 4
#: Numbers of the streams of random choices.
_ORDER, _AUGMENT = 1, 2


def generator(seed: int, *stream: int) -> torch.Generator:
    """A CPU generator for one purpose: streams are told apart by their numbers, not by their order."""
    state = np.random.SeedSequence([seed, *stream]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed((int(state[0]) << 31) ^ int(state[1]))


def draw(
    kind: str, random: torch.Generator, total: int, stored: tuple[int, int], crop_size: int | None
) -> Choices:
    """The choices of a batch of `total` images of stored height and width, each [total, ...], on the CPU."""
    if kind == "window_flip":
        if crop_size is None or crop_size >= min(stored):
            raise ValueError(
                f"augment='window_flip' needs stored images larger than the network's input, these are {stored[0]} x "
                f"{stored[1]} for an input of {crop_size or stored[1]}; use 'crop_flip', which pads them."
            )
        return augmentation.window_flip_choices(random, total, stored, crop_size)
    if kind == "resized_crop":
        return augmentation.resized_crop_choices(random, total)
    return () if kind == "none" else augmentation.crop_flip_choices(random, total, flip=kind == "crop_flip")


def carry_out(images: Tensor, kind: str, choices: Choices | list[Tensor], crop_size: int | None) -> Tensor:
    """Augment images [B, 3, H, W] by choices [B, ...] on their device, see `draw`."""
    if kind == "window_flip":
        return augmentation.window_flip_by(images, *choices, size=crop_size or images.shape[-1])
    if kind == "resized_crop":
        return augmentation.resized_crop_by(images, *choices, size=crop_size)
    images = augmentation.centre_crop(images, crop_size)
    return images if kind == "none" else augmentation.crop_flip_by(images, *choices)


class DeviceBatches:
    """Batches of images that lie on the device, or on the CPU for a training there.

    Each epoch is a fresh permutation; the incomplete last batch of an epoch is left out (a set smaller than a batch is
    one batch).

    Args:
        images: uint8 [N, 3, H, W].
        labels: int64 [N].
        recipe: batch size, augmentation and number of steps.
        seed: of order and augmentation.
        crop_size: height and width of the network's input, when it is cut out of larger images.
        device: where the batches are made; None: where the images are.
        own: which images of every batch to make, as they are in the whole batch, in one run; None: all.
        every: steps whose choices go over at once.

    Attributes:
        clock: int64 [1] on the device, the number of the step that `begin` was called for.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        recipe: Recipe,
        seed: int,
        *,
        crop_size: int | None = None,
        device: torch.device | None = None,
        own: range | None = None,
        every: int | None = None,
    ) -> None:
        self.device = images.device if device is None else device
        self.recipe, self.seed, self.crop_size = recipe, seed, crop_size
        self.size = min(recipe.batch_size, len(images))
        self.count, self.stored = len(images), (images.shape[2], images.shape[3])
        self.own = range(self.size) if own is None else own
        if self.own.step != 1 or not 0 <= self.own.start <= self.own.stop <= self.size:
            raise ValueError(f"own must be a run of places within the batch of {self.size} images, got {self.own}")
        self.every = stretch(self.device) if every is None else every
        self.clock = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._orders: dict[int, Tensor] = {}
        self._rows: list[Tensor] = []
        self._begun, self._next = -1, (-1, [torch.empty(0, device="cpu")])
        self._take(images, labels)

    def _take(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.to(self.device), labels.to(self.device)

    def positions(self, iteration: int) -> Tensor:
        """The step's images in the set, int64 [size] on the CPU; asked for in any order, cheap in rising order."""
        epoch, place = divmod(iteration, self.count // self.size)
        if epoch not in self._orders:
            order = torch.randperm(self.count, generator=generator(self.seed, _ORDER, epoch), device="cpu")
            # Of the epoch before, too: at a boundary steps of both are asked for in turn.
            self._orders = {known: self._orders[known] for known in self._orders if known == epoch - 1} | {epoch: order}
        return self._orders[epoch][place * self.size : (place + 1) * self.size]

    def choices(self, iteration: int) -> Choices:
        """Everything that is drawn for a step: positions [B] and what the augmentation takes, [B, ...] each."""
        random = generator(self.seed, _AUGMENT, iteration)
        drawn = draw(self.recipe.augment, random, self.size, self.stored, self.crop_size)
        return tuple(part[self.own.start : self.own.stop] for part in (self.positions(iteration), *drawn))

    def _drawn(self, start: int) -> list[Tensor]:
        """The choices of the stretch's steps from `start` on, [steps, B, ...] each, ready to go over."""
        stop = min(start - start % self.every + self.every, self.recipe.iterations)
        return [pinned(torch.stack(parts), self.device) for parts in zip(*map(self.choices, range(start, stop)))]

    def begin(self, iteration: int) -> None:
        """The host's part of a step; steps come in rising order, and nothing waits for the device."""
        row = iteration % self.every
        if iteration // self.every != self._begun // self.every:
            drawn = self._next[1] if self._next[0] == iteration else self._drawn(iteration)
            if not self._rows:  # the addresses stay: a captured graph reads from them
                self._rows = [part.new_empty((self.every, *part.shape[1:]), device=self.device) for part in drawn]
            for own, part in zip(self._rows, drawn):
                own[row : row + len(part)].copy_(part, non_blocking=True)
        if self.every > 1 and row == self.every - 1 and iteration + 1 < self.recipe.iterations:
            # Drawn while the device is busy with the steps before.
            self._next = iteration + 1, self._drawn(iteration + 1)
        self._begun = iteration
        self.clock.fill_(iteration)

    def batch(self) -> tuple[Tensor, Tensor]:
        """The device's part: uint8 images [B, 3, S, S] and labels int64 [B] of the step that was begun."""
        chosen, *drawn = self._choices_there()
        images = self.images.index_select(0, chosen)
        return carry_out(images, self.recipe.augment, drawn, self.crop_size), self.labels.index_select(0, chosen)

    def _choices_there(self) -> list[Tensor]:
        row = self.clock % self.every
        return [part.index_select(0, row)[0] for part in self._rows]


class HostBatches(DeviceBatches):
    """Batches of images that are too many for the device, augmented there.

    The host gathers them in a thread of its own, some batches ahead, into pinned memory, and the copy runs beside the
    steps.
    """

    def _take(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._coming: dict[int, Future[list[Tensor]]] = {}
        self._copies: Any = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._there: list[Tensor] = []

    def _gather(self, positions: Tensor) -> list[Tensor]:
        parts = self.images.index_select(0, positions), self.labels.index_select(0, positions)
        return [pinned(part, self.device) for part in parts]

    def begin(self, iteration: int) -> None:
        super().begin(iteration)
        for step in range(iteration, min(iteration + AHEAD, self.recipe.iterations)):
            if step not in self._coming:
                positions = self.positions(step)[self.own.start : self.own.stop]
                self._coming[step] = self._thread.submit(self._gather, positions)
        parts = self._coming.pop(iteration).result()
        if not self._there:
            self._there = [torch.empty_like(part, device=self.device) for part in parts]
        if self._copies is None:
            staged = [upload(part, self.device) for part in parts]
        else:
            present = torch.cuda.current_stream(self.device)
            with torch.cuda.stream(self._copies):
                staged = [part.to(self.device, non_blocking=True) for part in parts]
            present.wait_stream(self._copies)
            for part in staged:
                part.record_stream(present)
        for own, part in zip(self._there, staged):
            own.copy_(part)

    def batch(self) -> tuple[Tensor, Tensor]:
        _, *drawn = self._choices_there()
        return carry_out(self._there[0], self.recipe.augment, drawn, self.crop_size), self._there[1].clone()


def make_batches(
    dataset: Dataset, recipe: Recipe, seed: int, device: torch.device, own: range | None = None
) -> DeviceBatches:
    """The training batches of a set: from the device where it has room (`DEVICE_BYTES`), else from the host."""
    kind = DeviceBatches if _fits(dataset.train_images, device) else HostBatches
    images, labels = split_on_device(dataset, "train", device)
    return kind(images, labels, recipe, seed, crop_size=dataset.crop_size, device=device, own=own)


#: Splits on their devices: several trainings of one process share them.
_THERE: WeakKeyDictionary[Dataset, dict[tuple[str, torch.device], tuple[Tensor, Tensor]]] = WeakKeyDictionary()


def _fits(images: Tensor, device: torch.device) -> bool:
    return device.type == "cpu" or images.numel() <= DEVICE_BYTES


def split_on_device(dataset: Dataset, split: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and labels of a split ("train" or "test"), on the device where it has room for them, else as they are."""
    images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
    if device.type == "cpu" or not _fits(images, device):
        return images, labels
    there = _THERE.setdefault(dataset, {})
    if (split, device) not in there:
        there[split, device] = images.to(device), labels.to(device)
    return there[split, device]


def batches(
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    seed: int,
    start: int = 0,
    crop_size: int | None = None,
    device: torch.device | None = None,
    own: range | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of `DeviceBatches` (arguments as there) for steps start, start + 1, ..., recipe.iterations - 1.

    Yields:
        uint8 images [B, 3, H, W], or [B, 3, crop_size, crop_size], and labels [B].
    """
    source = DeviceBatches(images, labels, recipe, seed, crop_size=crop_size, device=device, own=own)
    for iteration in range(start, recipe.iterations):
        source.begin(iteration)
        yield source.batch()


def images_per_second(dataset: Dataset, recipe: Recipe, device: torch.device, steps: int = 16) -> float:
    """What the input side alone achieves: batches made one after the other without a network.

    Args:
        steps: batches that are timed, after one that is not; at most those of the recipe.
    """

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    source = make_batches(dataset, recipe, 0, device)
    last = min(steps, recipe.iterations - 1)
    started = 0.0
    for iteration in range(last + 1):
        source.begin(iteration)
        source.batch()
        if iteration == 0:
            started = now()
    return last * source.size / max(now() - started, 1e-9)
