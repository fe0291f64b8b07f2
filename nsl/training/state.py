"""Where a training stands: steps, sums, curve, clock, divergence, and the checkpoint that it goes on from.

One class serves all trainings, of classifiers, on episodes and by `nsl.training.fit`: `steps` yields the numbers of the
steps to take, and does between them what the host has to do. What a step found is left on the device (`note`) and read
once a stretch (`nsl.training.execution.stretch`): on the CPU after every step, on CUDA after many, before every point
of the curve and every checkpoint. The numbers are those of a look after every step, a divergence included, which is
only seen later.
"""

from __future__ import annotations

import hashlib
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nsl.kernels import paths
from nsl.training.checkpoint import (
    CheckpointError,
    check_optimiser,
    check_state,
    load_checkpoint,
    save_checkpoint,
    training_goes_on,
)
from nsl.training.distributed import add_up, world
from nsl.training.ending import ENDING, EXIT_CODE, INTERRUPTED
from nsl.training.execution import Execution, stretch
from nsl.training.side_by_side import TURN, pass_turn, wait_for


def digest(text: str) -> str:
    """A short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def described(model: nn.Module) -> str:
    """A hash of what a network says it is made of, and of which of its parameters are one."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    tied = [" = ".join(same) for same in names.values() if len(same) > 1]
    return digest("\n".join([repr(model), *tied]))


@contextmanager
def own_draws(seed: int) -> Iterator[Callable[[int], None]]:
    """A function that seeds the CPU's global generator for a step, for networks that draw from it themselves (dropout);
    afterwards it is as it was."""
    before, rank = torch.get_rng_state(), world().rank
    start = np.random.SeedSequence([seed, rank]).generate_state(1, np.uint64)[0]

    def seeded(step: int) -> None:
        torch.default_generator.manual_seed((int(start) + step) % 2**63)

    try:
        yield seeded
    finally:
        torch.set_rng_state(before)


def frozen_parameters(model: nn.Module) -> str:
    """A hash of the names of a network's parameters that are not trained.

    It says whose momentum is whose: the optimiser knows parameters by their places.
    """
    return digest(" ".join(name for name, parameter in model.named_parameters() if not parameter.requires_grad))


class Kept(Protocol):
    """What a checkpoint can keep: a module, an optimiser."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class TrainingState(ABC):
    """What a training would lose if it were interrupted, and the loop around its steps.

    Args:
        identity: everything that determines the result, JSON-ready; a checkpoint of another identity is refused.
        parts: what is kept beside the numbers, by name.
        execution: checkpoint, progress.
        device: where the steps are computed.
        total: steps of the whole training.
        points: numbers of finished steps at which the curve has a point.
        size: images, or episodes, a step.

    Attributes:
        iteration: steps done and read.
        seconds: spent on steps.
        loss_sum, wrong_sum, seen: sums since the last point: losses and wrong guesses weighted by images.
        curve: one dict a point.
        divergence: a sentence once the training is broken.
    """

    def __init__(
        self,
        identity: dict[str, Any],
        parts: Mapping[str, Kept],
        execution: Execution,
        *,
        device: torch.device,
        total: int,
        points: set[int],
        size: int,
    ) -> None:
        self.identity, self.parts, self.execution = identity, parts, execution
        self.device, self.total, self.points, self.size = device, total, points, size
        self.iteration, self.seconds = 0, 0.0
        self.loss_sum, self.wrong_sum, self.seen = 0.0, 0, 0
        self.curve: list[dict[str, Any]] = []
        self.divergence: str | None = None
        self.first = world().rank == 0
        self.every = stretch(device)
        self._interrupted = self._ending = False
        self._found = torch.zeros(self.every, 2, dtype=torch.float64, device=device)
        self._mark = self._saved = 0.0

    @cached_property
    def path(self) -> dict[str, str]:
        """What the numbers depend on beside the identity; found where a checkpoint is used, since that may compile."""
        return paths.arithmetic(self.device)

    @abstractmethod
    def numbers(self) -> dict[str, Any]:
        """The numbers as a checkpoint has them; `restore` takes them back."""

    @abstractmethod
    def restore(self, kept: dict[str, Any]) -> None:
        """Take the numbers of a checkpoint; raises KeyError, TypeError or ValueError where they are not there."""

    @abstractmethod
    def measure(self) -> None:
        """Add a point to the curve; called at every point, before the sums since the last one are forgotten."""

    def broken(self, loss: float, iteration: int) -> str | None:
        """What is wrong with the loss of step `iteration` (from 1), as a sentence; None: nothing."""
        return None if math.isfinite(loss) else f"loss {loss} at iteration {iteration}"

    def read(self, iteration: int, loss: float) -> None:  # noqa: B027 (nothing to do is a choice)
        """Called for every step, in order, once its loss is known."""

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one.

        Raises:
            CheckpointError: it is damaged, belongs to another training, or was made by other arithmetic
                (`nsl.kernels.paths.arithmetic`): what came out would be neither's.
            ValueError: there is none, and what this training has to keep cannot be kept in one.
        """
        file = self.execution.checkpoint
        if file is None:
            return
        if not file.exists():
            check_state(self._kept())  # now, and not after hours
            return
        kept = load_checkpoint(file)
        if kept.get("identity") != self.identity:
            raise CheckpointError(
                f"checkpoint {file} belongs to another training (another network, recipe, penalty, seed or data, or "
                "other options); delete it to start this one again"
            )
        path = kept.get("path")
        if isinstance(path, dict) and path != self.path:
            raise CheckpointError(
                f"checkpoint {file} was made with {paths.differing(path, self.path)}, and would go on with "
                f"{paths.differing(self.path, path)}, to numbers of neither; go on as it began, or delete it to start "
                "this training again"
            )
        try:
            for name, part in self.parts.items():
                part.load_state_dict(kept[name])
                if isinstance(part, torch.optim.Optimizer):
                    check_optimiser(part)
            self.restore(kept)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint {file} does not fit this network; delete it to start this training again"
            ) from error

    @training_goes_on()
    def save(self) -> None:
        """Write the checkpoint; of processes that share a training the first does."""
        self._saved = time.perf_counter()
        if self.execution.checkpoint is not None and self.first:
            save_checkpoint(self.execution.checkpoint, self._kept())

    def _kept(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        return {"identity": self.identity, "path": self.path, **parts, **self.numbers()}

    def note(self, clock: Tensor, loss: Tensor, wrong: Tensor | None = None) -> None:
        """Leave a step's loss and number of wrong guesses, scalars, on the device; `clock` is its number, int64 [1]."""
        count = torch.zeros_like(loss) if wrong is None else wrong
        found = torch.stack([loss.detach().double(), count.detach().double()])
        self._found.index_copy_(0, clock % self.every, found.unsqueeze(0))

    def steps(self) -> Iterator[int]:
        """The numbers of the steps to take, from 0; the caller takes each of them and calls `note`.

        Modules that have a method `training_progress` are told before every step how much of the training is done.
        Ends after the last step, or when the training is broken; where the process is to end (`nsl.training.ending`)
        the checkpoint is written and SystemExit raised.
        """
        bar = _progress_bar(self.execution, self.total, self.iteration) if self.first else None
        networks = [part for part in self.parts.values() if isinstance(part, nn.Module)]
        modules = [module for network in networks for module in network.modules()]
        told = [tell for module in modules if callable(tell := getattr(module, "training_progress", None))]
        self._mark = self._saved = time.perf_counter()
        taken = self.iteration
        while taken < self.total:
            for tell in told:
                tell(taken / self.total)
            yield taken
            taken += 1
            if taken % TURN == 0:
                pass_turn()
            if taken % self.every and taken not in self.points and taken != self.total:
                continue
            self._look(taken)
            if bar is not None and self.seen:
                error = f" error {100 * self.wrong_sum / self.seen:.1f}%" if self.wrong_sum else ""
                speed = f" {self.iteration * self.size / self.seconds:.0f} images/s" if self.size > 1 else ""
                bar.set_postfix_str(f"loss {self.loss_sum / self.seen:.3f}{error}{speed}", refresh=False)
                bar.update(taken - bar.n)
            if taken in self.points and self.divergence is None:
                self.measure()
                self.loss_sum, self.wrong_sum, self.seen = 0.0, 0, 0
                self._mark = time.perf_counter()
            if self.divergence is not None:
                break
            goes_on = taken < self.total
            if goes_on and self._interrupted:
                raise KeyboardInterrupt
            ending = goes_on and self._ending
            due = goes_on and self._mark - self._saved > 60 * self.execution.checkpoint_minutes
            if due or ending or (not goes_on and self.execution.keep_last):
                self.save()
            if ending:
                raise SystemExit(EXIT_CODE)
        if bar is not None:
            bar.close()

    def _look(self, taken: int) -> None:
        """Read what the steps since the last look found; count the time until they were done."""
        found = self._found
        self._interrupted, self._ending = INTERRUPTED.is_set(), ENDING.is_set()
        if world().size > 1:
            # A process that is told to end leaves at the same step as the others, who would wait for it.
            told = found.new_tensor([[float(self._interrupted), float(self._ending)]])
            found = add_up(torch.cat([found / found.new_tensor([world().size, 1.0]), told]))
        values = wait_for(found)
        if world().size > 1:
            self._interrupted, self._ending = (count > 0 for count in values[-1])
        now = time.perf_counter()
        for step in range(self.iteration, taken):
            loss, wrong = values[step % self.every]
            self.divergence = self.broken(loss, self.iteration + 1)
            self.iteration += 1
            if self.divergence is not None:
                return
            self.loss_sum += loss * self.size
            self.wrong_sum += int(wrong)
            self.seen += self.size
            self.read(self.iteration, loss)
        self.seconds += now - self._mark
        self._mark = now


def _progress_bar(execution: Execution, total: int, initial: int) -> Any:
    if not execution.progress or not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return tqdm(total=total, initial=initial, desc=execution.description, unit="step", mininterval=0.5)
