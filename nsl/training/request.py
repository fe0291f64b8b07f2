"""What is asked of `python -m nsl.train`, checked before data are loaded and hours are spent."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from nsl.arguments import check_apart, check_device, pairs
from nsl.models.registry import builder, shapes_of
from nsl.outputs import check_folder, check_output, check_regular
from nsl.training.checkpoint import is_foreign
from nsl.training.distributed import local_device
from nsl.training.schedule import Recipe

#: Numbers in a network, parameters and statistics, at most: 16 GiB in float32.
LARGEST_NETWORK = 1 << 32
#: Options that say how to train; an evaluation ignores none of them, it has none.
_TRAINING = {field.name for field in fields(Recipe)} - {"precision"} | {
    "seed",
    "accumulate",
    "compile",
    "sync_batch_norm",
    "checkpoint",
    "checkpoint_minutes",
    "tensorboard",
    "export",
    "result",
}


def checked_options(model: str, classes: int, image_size: int, items: list[str]) -> dict[str, Any]:
    """The network's options from `--option` texts, after finding out without memory whether it can be built.

    Raises:
        ValueError: it cannot, or has more than `LARGEST_NETWORK` numbers.
    """
    options = pairs(items, "--option")
    for key in ("num_classes", "image_size"):
        if key in options:
            raise ValueError(f"--option {key} is that of the data; choose it by --data-option where they have it.")
    total = sum(shape.numel() for shape in shapes_of(model, classes, image_size=image_size, **options).values())
    if total > LARGEST_NETWORK:
        raise ValueError(f"model {model!r} with {options} has {total:,} numbers, more than {LARGEST_NETWORK:,}.")
    return options


def check(arguments: argparse.Namespace) -> None:
    """Everything that can be known without the data.

    Raises:
        ValueError, OSError: an option has a value that is impossible, is ignored beside another, or names a file that
            cannot be read or written.
    """
    check_device(arguments.device)
    if arguments.data == "":
        raise ValueError("--data is empty; name a data set.")
    if arguments.evaluate is not None:
        _check_evaluation(arguments)
    else:
        _check_training(arguments)
    if arguments.model:
        # With any number of classes and any size: what is wrong for all data is said before they are loaded.
        builder(arguments.model)
        pairs(arguments.option, "--option")
    pairs(arguments.data_option, "--data-option")


def _check_evaluation(arguments: argparse.Namespace) -> None:
    path: Path = arguments.evaluate
    check_apart(arguments.given, _TRAINING, "is for a training, not for --evaluate; leave it out.")
    check_regular(path, "--evaluate")
    if path.suffix == ".safetensors":
        check_apart(arguments.given, ("model", "option"), f"is said by {path} itself; leave it out.")
        return
    if not arguments.model or not arguments.data:
        raise ValueError(f"--evaluate {path} is no .safetensors file; name a checkpoint's --model and --data too.")
    if not path.is_file():
        raise FileNotFoundError(f"--evaluate {path} does not exist; name an exported network or a checkpoint.")
    _check_ours(path, "--evaluate")


def _check_ours(path: Path, option: str) -> None:
    if path.is_file() and is_foreign(path):
        raise ValueError(f"{option} {path} is no checkpoint; name one, or a name that is not taken.")


def _check_training(arguments: argparse.Namespace) -> None:
    if not arguments.model or not arguments.data:
        raise ValueError("--model and --data are needed; see python -m nsl.train --help.")
    Recipe(**{field.name: getattr(arguments, field.name) for field in fields(Recipe)})
    if arguments.sync_batch_norm and local_device(arguments.device).type != "cuda":
        raise ValueError("--sync-batch-norm needs CUDA, whose kernels it is made of; leave it out on a CPU.")
    if arguments.checkpoint is None:
        check_apart(arguments.given, ("checkpoint_minutes",), "needs --checkpoint FILE.")
    files = {name: getattr(arguments, name) for name in ("checkpoint", "export", "result")}
    wanted = {name: path for name, path in files.items() if path is not None}
    for name, path in wanted.items():
        twin = next((other for other in wanted if other != name and wanted[other].resolve() == path.resolve()), None)
        if twin is not None:
            raise ValueError(f"--{name} and --{twin} are both {path}; give each a file of its own.")
        check_output(path, f"--{name}")
    if arguments.export is not None and arguments.export.suffix != ".safetensors":
        raise ValueError(f"--export {arguments.export} must end in .safetensors, by which --evaluate knows it.")
    if arguments.checkpoint is not None:
        _check_ours(arguments.checkpoint, "--checkpoint")
    if arguments.tensorboard is not None:
        check_folder(arguments.tensorboard, "--tensorboard")
