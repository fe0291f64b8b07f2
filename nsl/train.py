"""Train any network of the package on any of its data sets, without the tables.

    python -m nsl.train --model nsn9_dynamic_diagonal --data cifar10 --iterations 4000 --export net.safetensors
    python -m nsl.train --evaluate net.safetensors --root DIR
    torchrun --nproc-per-node 2 --max-restarts 3 -m nsl.train --model cnn10 --data imagenet --checkpoint run.pt ...

The batch size is that of all processes together. With --checkpoint the training goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nsl.arguments import SEEDS, Parser, pairs, real, whole
from nsl.data import NAMES, Dataset, load, load_folder
from nsl.data.folder import OPTIONS
from nsl.folders import expand_paths, expanded
from nsl.models.cost import count_multiply_adds
from nsl.models.modes import placed
from nsl.models.registry import count_parameters, create_model, list_models
from nsl.outputs import write_text
from nsl.training.checkpoint import CheckpointError, load_checkpoint
from nsl.training.distributed import joined, local_device
from nsl.training.ending import interruptible, saving_when_told
from nsl.training.evaluate import evaluate
from nsl.training.execution import Execution
from nsl.training.export import load_model, moments_of, save_model
from nsl.training.loop import TrainResult, train
from nsl.training.ranges import LARGEST
from nsl.training.request import check, checked_options
from nsl.training.schedule import AUGMENTATIONS, PRECISIONS, SCHEDULES, Recipe
from nsl.training.state import described

_CHOICES = {"schedule": SCHEDULES, "precision": PRECISIONS, "augment": AUGMENTATIONS}
_DEFAULT_ITERATIONS = 1000


def parser() -> Parser:
    """The command line; the recipe's fields are options of their own names."""
    made = Parser(
        prog="python -m nsl.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = made.add_argument_group("what")
    what.add_argument("--model", help=f"one of: {', '.join(list_models())}")
    what.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of the model, e.g. width=16")
    what.add_argument(
        "--data",
        help=f"name of the data set, one of: {', '.join(NAMES)} (its folder, --data elsewhere, is --root), or a folder "
        "with one folder of your own images a class",
    )
    what.add_argument("--data-option", action="append", default=[], metavar="KEY=VALUE", help="e.g. image_size=64")
    what.add_argument("--root", type=Path, default=None, help="folder of the data (default: NSL_DATA, ~/.cache/nsl)")
    what.add_argument("--evaluate", type=Path, default=None, metavar="FILE", help="an exported network or a checkpoint")
    recipe = made.add_argument_group("recipe")
    for field in fields(Recipe):
        default: Any = _DEFAULT_ITERATIONS if field.default is MISSING else field.default
        option = "--" + field.name.replace("_", "-")
        if field.name == "milestones":
            usual = " ".join(f"{value:g}" for value in default)
            words = f"of 'steps', in fractions of the budget (default: {usual})"
            recipe.add_argument(option, type=real(), nargs="*", default=default, help=words)
        else:
            kind: Any = {int: whole(1, LARGEST), float: real()}.get(type(default), str)
            recipe.add_argument(
                option, type=kind, default=default, choices=_CHOICES.get(field.name), help=f"default: {default}"
            )
    how = made.add_argument_group("how")
    how.add_argument("--seed", type=whole(*SEEDS), default=0, help="default: 0")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")
    how.add_argument(
        "--accumulate", type=whole(1, LARGEST), default=1, help="compute each batch in so many parts (default: 1)"
    )
    how.add_argument("--compile", action="store_true", help="run the network through torch.compile")
    how.add_argument("--sync-batch-norm", action="store_true", help="batch norm over all processes' images (CUDA)")
    how.add_argument("--checkpoint", type=Path, default=None, help="file to write and to resume from")
    how.add_argument("--checkpoint-minutes", type=real(0, 1e6), default=5.0, help="between two of them (default: 5)")
    how.add_argument("--tensorboard", type=Path, default=None, metavar="DIR", help="write curves for TensorBoard")
    how.add_argument("--export", type=Path, default=None, metavar="FILE", help="write the network (safetensors)")
    how.add_argument("--result", type=Path, default=None, metavar="FILE", help="write the result and curve as JSON")
    return made


def _load(arguments: argparse.Namespace, name: str, usual_size: int = 32) -> Dataset:
    options = pairs(arguments.data_option, "--data-option")
    if name in NAMES or not expanded(name).is_dir():
        if "/" in name:
            raise ValueError(f"--data {name} is no folder; name one of images, or a data set: {', '.join(NAMES)}.")
        return load(name, arguments.root, **options)
    if arguments.root is not None:
        raise ValueError(f"--root belongs to the data sets that have names; {name} is a folder itself: leave it out.")
    options = {"image_size": usual_size} | options
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ValueError(f"--data-option {unknown[0]}: images of a folder take {', '.join(OPTIONS)}.")
    return load_folder(name, **options)


def _build(arguments: argparse.Namespace, dataset: Dataset) -> tuple[nn.Module, dict[str, Any]]:
    options = checked_options(arguments.model, dataset.num_classes, dataset.image_size, arguments.option)
    torch.manual_seed(arguments.seed)
    return create_model(arguments.model, dataset.num_classes, image_size=dataset.image_size, **options), options


def _logger(folder: Path) -> tuple[Callable[[int, dict[str, float]], None], Callable[[], None]]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--tensorboard needs tensorboard, which is not installed; run `make env`.") from None
    writer = SummaryWriter(str(folder))

    def log(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return log, writer.close


def _say(what: str, error: float | None, top5: float | None, loss: float | None) -> None:
    parts = [f"test error {error:.2f} %" if error is not None else "no test error"]
    parts += [f"top-5 error {top5:.2f} %"] if top5 is not None else []
    parts += [f"loss {loss:.4f}"] if loss is not None else []
    print(f"{what}: {', '.join(parts)}", flush=True)


def run_evaluation(arguments: argparse.Namespace) -> None:
    """Evaluate an exported network, or a checkpoint of the model that is named."""
    path: Path = arguments.evaluate
    if path.suffix == ".safetensors":
        model, about = load_model(path)
        known = about["data"]
        if not arguments.data and known["name"] not in NAMES:
            raise ValueError(f"{path} was trained on images of your own, {known['name']}: name their folder by --data.")
        dataset = _load(arguments, arguments.data or known["name"], known["image_size"])
        if (dataset.num_classes, dataset.image_size) != (len(known["class_names"]), known["image_size"]):
            raise ValueError(
                f"{path} was trained on {known['name']}, which has another number of classes or size than "
                f"{dataset.name}; name its own data set, with the same --data-option."
            )
        if dataset.fingerprint != known["fingerprint"]:
            print(f"{dataset.name}: not the data that {path.name} was trained on; they are normalised as those were.")
        dataset = replace(dataset, moments=moments_of(path, about))
    else:
        dataset = _load(arguments, arguments.data)
        model = _build(arguments, dataset)[0]
        kept = load_checkpoint(path)
        identity, own = kept.get("identity") or {}, described(model)
        try:
            model.load_state_dict(kept["model"])
            same = identity.get("network", own) == own
        except (KeyError, RuntimeError):
            same = False
        if not same:
            raise CheckpointError(f"checkpoint {path} holds another network; name its --model and --option.")
        if identity.get("data", dataset.fingerprint) != dataset.fingerprint:
            print(f"{dataset.name}: not the data that {path.name} was trained on; they are normalised by their own.")
    found = evaluate(placed(model, local_device(arguments.device)), dataset, arguments.precision)
    _say(f"{path.name} on {dataset.name}", found.error, found.top5_error, found.loss)


def run_training(arguments: argparse.Namespace, first: bool) -> TrainResult:
    """Train; only the `first` of several processes prints and writes."""
    recipe = Recipe(**{field.name: getattr(arguments, field.name) for field in fields(Recipe)})
    dataset = _load(arguments, arguments.data)
    model, options = _build(arguments, dataset)
    if first:
        cost = count_multiply_adds(model, dataset.image_size)
        print(f"{arguments.model} on {dataset.name}: {count_parameters(model):,} parameters, {cost:,} multiply-adds")
    with ExitStack() as stack:
        log = None
        if arguments.tensorboard is not None and first:
            log, close = _logger(arguments.tensorboard)
            stack.callback(close)
        result = train(
            model,
            dataset,
            recipe,
            seed=arguments.seed,
            execution=Execution(
                device=arguments.device,
                checkpoint=arguments.checkpoint,
                checkpoint_minutes=arguments.checkpoint_minutes,
                keep_last=True,
                description=arguments.model,
                accumulate=arguments.accumulate,
                compiled=arguments.compile,
                sync_batch_norm=arguments.sync_batch_norm,
            ),
            log=log,
        )
    if not first:
        return result
    facts = {"recipe": recipe.as_dict(), "seed": arguments.seed, "result": result.as_dict()}
    if result.diverged:
        print(f"diverged: {result.divergence}", flush=True)
    else:
        _say(f"{recipe.iterations} iterations", result.test_error, result.test_top5_error, result.test_loss)
        if arguments.export is not None:
            save_model(arguments.export, model, arguments.model, options, dataset, facts)
    if arguments.result is not None:
        write_text(arguments.result, json.dumps(facts, indent=1) + "\n")
    return result


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code: 0, 1 for a training that diverged, 2 for bad input, 130 for Ctrl-C."""
    try:
        with interruptible():
            chosen = parser().read(arguments)
            expand_paths(chosen)
            check(chosen)
            with saving_when_told(), joined(chosen.device) as (rank, _):
                if chosen.evaluate is not None:
                    run_evaluation(chosen)
                    return 0
                return int(run_training(chosen, rank == 0).diverged)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; with --checkpoint the same command goes on from the last one.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
