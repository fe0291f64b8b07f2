"""Training a classifier on all base classes: where most methods of Table 6 start."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nsl.data.dataset import DataError, Dataset, make_dataset
from nsl.data.fewshot import ImageSet
from nsl.fewshot.settings import Diverged, History, Place
from nsl.kernels import paths
from nsl.locks import locked
from nsl.outputs import write_text
from nsl.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from nsl.training.execution import Execution, choose_device
from nsl.training.loop import train
from nsl.training.schedule import Recipe
from nsl.training.side_by_side import pass_turn

#: One image in so many of every base class is kept out of the training, to draw its curve.
HELD_OUT = 20


def as_dataset(base: ImageSet) -> Dataset:
    """The base classes as a set for `nsl.training.train`; the last images of each class (1 in 20) are its test.

    At least one image of a class is its test, but the only image of a class is trained.

    Raises:
        DataError: no class has two images, so that none is left for a test.
    """
    return _as_dataset(base, *(0 if part.is_inference() else part._version for part in (base.images, base.labels)))


@lru_cache(maxsize=2)
def _as_dataset(base: ImageSet, *versions: int) -> Dataset:
    """`as_dataset`, made once; images that were changed in place have another version."""
    held = torch.zeros(len(base.labels), dtype=torch.bool, device="cpu")
    for label in range(base.num_classes):
        where = torch.nonzero(base.labels == label).flatten()
        if len(where) > 1:
            held[where[len(where) - max(1, len(where) // HELD_OUT) :]] = True
    if not held.any():
        raise DataError(
            f"{base.name}: no class has two images, one to train and one to hold out; give at least one class more."
        )
    train_part, test_part = (base.images[~held], base.labels[~held]), (base.images[held], base.labels[held])
    return make_dataset(base.name, *train_part, *test_part, base.class_names)


def moments(base: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel of the base classes' images, in units of 0..1."""
    dataset = as_dataset(base)
    return dataset.mean, dataset.std


def pretrain(
    network: nn.Module,
    base: ImageSet,
    recipe: Recipe,
    *,
    seed: int,
    device: str,
    identity: dict[str, Any],
    place: Place,
) -> History:
    """Train `network` (with a `classifier`) on all base classes, or load it where that was done before.

    Args:
        network: from images [B, 3, S, S] to logits [B, base classes]; trained in place, left in evaluation mode.
        base: the base classes.
        recipe: see `nsl.training.Recipe`.
        seed: of batches and augmentation; the network was initialised from it.
        device: "auto" or a torch device.
        identity: what tells this network from others: name and options.
        place: without `shared`, the state is kept beside `checkpoint`, as `STEM.pretrain.pt`, also once it is trained;
            with `shared`, the trained network is kept there under a name made of all that determines it, the
            arithmetic (`nsl.kernels.paths.arithmetic`) included; a second process that wants the same one waits for
            it. Where one is kept that only other arithmetic made, a line on stderr says so, and it is trained anew.

    Returns:
        {"curve": ..., "seconds": ..., "shared": whether it was loaded, "attempts": one dict a process that trained
        it: `place.attempt`, "started" (UTC) and "seconds" (wall time; None where it was interrupted)}.

    Raises:
        Diverged: the loss is no longer finite.
        CheckpointError: a file in `shared` is damaged.
    """
    dataset = as_dataset(base)

    def fit(checkpoint: Path | None, keep_last: bool, attempts: list[dict[str, Any]]) -> History:
        execution = Execution(
            device=device,
            checkpoint=checkpoint,
            checkpoint_minutes=place.minutes,
            keep_last=keep_last,
            progress=place.progress,
            description=f"base classes, {identity.get('backbone', 'network')}",
        )
        begun = time.perf_counter()
        result = train(network, dataset, recipe, seed=seed, execution=execution)
        if result.diverged:
            raise Diverged(f"training on the base classes diverged: {result.divergence}")
        attempts[-1]["seconds"] = time.perf_counter() - begun
        return {"curve": result.curve, "seconds": result.train_seconds, "attempts": attempts, "shared": False}

    if place.shared is None:
        history = fit(_beside(place.checkpoint), True, [_attempt(place)])
    else:
        what = {"network": identity, "recipe": recipe.as_dict(), "seed": seed, "data": dataset.fingerprint}
        history = _shared(network, place, place.shared, what, paths.arithmetic(choose_device(device)), fit)
    # The training leaves channels_last kernels; what follows works on small batches and vmaps.
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network.eval()
    return history


def _shared(
    network: nn.Module,
    place: Place,
    folder: Path,
    what: dict[str, Any],
    path: dict[str, str],
    fit: Callable[[Path, bool, list[dict[str, Any]]], History],
) -> History:
    """The network kept in `folder`, or trained by `fit` and kept there, by one process at a time.

    Args:
        what, path: all that determines it: settings and data, and the arithmetic.
    """
    key = f"{_digest(what)}-{_digest(path)[:8]}"
    with locked(folder / f"backbone-{key}.lock", _wait):
        done, part, diary = (folder / f"backbone-{key}.{ending}" for ending in ("pt", "part.pt", "attempts.json"))
        if done.exists():
            return _loaded(network, done)
        if not part.exists():
            _tell_of_others(folder, _digest(what), path)
        history = fit(part, False, _begin(diary, place))
        save_checkpoint(done, {"network": network.state_dict(), "history": history, "path": path})
        part.unlink(missing_ok=True)
        diary.unlink(missing_ok=True)
        return history


def _loaded(network: nn.Module, done: Path) -> History:
    """The history of a kept network, which `network` becomes."""
    state = load_checkpoint(done)
    try:
        network.load_state_dict(state["network"])
        return {"attempts": [], **state["history"], "shared": True}
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {done} does not fit this network; delete it") from error


def _beside(checkpoint: Path | None) -> Path | None:
    """Where the training on the base classes is kept beside a method's checkpoint."""
    return None if checkpoint is None else checkpoint.with_name(f"{checkpoint.stem}.pretrain.pt")


def _digest(what: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _tell_of_others(folder: Path, key: str, path: dict[str, str]) -> None:
    """Say which network of this key, begun or done, cannot be used here, and why."""
    for file in sorted(folder.glob(f"backbone-{key}-*.pt")):
        with suppress(CheckpointError, OSError, LookupError):  # damaged: its own training says so
            other = load_checkpoint(file)["path"]
            print(
                f"The base classes are trained anew with {paths.differing(path, other)}, since {file} was made with "
                f"{paths.differing(other, path)}.",
                file=sys.stderr,
                flush=True,
            )


def _attempt(place: Place) -> dict[str, Any]:
    """What is known of an attempt when it begins."""
    return {**place.attempt, "started": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": None}


def _begin(diary: Path, place: Place) -> list[dict[str, Any]]:
    """The attempts at a training with this one at their end; kept in `diary` until the training is done."""
    attempts: list[dict[str, Any]] = []
    if diary.exists():
        try:
            attempts = json.loads(diary.read_text(encoding="utf-8"))
        except ValueError:
            attempts = []  # damaged: what it told is lost, the training is not
    attempts.append(_attempt(place))
    write_text(diary, json.dumps(attempts))
    return attempts


def _wait() -> None:
    """Who has the lock may be a training of this process, which needs its turns."""
    pass_turn()
    time.sleep(0.05)
