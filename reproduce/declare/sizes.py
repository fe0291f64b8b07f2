"""How large a run's network is, counted on the network itself: built on PyTorch's meta device, without memory or data.

The only way from tables to models, for claims about parameters and multiply-adds, which no training decides.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from reproduce.declare.runs import FEWSHOT, Run
from reproduce.declare.shapes import Shape, shape
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


def network(run: Run, sizes: Shape) -> Any:
    """The run's network (of a few-shot method its backbone with a classifier), randomly initialised."""
    import nsl
    from nsl.fewshot import METHODS
    from nsl.models.backbones import BackboneClassifier, create_backbone

    if run.task != FEWSHOT:
        options = {key: value for key, value in run.model.items() if key != "name"}
        return nsl.create_model(run.model["name"], sizes.classes, image_size=sizes.image_size, **options)
    # A static similarity folds away: the network is counted without it.
    kind = "dynamic" if METHODS[run.model["name"]].kind == "dynamic" else "none"
    options = {"predictor_options": run.model.get("predictor_options")} if kind == "dynamic" else {}
    backbone = create_backbone(run.model["backbone"], width=run.model["width"], kind=kind, **options)
    return BackboneClassifier(backbone, sizes.classes, sizes.image_size)


@cache
def _counts(what: str) -> dict[str, int]:
    import torch

    import nsl

    task, dataset, model = json.loads(what)
    run = Run(label="", dataset=dataset, model=model, recipe={}, seed=0, threads=1, task=task)
    sizes = shape(dataset)
    with torch.device("meta"):
        built: Any = network(run, sizes)
    if task == FEWSHOT:
        built = built.backbone
    return {
        "parameters": nsl.count_parameters(built),
        "multiply_adds": nsl.count_multiply_adds(built, sizes.image_size),
    }
