"""One training loop for all tables: SGD, the paper's schedule, evaluation, checkpoints (paper 7.1).

Every random choice comes from the seed and the position in the training (epoch or iteration), never from the
state of a generator; a network that draws from torch's own, as dropout does, finds it seeded so before every step. A
resumed run therefore makes the same choices as an uninterrupted one, and on the CPU its numbers
are the same bit for bit on the same machine with the same number of threads; what holds on CUDA is said in
`nsl.training.execution`.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nsl.data.dataset import Dataset, check_dataset
from nsl.models.modes import begin_training, placed
from nsl.training.distributed import local_device, world
from nsl.training.evaluate import Evaluator
from nsl.training.execution import IN_NUMBERS, Execution, own_stream
from nsl.training.optimiser import ScheduledSGD
from nsl.training.ranges import check_seed
from nsl.training.schedule import Recipe
from nsl.training.state import TrainingState, described, frozen_parameters, own_draws
from nsl.training.step import ClassifierStep

#: A loss above this multiple of ln(classes), the loss of a uniform guess, and the penalties at the start counts as
#: diverged.
DIVERGED_FACTOR = 50.0
#: A training of at least so many steps that ends within this share of the loss of guessing is warned about.
WORTH_A_WARNING, GUESSING = 50, 0.02

Log = Callable[[int, dict[str, float]], None]


@dataclass
class TrainResult:
    """What a training found; `as_dict` goes into the run record.

    Attributes:
        test_error, train_error: percent. test_error is of the last iteration (no early stopping), train_error
            over the augmented batches of the last stretch between evaluations.
        test_top5_error: percent of test images whose class is not among the five likeliest, of the last iteration;
            None with fewer than six classes.
        test_loss, train_loss: in nats; the first the cross entropy, the second what was minimised: with the recipe's
            label smoothing and all penalties, so that it may well exceed the first.
        curve: one dict an evaluation: iteration, images, learning_rate, train_loss, train_error, test_loss,
            test_error, test_top5_error (test_loss None where it was not finite).
        diverged, divergence: whether and how the training broke; the other numbers are then None or partial.
        train_seconds, evaluate_seconds: wall time; images_per_second: training only.
        iterations_done: steps taken.
    """

    test_error: float | None = None
    test_loss: float | None = None
    test_top5_error: float | None = None
    train_error: float | None = None
    train_loss: float | None = None
    curve: list[dict[str, float | None]] = field(default_factory=list)
    diverged: bool = False
    divergence: str | None = None
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    images_per_second: float = 0.0
    iterations_done: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return asdict(self)


class ClassifierState(TrainingState):
    """The state of `train`; the numbers of a checkpoint are a `TrainResult` and the sums since the last evaluation.

    Args:
        evaluator: measures the network at the points of the curve.
        recipe: the settings.
        log: see `train`.
        penalties: their sum at the start.
        arguments: see `TrainingState`.
    """

    def __init__(
        self,
        *arguments: Any,
        evaluator: Evaluator,
        recipe: Recipe,
        log: Log | None,
        penalties: float = 0.0,
        **more: Any,
    ) -> None:
        super().__init__(*arguments, total=recipe.iterations, points=recipe.evaluation_points(), **more)
        self.evaluator, self.recipe = evaluator, recipe
        self.log = log if self.first else None
        self.result = TrainResult()
        self.limit = DIVERGED_FACTOR * math.log(max(2, evaluator.dataset.num_classes)) + penalties

    def numbers(self) -> dict[str, Any]:
        result = replace(
            self.result, curve=self.curve, train_seconds=self.seconds, iterations_done=self.iteration
        )
        return {"result": result.as_dict(), "sums": [self.loss_sum, self.wrong_sum, self.seen]}

    def restore(self, kept: dict[str, Any]) -> None:
        self.result = TrainResult(**kept["result"])
        self.loss_sum, self.wrong_sum, self.seen = kept["sums"]
        self.iteration, self.seconds = self.result.iterations_done, self.result.train_seconds
        self.curve = self.result.curve

    def broken(self, loss: float, iteration: int) -> str | None:
        fine = math.isfinite(loss) and loss <= self.limit
        return None if fine else f"training loss {loss:g} at iteration {iteration}"

    def read(self, iteration: int, loss: float) -> None:
        if self.log is not None:
            self.log(iteration, {"train_loss": loss, "learning_rate": self.recipe.rate(iteration - 1)})

    def measure(self) -> None:
        started, result = time.perf_counter(), self.result
        result.test_error, result.test_top5_error, result.test_loss = self.evaluator()
        result.train_loss, result.train_error = self.loss_sum / self.seen, 100.0 * self.wrong_sum / self.seen
        if self.log is not None:
            self.log(self.iteration, {"test_loss": result.test_loss, "test_error": result.test_error})
        result.evaluate_seconds += time.perf_counter() - started
        if not math.isfinite(result.test_loss):
            # Early in a training batch norm's running statistics lag behind, and a network that squares its
            # input's scale layer by layer overflows in evaluation mode only. It may recover: only the last
            # evaluation decides. JSON has no infinity, so the loss is left out of the curve.
            if self.iteration == self.total:
                self.divergence = f"test loss {result.test_loss} at the last iteration"
            result.test_loss = None
        self.curve.append(
            {
                "iteration": self.iteration,
                "images": self.iteration * self.size,
                "learning_rate": self.recipe.rate(self.iteration - 1),
                "train_loss": result.train_loss,
                "train_error": result.train_error,
                "test_loss": result.test_loss,
                "test_error": result.test_error,
                "test_top5_error": result.test_top5_error,
            }
        )

    def finished(self) -> TrainResult:
        """The result of the training, which has ended."""
        result = TrainResult(**self.numbers()["result"])
        result.diverged, result.divergence = self.divergence is not None, self.divergence
        if result.diverged:
            # What the curve holds stays; the headline numbers of a broken network do not.
            result.test_error = result.test_top5_error = result.test_loss = None
        if result.train_seconds > 0:
            result.images_per_second = result.iterations_done * self.size / result.train_seconds
        guess = math.log(max(2, self.evaluator.dataset.num_classes))
        long = self.first and result.iterations_done >= WORTH_A_WARNING
        if long and result.test_loss is not None and abs(result.test_loss - guess) < GUESSING * guess:
            warnings.warn(
                f"the network has learned next to nothing: its loss is {result.test_loss:.2f}, that of guessing. Its "
                "classifier may have been torn away in the first steps: try a smaller learning_rate, a smaller "
                "classifier_rate (0.05, say) or a longer warmup.",
                stacklevel=3,
            )
        return result


def _inputs(dataset: Dataset) -> list[Any]:
    """What becomes of images before the network sees them, which is no part of the data's fingerprint."""
    return [[float(value) for value in dataset.mean], [float(value) for value in dataset.std], dataset.crop_size]


def _check_kinds(model: Any, dataset: Any, recipe: Any, execution: Any) -> None:
    """Raise TypeError unless these are what their names say."""
    check_dataset(dataset)
    kinds = (("model", model, nn.Module), ("recipe", recipe, Recipe), ("execution", execution, Execution))
    for name, value, kind in kinds:
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")


def _unusual(execution: Execution) -> dict[str, Any]:
    """What changes numbers and is not as usual. The usual is left out, so that a field that is new leaves checkpoints
    what they were."""
    chosen = {name: getattr(execution, name) for name in IN_NUMBERS}
    return {name: value for name, value in chosen.items() if value != getattr(Execution, name)}


def _synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch norms that tell their statistics to all processes; alone, itself."""
    if device.type != "cuda":
        raise ValueError("sync_batch_norm needs CUDA, whose kernels it is made of; leave it out on a CPU.")
    if world().size < 2:
        return model
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def _name(penalty: Callable[[nn.Module], Tensor] | None) -> str:
    """What a penalty is called, the same in another process; a function's, or the class's of another callable.

    A `functools.partial` is called as its function, with the arguments, which may be the penalty's strength.
    """
    if isinstance(penalty, partial):
        return f"{_name(penalty.func)}, {penalty.args}, {sorted(penalty.keywords.items())}"
    return "" if penalty is None else getattr(penalty, "__qualname__", type(penalty).__qualname__)


def train(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    execution: Execution | None = None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    log: Log | None = None,
    before_step: Callable[[int], None] | None = None,
) -> TrainResult:
    """Train `model` in place on `dataset` by `recipe`.

    Args:
        model: from images [B, 3, H, W] to logits [B, num_classes]; moved to the device, channels_last. Parts that are
            in evaluation mode within a network in training mode, as frozen batch normalisation, stay so. A part that
            has a method `training_progress` is told before every step how much of the training is done, from 0 to 1.
        dataset: whole set in memory, uint8.
        recipe: the budget and all settings.
        seed: of batch order and augmentation; initialise the model from the same seed before the call.
        execution: device, checkpoint, parts of a batch and so on; default: `Execution()`.
        penalty: from the model to a scalar that is added to every step's loss (`nsl.orthogonality_penalty`). The
            penalties of the similarities' own structures (`nsl.L1`) are always added.
        log: called with the number of finished steps and what was found: train_loss and learning_rate of every step,
            test_loss and test_error (percent) after an evaluation. On CUDA the steps come some at a time. In
            processes that share the training only the first calls it.
        before_step: called before every step with the number of finished ones.

    With a process group (`nsl.training.distributed`) the batch of the recipe is the global one, of which every process
    computes its slice. All return the same result, the first writes the checkpoint, and all resume from it.

    Returns:
        The result; a diverged training returns normally with `diverged` set.

    Raises:
        TypeError: an argument is not what its name says.
        CheckpointError: the checkpoint is damaged or belongs to another run: of another recipe, seed or data, or of a
            network or a penalty of another description (its `repr`, its name), or of other frozen parameters.
        ValueError: a negative seed, no parameter to train, logits of fewer classes than the data have, parts that are
            more than the batch has images, or `sync_batch_norm` on a CPU.
    """
    seed = check_seed("training", seed)
    execution = Execution() if execution is None else execution
    _check_kinds(model, dataset, recipe, execution)
    device = local_device(execution.device)
    network, frozen = described(model), frozen_parameters(model)
    model = _synchronised(model, device) if execution.sync_batch_norm else model
    model = placed(model, device)
    with own_stream(device):
        optimiser = ScheduledSGD(model, recipe)
        step = ClassifierStep(model, dataset, recipe, optimiser, execution, seed=seed, penalty=penalty)
        identity: dict[str, Any] = {"recipe": recipe.as_dict(), "seed": seed, "data": dataset.fingerprint}
        identity |= {"network": network, "penalty": _name(penalty), "frozen": frozen, "inputs": _inputs(dataset)}
        identity |= _unusual(execution)
        evaluator = Evaluator(model, dataset, recipe.precision, graph=step.captured)
        state = ClassifierState(
            identity,
            {"model": model, "optimiser": optimiser},
            execution,
            device=device,
            size=step.size,
            evaluator=evaluator,
            recipe=recipe,
            log=log,
            penalties=step.penalty(),
        )
        state.resume()
        begin_training(model)
        step.note = state.note
        try:
            with own_draws(seed) as seeded:
                for iteration in state.steps():
                    if before_step is not None:
                        before_step(iteration)
                    seeded(iteration)
                    step(iteration)
        finally:
            step.end()
            evaluator.end()
    return state.finished()
