"""How large a run's network is, counted on the network itself: parameters on PyTorch's meta device, without memory.

The only way from tables to models, for claims about parameters and multiply-adds, which no training decides.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import cache
from typing import Any

from reproduce import tasks
from reproduce.declare.runs import Run
from reproduce.run.files import canonical_json

#: What can be counted, and how it is written.
QUANTITIES = {
    "parameters": "parameters",
    "multiply_adds": "multiply-adds an image",
    "folded_multiply_adds": "multiply-adds an image once folded",
}


def count(run: Run, quantity: str) -> int:
    """Parameters of the run's network, or multiply-adds of one image through it, also after `nsl.fold`.

    A few-shot method's network is its backbone, without the classifier of the base classes, which testing does not use,
    and without what a method adds to it (LEO's encoder and decoder, TADAM's task network).

    Raises:
        ValueError: the quantity is none of ``QUANTITIES``.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity={quantity!r} is unknown; use one of {', '.join(QUANTITIES)}.")
    return _COUNTS[quantity](canonical_json([run.task, run.dataset, run.model]))


#: Bytes a parameter takes in training: itself, its gradient and its momentum, in float32.
TRAINED = 12
#: Up to this width no network is too large for a machine that can run any, and building it would cost seconds.
USUAL_WIDTH = 256
#: Parameters above which a network is built without memory even where that is slower.
HUGE = 1e8


def check_memory(runs: Iterable[Run]) -> None:
    """Refuse networks that this machine cannot train, before it tries.

    Raises:
        ValueError: a network's parameters, gradients and momentum alone take more than the memory there is.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for run in runs:
        if int(run.model.get("width", 0)) <= USUAL_WIDTH:
            continue
        needed = TRAINED * count(run, "parameters")
        if needed > memory:
            raise ValueError(
                f"{run.name}: width {run.model.get('width')} takes {needed / 2**30:.0f} GiB for parameters, gradients "
                f"and momentum alone, and this machine has {memory / 2**30:.0f}; choose a smaller one."
            )


def _built(what: str, device: str) -> tuple[Any, int]:
    """The network that is deployed, and the side of its images."""
    import torch

    name, dataset, model = json.loads(what)
    task = tasks.named(name)
    run = Run(label="", dataset=dataset, model=model, recipe={}, seed=0, threads=1, task=name)
    sizes = task.shape(dataset)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        return task.deployed(task.network(run, sizes)), sizes.image_size


@cache
def _folded(what: str) -> int:
    """Of the network as it starts, built with memory: which taps a folded layer has is read off its numbers."""
    import nsl

    built, image_size = _built(what, "cpu")
    return nsl.count_multiply_adds(nsl.fold(built), image_size)


@cache
def _parameters(what: str) -> int:
    import nsl

    built, _ = _built(what, "meta")
    return nsl.count_parameters(built)


@cache
def _multiply_adds(what: str) -> int:
    """With memory unless the network is huge: a pass on the meta device takes longer than a real one of a small one."""
    import nsl

    built, image_size = _built(what, "cpu" if _parameters(what) < HUGE else "meta")
    return nsl.count_multiply_adds(built, image_size)


_COUNTS = {"parameters": _parameters, "multiply_adds": _multiply_adds, "folded_multiply_adds": _folded}
