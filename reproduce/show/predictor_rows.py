"""What a table's rows have in the predictor's place, told from the live modules: text cannot drift from what is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reproduce.declare import plan


@dataclass(frozen=True)
class Predictor:
    """A predictor in words: its two convolutions, what stands between and after them, its range, and M."""

    first: str
    between: str
    second: str
    after: str
    bounds: str
    start: str
    similarity: str


HEADINGS = {
    "first": "first convolution",
    "between": "then",
    "second": "second convolution",
    "after": "after it",
    "bounds": "each number lies in",
    "start": "start scales",
    "similarity": "M",
}

_PLAIN, _PATCH = "product", "product over patch norm"
_ANGLE = "{operator} of the angle (product over kernel norm and patch norm)"


def describe(layer: Any) -> Predictor:
    """The predictor of a dynamic layer, one of the built-in ones."""
    from torch import nn

    import nsl
    from nsl.layers.predictors import CNNPredictor, ReleasePredictor, SpherePredictor

    predictor = layer.predictor
    similarity = "I + output" if layer.residual else "output"

    def convolution(module: nn.Module) -> str:
        return _ANGLE.format(operator=module.operator) if isinstance(module, nsl.SphereConv2d) else _PLAIN

    def normed(module: nn.Module, *words: str) -> str:
        return ", ".join((["batch norm"] if isinstance(module, nn.BatchNorm2d) else []) + list(words))

    if not isinstance(predictor, SpherePredictor | ReleasePredictor | CNNPredictor):
        return Predictor(type(predictor).__name__, "–", "–", "–", "unknown here", "–", similarity)
    first, second = convolution(predictor.first), convolution(predictor.second)
    start = "small" if predictor.small else "He's"
    if isinstance(predictor, SpherePredictor):
        relu = predictor.relu_output
        bounds = "[0, 1]" if relu else "[-1, 1]"
        return Predictor(first, "ReLU", second, "ReLU" if relu else "nothing", bounds, start, similarity)
    between, after = normed(predictor.first_norm, "ReLU"), normed(predictor.second_norm)
    if isinstance(predictor, ReleasePredictor):
        first = first if predictor.full else _PATCH
        return Predictor(first, between, second, after or "nothing", "no interval", start, similarity)
    head = {"sigmoid": ("sigmoid minus one half", "[-1/2, 1/2]"), "tanh": ("tanh", "[-1, 1]")}
    after, bounds = head.get(predictor.head, (after or "nothing", "no interval"))
    return Predictor(first, between, second, after, bounds, start, similarity)


def predictors(profile: plan.Profile, table: plan.Key, slot: str) -> dict[str, Predictor]:
    """The predictors of a table's dynamic rows, by the rows' labels, from networks as they are trained."""
    import torch

    import nsl

    found = {}
    for method in plan.experiment(table).methods:
        run = profile.run(method, slot, 0)
        with torch.device("meta"):
            model = nsl.create_model(run.model["name"], 10, **run.options)
        layer = next((module for module in model.modules() if isinstance(module, nsl.DynamicNSConv2d)), None)
        if layer is not None:
            found[method.label] = describe(layer)
    return found


def differences(one: Predictor, other: Predictor) -> list[str]:
    """In what two predictors differ, in words."""
    return [
        f"{heading}: {getattr(one, key)} against {getattr(other, key)}"
        for key, heading in HEADINGS.items()
        if getattr(one, key) != getattr(other, key)
    ]
