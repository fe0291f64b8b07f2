"""How large a run's network is, counted on the network itself: built on PyTorch's meta device, without memory or data.

The only way from tables to models, for claims about parameters and multiply-adds, which no training decides.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import cache

from reproduce import tasks
from reproduce.declare.runs import Run
from reproduce.run.files import canonical_json

#: What can be counted, and how it is written.
QUANTITIES = {"parameters": "parameters", "multiply_adds": "multiply-adds an image"}


def count(run: Run, quantity: str) -> int:
    """Parameters of the run's network, or multiply-adds of one image through it.

    A few-shot method's network is its backbone, without the classifier of the base classes, which testing does not use,
    and without what a method adds to it (LEO's encoder and decoder, TADAM's task network).

    Raises:
        ValueError: the quantity is none of ``QUANTITIES``.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity={quantity!r} is unknown; use one of {', '.join(QUANTITIES)}.")
    return _counts(canonical_json([run.task, run.dataset, run.model]))[quantity]


#: Bytes a parameter takes in training: itself, its gradient and its momentum, in float32.
TRAINED = 12


def check_memory(runs: Iterable[Run]) -> None:
    """Refuse networks that this machine cannot train, before it tries.

    Raises:
        ValueError: a network's parameters, gradients and momentum alone take more than the memory there is.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for run in runs:
        needed = TRAINED * count(run, "parameters")
        if needed > memory:
            raise ValueError(
                f"{run.name}: width {run.model.get('width')} takes {needed / 2**30:.0f} GiB for parameters, gradients "
                f"and momentum alone, and this machine has {memory / 2**30:.0f}; choose a smaller one."
            )


@cache
def _counts(what: str) -> dict[str, int]:
    import torch

    import nsl

    name, dataset, model = json.loads(what)
    task = tasks.named(name)
    run = Run(label="", dataset=dataset, model=model, recipe={}, seed=0, threads=1, task=name)
    sizes = task.shape(dataset)
    with torch.device("meta"):
        built = task.deployed(task.network(run, sizes))
    return {
        "parameters": nsl.count_parameters(built),
        "multiply_adds": nsl.count_multiply_adds(built, sizes.image_size),
    }
