"""`create_model(name, num_classes, ...)`: every network of the tables by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nsl.models.backbones import backbone_classifier
from nsl.models.cnn import cnn9, cnn9pp, nsn9
from nsl.models.cnn10 import cnn10, cnn10pp, nsn10
from nsl.models.comparators import MODELS as COMPARATORS
from nsl.models.kinds import check_kinds
from nsl.models.mlp import mlp
from nsl.models.spherenet import spherenet

Built = TypeVar("Built")

_MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn9": cnn9,
    "cnn9pp": cnn9pp,
    "nsn9_static_diagonal": partial(nsn9, kind="static", similarity="diagonal"),
    "nsn9_static_unconstrained": partial(nsn9, kind="static", similarity="unconstrained"),
    "nsn9_dynamic_diagonal": partial(nsn9, kind="dynamic", similarity="diagonal"),
    "nsn9_dynamic_unconstrained": partial(nsn9, kind="dynamic", similarity="unconstrained"),
    "cnn10": cnn10,
    "cnn10pp": cnn10pp,
    "nsn10_dynamic_diagonal": partial(nsn10, kind="dynamic"),
    "cnn4": partial(backbone_classifier, backbone="cnn4", kind="none", similarity="diagonal"),
    "nsn4_static": partial(backbone_classifier, backbone="cnn4", kind="static"),
    "nsn4_dynamic": partial(backbone_classifier, backbone="cnn4", kind="dynamic"),
    "resnet12": partial(backbone_classifier, backbone="resnet12", kind="none", similarity="diagonal"),
    "resnet34": partial(backbone_classifier, backbone="resnet34", kind="none", similarity="diagonal"),
    "wrn28_10": partial(backbone_classifier, backbone="wrn28_10", kind="none", similarity="diagonal"),
    "spherenet": spherenet,
    "mlp": mlp,
    **COMPARATORS,
}


def builder(name: str) -> Callable[..., nn.Module]:
    """What builds a network of that name.

    Raises:
        ValueError: the name is unknown; the sentence says the nearest one, then all.
    """
    if name not in _MODELS:
        near = get_close_matches(str(name), list_models(), 1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"model {name!r} is unknown{meant}; model must be one of {list_models()}")
    return _MODELS[name]


def list_models() -> list[str]:
    """Names that `create_model` knows."""
    return sorted(_MODELS)


def create_model(name: str, num_classes: int = 10, **kwargs: Any) -> nn.Module:
    """Build a network by name, e.g. `create_model("nsn9_dynamic_diagonal", num_classes=100, width=16)`.

    Args:
        name: one of `list_models()`.
        num_classes: outputs.
        kwargs: width, image_size, variant; for NSN also predictor, sharing, learn_shape, predictor_options
            (see `nsl.models.cnn` and `nsl.models.cnn10`); for the few-shot backbones width, image_size, similarity (see
            `nsl.models.backbones`).

    Returns:
        A module from images [B, 3, S, S] to logits [B, num_classes], randomly initialised from torch's global
        generator.

    Raises:
        ValueError: unknown name or argument; the sentence lists the known ones.
    """
    build = builder(name)
    fixed = set(build.keywords) if isinstance(build, partial) else set()
    known = set(inspect.signature(build).parameters) - fixed - {"num_classes"}
    unknown = sorted(set(kwargs) - known)
    if unknown:
        raise ValueError(f"model {name!r} has no argument {unknown[0]!r}, it takes {sorted(known)}")
    check_kinds(f"model {name!r}", build.func if isinstance(build, partial) else build, kwargs)
    return build(num_classes, **kwargs)


def shapes_of(name: str, num_classes: int, **kwargs: Any) -> dict[str, torch.Size]:
    """Names and shapes of a network's state, found without memory for it, whatever its size.

    Raises:
        ValueError: there is no such network; the sentence says why.
    """
    what = f"model {name!r} cannot be built with {kwargs}: "
    return shapes_built(lambda: create_model(name, num_classes, **kwargs).state_dict(), what)


def shapes_built(build: Callable[[], Mapping[str, Tensor]], what: str = "") -> dict[str, torch.Size]:
    """Shapes of the tensors that `build` makes, see `without_memory`."""
    return {key: value.shape for key, value in without_memory(build, what).items()}


def without_memory(build: Callable[[], Built], what: str = "") -> Built:
    """What `build` makes on the meta device, which has no memory; torch's generator is left as it was.

    Raises:
        ValueError: it fails; what is no ValueError by itself becomes one whose sentence begins with `what`.
    """
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return build()
    except ValueError:
        raise
    except Exception as error:  # sizes and options can be impossible in many ways
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what}{reason[:300]}") from None


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
