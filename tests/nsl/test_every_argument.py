"""No argument of a layer or a network is ignored: another value changes what is built, computed or learned, or is
refused in a sentence that names it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nsl
from nsl.layers.predictors import Predictor
from nsl.models.registry import _MODELS, list_models
from nsl.training import Recipe
from nsl.training.optimiser import ScheduledSGD
from nsl.training.state import described

MAPS = (2, 2, 6, 5)
CONV = {"in_channels": 2, "out_channels": 4, "kernel_size": 3, "padding": 1}
LINEAR = {"in_features": 4, "out_features": 3}
CELL = {"input_size": 4, "hidden_size": 6}
PLACE = {"in_channels": 2, "degrees_of_freedom": 9, "kernel_size": 3, "padding": 1}
ODE = {"field": nsl.NSConv2d(2, 2, 3, padding=1)}
#: Layer to its class, the arguments of the layer that others are compared with, and an input's shape.
LAYERS: dict[str, tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = {
    "NSConv1d": (nsl.NSConv1d, CONV, (2, 2, 7)),
    "NSConv2d": (nsl.NSConv2d, CONV, MAPS),
    "NSConv3d": (nsl.NSConv3d, CONV, (2, 2, 4, 5, 4)),
    "NSConvTranspose2d": (nsl.NSConvTranspose2d, CONV | {"stride": 3}, MAPS),
    "NSLinear": (nsl.NSLinear, LINEAR, (2, 4)),
    "NSRNNCell": (nsl.NSRNNCell, CELL, (2, 4)),
    "NSGRUCell": (nsl.NSGRUCell, CELL, (2, 4)),
    "DynamicNSConv2d": (nsl.DynamicNSConv2d, CONV, MAPS),
    "DynamicNSLinear": (nsl.DynamicNSLinear, LINEAR, (2, 4)),
    "SphereConv2d": (nsl.SphereConv2d, CONV, MAPS),
    "GlobalSimilarity": (nsl.GlobalSimilarity, {"gamma": 0.5}, MAPS),
    "StaticGlobalSimilarity": (nsl.StaticGlobalSimilarity, {"size": (6, 5)}, MAPS),
    "ShiftConv2d": (nsl.ShiftConv2d, {"kernel": torch.ones(4, 2, 3, 3), "bias": None, "padding": (1, 1)}, MAPS),
    "SpherePredictor": (nsl.SpherePredictor, PLACE, MAPS),
    "ReleasePredictor": (nsl.ReleasePredictor, PLACE, MAPS),
    "CNNPredictor": (nsl.CNNPredictor, PLACE, MAPS),
    "LinearPredictor": (nsl.LinearPredictor, {"in_features": 4, "degrees_of_freedom": 3}, (2, 4)),
    "SharedKernels": (nsl.SharedKernels, {"in_channels": 2, "degrees_of_freedom": 9, "kernel_size": 3}, MAPS),
    "DynamicFilterConv2d": (nsl.DynamicFilterConv2d, CONV, MAPS),
    "HyperConv2d": (nsl.HyperConv2d, CONV, MAPS),
    "KernelGenerator": (nsl.KernelGenerator, {"kernel_size": (3, 3)}, (2, 64)),
    "SelectedConv2d": (nsl.SelectedConv2d, CONV, MAPS),
    "MixtureConv2d": (nsl.MixtureConv2d, CONV, MAPS),
    "DeformConv2d": (nsl.DeformConv2d, CONV, MAPS),
    "DecoupledConv2d": (nsl.DecoupledConv2d, CONV, MAPS),
    "UnsharedNSConv2d": (nsl.UnsharedNSConv2d, CONV, MAPS),
    "DynamicNSRNNCell": (nsl.DynamicNSRNNCell, CELL, (2, 4)),
    "DynamicNSGRUCell": (nsl.DynamicNSGRUCell, CELL, (2, 4)),
    "ODEBlock": (nsl.ODEBlock, ODE, MAPS),
    "Mahalanobis": (nsl.Mahalanobis, {"features": 4}, ()),
}
#: Parts of layers, which take their arguments from them, and bases without an own meaning.
PARTS = {"StaticSimilarity", "DynamicSimilarity"}
#: Another value of every argument; that of a single layer is under (layer, argument).
OTHER: dict[Any, Any] = {
    "in_channels": 4, "out_channels": 6, "kernel_size": 2, "stride": 2, "padding": 2, "dilation": 2, "groups": 2,
    "bias": False, "padding_mode": "circular", "output_padding": 1, "device": "meta", "dtype": torch.float64,
    "similarity": "unconstrained", "learn_shape": True, "shape_threshold": 1.5, "shape_rate": 0.25,
    "in_features": 6, "out_features": 5, "block_size": 2, "input_size": 5, "hidden_size": 8, "nonlinearity": "relu",
    "predictor": "cnn", "predictor_options": {"hidden": 5}, "residual": False, "hidden": 5, "operator": "linear",
    "query": nn.ReLU(), "key": nn.ReLU(), "value": nn.ReLU(), "scale": 2.0, "gamma": 0.25, "size": (6, 6),
    "degrees_of_freedom": 4, "batch_norm_momentum": 0.5, "relu_output": True, "batch_norm": False, "full": True,
    "head": "tanh", "shared": nsl.SharedKernels(2, 9, 3), "adaptation": nn.Conv2d(2, 2, 3, padding=1), "release": True,
    "local": False, "depthwise": True, "normalise": False, "generator": nsl.KernelGenerator((3, 3), 2), "dynamic": True,
    "bounded": True, "temperature": 2.0, "anneal": 0.5, "small": False, "decay": False,
    "block": 8, "embedding": 32, "banks": 3, "routing": "sigmoid", "modulated": True, "rate": 0.5, "predicted": False,
    "magnitude": "ball", "angle": "square", "weighted": True, "learnable": True, "radius": 2.0,
    "field": nsl.NSConv2d(2, 2, 3, padding=1, bias=False), "scheme": "rk4", "steps": 2, "time": 0.5, "iterations": 3,
    "features": 5, "rank": 2, "kernel": torch.ones(4, 2, 3, 2),
    ("SphereConv2d", "bias"): True, ("DecoupledConv2d", "bias"): True, ("ShiftConv2d", "bias"): torch.ones(4),
    ("ShiftConv2d", "stride"): (2, 2), ("ShiftConv2d", "padding"): (2, 2), ("ShiftConv2d", "dilation"): (2, 2),
    ("DynamicNSLinear", "predictor"): nn.Linear(4, 4), ("DynamicNSRNNCell", "predictor"): nn.Linear(10, 6),
    ("DynamicNSGRUCell", "predictor"): nn.Linear(10, 6), ("KernelGenerator", "kernel_size"): (2, 2),
    ("KernelGenerator", "hidden"): 8, ("ReleasePredictor", "shared"): nsl.SharedKernels(2, 9, 3, release=True),
    ("SelectedConv2d", "batch_norm"): True,
    ("NSConvTranspose2d", "stride"): 2, ("SharedKernels", "kernel_size"): 5,
}  # fmt: skip
#: Arguments that mean something only beside another one, and are refused without it.
BESIDE: dict[Any, dict[str, Any]] = {
    "shape_threshold": {"learn_shape": True},
    "shape_rate": {"learn_shape": True},
    ("SpherePredictor", "batch_norm_momentum"): {"shared": OTHER["shared"]},
    ("SpherePredictor", "adaptation"): {"shared": OTHER["shared"]},
    ("ODEBlock", "iterations"): {"scheme": "implicit_euler"},
    "bounded": {"dynamic": True},
}


def arguments(build: type[nn.Module]) -> list[str]:
    """What a constructor takes, by name, also what it hands on."""
    found: dict[str, None] = {}
    for known in inspect.signature(build).parameters.values():
        if known.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            found[known.name] = None
        elif known.name in ("args", "kwargs"):
            found |= dict.fromkeys(inspect.signature(build.plain).parameters)  # type: ignore[arg-type]
            if build is nsl.NSConvTranspose2d:
                found |= dict.fromkeys(("similarity", "learn_shape", "shape_threshold", "shape_rate"))
        elif known.name == "shape":
            found |= dict.fromkeys(("learn_shape", "shape_threshold", "shape_rate"))
        else:
            place = inspect.signature(Predictor).parameters.values()
            found |= dict.fromkeys(p.name for p in place if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return list(found)


def contents(value: Tensor) -> bytes:
    return value.detach().contiguous().numpy().tobytes()


def tensors(module: nn.Module) -> list[Any]:
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return [
        (name, str(value.device), str(value.dtype), list(value.shape), None if value.is_meta else contents(value))
        for name, value in state.items()
    ]


def learned(module: nn.Module, *inputs: Tensor) -> list[Any]:
    """What it computes in training, and what a step of training makes of it."""
    for part in module.modules():
        if isinstance(part, nsl.MixtureConv2d):
            part.training_progress(0.25)
    output = module.second(module.first(*inputs)) if isinstance(module, nsl.SharedKernels) else module(*inputs)
    optimiser = ScheduledSGD(module, Recipe(iterations=2, learning_rate=0.1, schedule="cosine", warmup=0.0))
    optimiser.begin(0)
    output.square().mean().backward()
    optimiser.step(torch.zeros(1, dtype=torch.int64))
    return [output.shape, contents(output), tensors(module)]


def differ(one: nn.Module, other: nn.Module, *inputs: Tensor) -> bool:
    """Whether two modules made from one seed differ in what they are, compute or learn."""
    if tensors(one) != tensors(other):
        return True
    return bool(inputs) and learned(one, *inputs) != learned(other, *inputs)


def made(build: Any, options: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = build(**options)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():  # off their start, where a mask of ones hides much
            if not parameter.is_meta and not hasattr(parameter, "moved"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def of(table: dict[Any, Any], owner: str, name: str, default: Any = KeyError) -> Any:
    """The entry of this owner's argument, or that of the argument."""
    found = table.get((owner, name), table.get(name, default))
    assert found is not KeyError, f"{name} of {owner} is new: give it another value in this file"
    return found


def refused(argument: str, make: Callable[[], object]) -> bool:
    """Whether a sentence that names the argument says no; another complaint is an error."""
    try:
        make()
    except ValueError as error:
        if argument not in str(error).replace(" ", "_"):
            raise
        return True
    return False


LAYER_ARGUMENTS = [(name, argument) for name, (build, _, _) in LAYERS.items() for argument in arguments(build)]


@pytest.mark.parametrize(("name", "argument"), LAYER_ARGUMENTS)
def test_no_argument_of_a_layer_is_ignored(name: str, argument: str) -> None:
    build, base, shape = LAYERS[name]
    value = of(OTHER, name, argument)
    beside = of(BESIDE, name, argument, {})
    torch.manual_seed(2)
    inputs = (torch.randn(shape),) if shape else ()
    if beside:
        with pytest.raises(ValueError, match=argument):
            build(**base | {argument: value})
    base = base | beside
    assert refused(argument, lambda: made(build, base | {argument: value})) or differ(
        made(build, base), made(build, base | {argument: value}), *inputs
    )


#: What is no part of a description: where tensors are; where a learned number starts; for what size nothing depends on.
UNDESCRIBED = {"device", "gamma", "image_size"}


def tells_apart(one: nn.Module, other: nn.Module) -> bool:
    """Whether a state dict, or the description of a checkpoint, says which of two networks it is of."""
    states = [{name: (v.shape, v.dtype) for name, v in module.state_dict().items()} for module in (one, other)]
    return states[0] != states[1] or described(one) != described(other)


@pytest.mark.parametrize(("name", "argument"), [pair for pair in LAYER_ARGUMENTS if pair[1] not in UNDESCRIBED])
def test_no_other_layer_is_taken_for_the_one_that_a_checkpoint_is_of(name: str, argument: str) -> None:
    build, base, _ = LAYERS[name]
    base = base | of(BESIDE, name, argument, {})
    other = base | {argument: of(OTHER, name, argument)}
    assert refused(argument, lambda: build(**other)) or tells_apart(build(**base), build(**other))


def test_every_public_layer_is_here() -> None:
    public = {name for name in nsl.__all__ if isinstance(getattr(nsl, name), type)}
    assert {name for name in public if issubclass(getattr(nsl, name), nn.Module)} <= set(LAYERS) | PARTS


#: Networks are small here; those of several widths have a size with which the option shows.
SMALL: dict[str, Any] = {"num_classes": 3, "width": 2, "image_size": 16}
OTHER_MODEL: dict[Any, Any] = {
    "num_classes": 4, "width": 4, "image_size": 64, "variant": "release", "predictor": "cnn", "sharing": "shared",
    "adaptation": "map_size", "learn_shape": True, "shape_rate": 0.25, "residual": False,
    "predictor_options": {"hidden": 5}, "similarity": "unconstrained", "attention": False, "operator": "linear",
    "kind": "dynamic", "block_size": 2, "hidden": 5, "local": False, "depthwise": False, "normalise": False,
    "dynamic": True, "embedding": 5, "banks": 3, "routing": "sigmoid", "modulated": True, "stages": 2, "rate": 0.5,
    "predicted": False, "magnitude": "ball", "angle": "linear", "weighted": True, "learnable": True, "boolean": True,
    "bounded": True, "temperature": 2.0, "anneal": 0.5, "decay": False, "batch_norm": False,
    "count": 2, "scheme": "rk4", "steps": 2,
}  # fmt: skip
BESIDE_MODEL: dict[Any, dict[str, Any]] = {
    "bounded": {"dynamic": True},
    "shape_rate": {"learn_shape": True},
    ("nsn9_dynamic_diagonal", "adaptation"): {"sharing": "shared"},
    ("nsn9_dynamic_unconstrained", "adaptation"): {"sharing": "shared"},
    ("mlp", "similarity"): {"kind": "static", "block_size": 2},
    ("mlp", "block_size"): {"kind": "static", "similarity": "unconstrained"},
}
#: Networks whose last maps are averaged over their positions are the same for every size of image.
ANY_SIZE = {"resnet12", "resnet34", "wrn28_10"}


def options_of(name: str) -> list[str]:
    build = _MODELS[name]
    fixed = set(build.keywords) if isinstance(build, partial) else set()
    return [option for option in inspect.signature(build).parameters if option not in fixed]


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in list_models() for option in options_of(name)])
def test_no_option_of_a_network_is_ignored(name: str, option: str) -> None:
    value, beside = of(OTHER_MODEL, name, option), of(BESIDE_MODEL, name, option, {})
    base = {"name": name} | {key: SMALL[key] for key in SMALL if key in options_of(name)}
    if beside:
        with pytest.raises(ValueError, match=option):
            nsl.create_model(**base | {option: value})
    base |= beside
    if refused(option, lambda: nsl.create_model(**base | {option: value})):
        return
    if option not in UNDESCRIBED:
        assert tells_apart(nsl.create_model(**base), nsl.create_model(**base | {option: value}))
    build = partial(made, nsl.create_model)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    if option == "image_size" and name in ANY_SIZE:
        assert not differ(build(base), build(base | {option: value}))
    else:
        assert differ(build(base), build(base | {option: value}), images)
