"""One training loop for all tables: SGD, the paper's schedule, evaluation, checkpoints (paper 7.1).

Every random choice comes from the seed and the position in the training (epoch or iteration), never from the
state of a generator. A resumed run therefore makes the same choices as an uninterrupted one, and its numbers
are the same bit for bit on the same machine with the same number of threads.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.data.augment import Part, centre_crop, crop_flip, normalise, resized_crop, window_flip
from nsl.data.dataset import Dataset
from nsl.layers.conv import NSConv2d
from nsl.layers.static import Similar, has_penalty, similarity_penalty
from nsl.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from nsl.training.distributed import add_up, local_device, own_range, share_buffers, world
from nsl.training.schedule import Recipe

#: l2 coefficient of the release on an unconstrained static similarity.
RELEASE_SIMILARITY_DECAY = 5e-3
#: A loss above this multiple of ln(classes), the loss of a uniform guess, counts as diverged.
DIVERGED_FACTOR = 50.0
EVALUATION_BATCH = 500
#: Training images up to this many bytes lie on the device as a whole; more are gathered batch by batch.
DEVICE_BYTES = 8 << 30


@dataclass
class TrainResult:
    """What a training found; `as_dict` goes into the run record.

    Attributes:
        test_error, train_error: percent. test_error is of the last iteration (no early stopping), train_error
            over the augmented batches of the last stretch between evaluations.
        test_top5_error: percent of test images whose class is not among the five likeliest, of the last iteration;
            None with fewer than six classes.
        test_loss, train_loss: cross entropy in nats.
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


def generator(seed: int, *stream: int) -> torch.Generator:
    """A CPU generator for one purpose: streams are told apart by their numbers, not by their order."""
    state = np.random.SeedSequence([seed, *stream]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed((int(state[0]) << 31) ^ int(state[1]))


_ORDER, _AUGMENT = 1, 2


def augment(
    images: Tensor, kind: str, random: torch.Generator, crop_size: int | None = None, part: Part | None = None
) -> Tensor:
    """One batch, uint8 [B, 3, H, W] to [B, 3, S, S], augmented as `Recipe.augment` says.

    S is `crop_size`, the network's input, or H where that is None.
    """
    if kind == "window_flip":
        return window_flip(images, random, crop_size or images.shape[-1], part=part)
    if kind == "resized_crop":
        return resized_crop(images, random, crop_size, part=part)
    images = centre_crop(images, crop_size)
    return images if kind == "none" else crop_flip(images, random, flip=kind == "crop_flip", part=part)


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
    """Augmented training batches of steps start, start + 1, ..., recipe.iterations - 1.

    Each epoch is a fresh permutation; the incomplete last batch of an epoch is left out (a set smaller than a
    batch is one batch).

    Args:
        images: uint8 [N, 3, H, W].
        labels: int64 [N].
        crop_size: height and width of the network's input, when it is cut out of larger images.
        device: where to augment; None: where the images are.
        own: which images of every batch to make, as they are in the whole batch; None: all.

    Yields:
        uint8 images [B, 3, H, W], or [B, 3, crop_size, crop_size], and labels [B].
    """
    size = min(recipe.batch_size, len(images))
    per_epoch = len(images) // size
    epoch, order = -1, torch.empty(0, dtype=torch.int64)
    for iteration in range(start, recipe.iterations):
        if iteration // per_epoch != epoch:
            epoch = iteration // per_epoch
            order = torch.randperm(len(images), generator=generator(seed, _ORDER, epoch)).to(images.device)
        position = iteration % per_epoch * size
        chosen, part = order[position : position + size], None
        if own is not None:
            chosen, part = chosen[own.start : own.stop], (size, own.start)
        batch = images[chosen].to(device)
        random = generator(seed, _AUGMENT, iteration)
        yield augment(batch, recipe.augment, random, crop_size, part), labels[chosen].to(device)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Optimiser groups: which parameters are decayed, and whose learning rate is scaled.

    Decayed are kernels, and under `variant="release"` more.
    Weight decay pulls towards zero, which for a similarity or a batch-norm scale is no simpler than any other
    value; so the paper variant decays the convolutions' kernels only (predictors' included). The release also
    decays batch norm's scale and shift, and the unconstrained static similarity with 5e-3.

    Returns:
        Groups with the keys params, weight_decay and rate: the group's learning rate is the recipe's times `rate`,
        which is 1 except for the parameters of `model.classifier` (recipe.classifier_rate) and of modules that have an
        attribute `rate`.
    """
    release = getattr(model, "variant", "paper") == "release"
    classifier = getattr(model, "classifier", None)
    scaled = {id(p) for p in classifier.parameters()} if isinstance(classifier, nn.Module) else set()
    groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            if isinstance(module, Similar) and name == "shape":
                groups.setdefault((0.0, module.shape_rate, 0.0), []).append(parameter)
                continue
            decay = 0.0
            if isinstance(module, NSConv2d) and name == "similarity":
                if release and module.structure.name == "unconstrained":
                    decay = RELEASE_SIMILARITY_DECAY
            elif (name == "weight" and parameter.dim() > 1) or (release and isinstance(module, nn.BatchNorm2d)):
                decay = recipe.weight_decay
            rate = recipe.classifier_rate if id(parameter) in scaled else float(getattr(module, "rate", 1.0))
            groups.setdefault((decay, rate, recipe.momentum), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "rate": rate, "momentum": momentum}
        for (decay, rate, momentum), parameters in groups.items()
    ]


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The named device, or for "auto" CUDA where there is one and the CPU otherwise."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


class Evaluation(NamedTuple):
    """What `evaluate` finds: percent of wrong first guesses, percent without the class among the first five (None
    with fewer than six classes), and the mean cross entropy in nats."""

    error: float
    top5_error: float | None
    loss: float


@torch.no_grad()
def evaluate(
    model: nn.Module, dataset: Dataset, precision: str = "float32", batch_size: int = EVALUATION_BATCH
) -> Evaluation:
    """Error, top-5 error and loss over the whole test set, in evaluation mode.

    Processes that share a training share the images, and find the same.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    share_buffers(model)
    wrong, wrong5, loss = 0, 0, 0.0
    own = own_range(len(dataset.test_images))
    for start in range(own.start, own.stop, batch_size):
        stop = min(start + batch_size, own.stop)
        labels = dataset.test_labels[start:stop].to(device)
        images = centre_crop(dataset.test_images[start:stop], dataset.crop_size).to(device)
        inputs = normalise(images, dataset.mean, dataset.std, channels_last=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(inputs)
        logits = logits.float()
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        wrong += int((logits.argmax(1) != labels).sum())
        if dataset.num_classes > 5:
            wrong5 += int((logits.topk(5).indices != labels[:, None]).all(1).sum())
    model.train(was_training)
    count = len(dataset.test_images)
    errors, errors5, total = add_up([wrong, wrong5, loss], device)
    top5 = 100.0 * errors5 / count if dataset.num_classes > 5 else None
    return Evaluation(100.0 * errors / count, top5, total / count)


def train(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    device: str | torch.device = "auto",
    checkpoint: Path | None = None,
    checkpoint_minutes: float = 5.0,
    progress: bool = True,
    description: str = "",
    penalty: Callable[[nn.Module], Tensor] | None = None,
    accumulate: int = 1,
    compiled: bool = False,
    sync_batch_norm: bool = False,
    log: Callable[[int, dict[str, float]], None] | None = None,
    keep_last: bool = False,
) -> TrainResult:
    """Train `model` in place on `dataset` by `recipe`.

    Args:
        model: from images [B, 3, H, W] to logits [B, num_classes]; moved to the device, channels_last.
        dataset: whole set in memory, uint8.
        recipe: the budget and all settings.
        seed: of batch order and augmentation; initialise the model from the same seed before the call.
        device: "auto", or a torch device.
        checkpoint: file to resume from if it exists, and to write every `checkpoint_minutes`. The caller
            deletes it once the result is stored.
        progress: show a bar with loss, error, images per second and time left (only on a terminal).
        description: text before the bar.
        penalty: from the model to a scalar that is added to every step's loss (`nsl.orthogonality_penalty`). The
            penalties of the similarities' own structures (`nsl.L1`) are always added.
        accumulate: parts that each batch is computed in, one after the other, for less memory; batch norm then uses
            the statistics of a part.
        compiled: run the network through `torch.compile`.
        sync_batch_norm: batch norm of processes that share the training uses the whole batch; CUDA only.
        log: called with the number of finished steps and what was just found: train_loss and learning_rate after
            every step, test_loss and test_error (percent) after an evaluation. In processes that share the training
            only the first calls it.
        keep_last: also write the checkpoint after the last step.

    With a process group (`nsl.training.distributed`) the batch of the recipe is the global one, of which every process
    computes its slice. All return the same result, the first writes the checkpoint, and all resume from it.

    Returns:
        The result; a diverged training returns normally with `diverged` set.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another run.
        ValueError: `accumulate` or the number of processes is larger than the batch, or `sync_batch_norm` on a CPU.
    """
    device = local_device(device)
    rank, processes = world()
    if sync_batch_norm and processes > 1:
        if device.type != "cuda":
            raise ValueError("sync_batch_norm needs CUDA, whose kernels it is made of; leave it out on a CPU.")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(
        parameter_groups(model, recipe), lr=recipe.learning_rate, momentum=recipe.momentum
    )
    images, labels = dataset.train_images, dataset.train_labels
    if images.numel() <= DEVICE_BYTES:
        images, labels = images.to(device), labels.to(device)
    limit = DIVERGED_FACTOR * math.log(max(2, dataset.num_classes))
    points, size = recipe.evaluation_points(), min(recipe.batch_size, len(images))
    own = own_range(size)
    if not 1 <= accumulate <= len(own):
        raise ValueError(
            f"a batch of {size} images cannot be computed by {processes} processes in {accumulate} parts each; "
            "choose a larger batch_size, or fewer of these."
        )
    result = TrainResult()
    loss_sum, wrong_sum, seen = 0.0, 0, 0

    identity: dict[str, Any] = {"recipe": recipe.as_dict(), "seed": seed, "data": dataset.fingerprint}
    if accumulate > 1:
        identity["accumulate"] = accumulate
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint)
        if state.get("identity") != identity:
            raise CheckpointError(
                f"checkpoint {checkpoint} belongs to another run (other recipe, seed or data); delete it to start again"
            )
        try:
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            result = TrainResult(**state["result"])
            loss_sum, wrong_sum, seen = state["sums"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint {checkpoint} does not fit this network; delete it to start this run again"
            ) from error

    def save() -> None:
        if checkpoint is not None and rank == 0:
            save_checkpoint(
                checkpoint,
                {
                    "identity": identity,
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "result": result.as_dict(),
                    "sums": [loss_sum, wrong_sum, seen],
                },
            )

    penalties = [] if penalty is None else [penalty]
    if has_penalty(model):
        penalties.append(similarity_penalty)
    network: nn.Module = model
    if processes > 1:
        network = nn.parallel.DistributedDataParallel(model, [device] if device.type == "cuda" else None)
    forward: Callable[[Tensor], Tensor] = torch.compile(network) if compiled else network
    bar = _progress_bar(progress and rank == 0, recipe.iterations, result.iterations_done, description)
    model.train()
    last_save = mark = time.perf_counter()
    mine = None if processes == 1 else own
    stream = batches(images, labels, recipe, seed, result.iterations_done, dataset.crop_size, device, mine)
    for iteration, (batch, target) in enumerate(stream, start=result.iterations_done):
        rate = recipe.rate(iteration)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["rate"]
        inputs = normalise(batch, dataset.mean, dataset.std, channels_last=True)
        optimiser.zero_grad(set_to_none=True)
        value, wrong = 0.0, 0
        for part, (x, y) in enumerate(zip(inputs.tensor_split(accumulate), target.tensor_split(accumulate)), start=1):
            # Processes exchange gradients with the last part.
            waits = isinstance(network, nn.parallel.DistributedDataParallel) and part < accumulate
            with network.no_sync() if waits else nullcontext():  # type: ignore[operator]
                with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                    logits = forward(x)
                loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
                if len(y) * processes != size:
                    # The mean over the batch, of parts that need not be of one size; gradients are averaged.
                    loss = loss * (len(y) * processes / size)
                if part == accumulate:
                    for extra in penalties:
                        loss = loss + extra(model)
                loss.backward()
            value += loss.item()
            wrong += int((logits.argmax(1) != y).sum())
        optimiser.step()
        if processes > 1:
            value, wrong = (found := add_up([value / processes, wrong], device))[0], int(found[1])
        if not math.isfinite(value) or value > limit:
            result.diverged = True
            result.divergence = f"training loss {value:g} at iteration {iteration + 1}"
            result.iterations_done = iteration + 1
            break
        loss_sum += value * size
        wrong_sum += wrong
        seen += size
        if log is not None and rank == 0:
            log(iteration + 1, {"train_loss": value, "learning_rate": rate})
        result.iterations_done = iteration + 1
        now = time.perf_counter()
        result.train_seconds += now - mark
        mark = now
        if bar is not None:
            bar.set_postfix_str(f"loss {loss_sum / seen:.3f} error {100 * wrong_sum / seen:.1f}%", refresh=False)
            bar.update(1)
        if iteration + 1 in points:
            test_error, top5_error, test_loss = evaluate(model, dataset, recipe.precision)
            result.train_loss, result.train_error = loss_sum / seen, 100.0 * wrong_sum / seen
            result.test_error, result.test_top5_error, result.test_loss = test_error, top5_error, test_loss
            result.curve.append(
                {
                    "iteration": iteration + 1,
                    "images": (iteration + 1) * size,
                    "learning_rate": rate,
                    "train_loss": result.train_loss,
                    "train_error": result.train_error,
                    "test_loss": test_loss,
                    "test_error": test_error,
                    "test_top5_error": top5_error,
                }
            )
            loss_sum, wrong_sum, seen = 0.0, 0, 0
            if log is not None and rank == 0:
                log(iteration + 1, {"test_loss": test_loss, "test_error": test_error})
            mark = time.perf_counter()
            result.evaluate_seconds += mark - now
            if not math.isfinite(test_loss):
                # Early in a training batch norm's running statistics lag behind, and a network that squares its
                # input's scale layer by layer overflows in evaluation mode only. It may recover: only the last
                # evaluation decides. JSON has no infinity, so the loss is left out of the curve.
                result.test_loss = result.curve[-1]["test_loss"] = None
                if iteration + 1 == recipe.iterations:
                    result.diverged, result.divergence = True, f"test loss {test_loss} at the last iteration"
        if iteration + 1 < recipe.iterations and mark - last_save > 60 * checkpoint_minutes:
            save()
            last_save = mark
    if keep_last and not result.diverged:
        save()
    if bar is not None:
        bar.close()
    if result.diverged:
        # What the curve holds stays; the headline numbers of a broken network do not.
        result.test_error = result.test_top5_error = result.test_loss = None
    if result.train_seconds > 0:
        result.images_per_second = result.iterations_done * size / result.train_seconds
    return result


def _progress_bar(progress: bool, total: int, initial: int, description: str) -> Any:
    if not progress or not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return tqdm(total=total, initial=initial, desc=description, unit="step", mininterval=0.5)
