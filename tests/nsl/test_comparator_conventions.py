"""What users do with any layer, for the comparators and extensions: save, copy, cast, compile, export, map."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nsl
from nsl.layers.decoupled import DecoupledConv2d
from nsl.layers.deformable import DeformConv2d
from nsl.layers.dynamic_filter import DynamicFilterConv2d
from nsl.layers.dynamic_recurrent import DynamicNSGRUCell, DynamicNSRNNCell
from nsl.layers.filter_selection import MixtureConv2d, SelectedConv2d
from nsl.layers.hypernetwork import HyperConv2d
from nsl.layers.mahalanobis import Mahalanobis
from nsl.layers.ode import ODEBlock
from nsl.layers.shapes import FewTaps, Shaped
from nsl.layers.unshared import UnsharedNSConv2d

IMAGE = (2, 2, 5, 4)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{
        f"DynamicFilterConv2d {local} {depthwise}": (
            lambda local=local, depthwise=depthwise: DynamicFilterConv2d(
                2, 3, 3, padding=1, local=local, depthwise=depthwise, hidden=4
            ),
            IMAGE,
        )
        for local in (True, False)
        for depthwise in (True, False)
    },
    "HyperConv2d": (lambda: HyperConv2d(2, 3, 3, padding=1), IMAGE),
    "HyperConv2d dynamic": (lambda: HyperConv2d(2, 3, 3, padding=1, dynamic=True), IMAGE),
    "SelectedConv2d": (lambda: SelectedConv2d(2, 3, 3, padding=1, hidden=4), IMAGE),
    "MixtureConv2d": (lambda: MixtureConv2d(2, 3, 3, padding=1), IMAGE),
    "DeformConv2d": (lambda: DeformConv2d(2, 3, 3, padding=1, modulated=True), IMAGE),
    "DecoupledConv2d": (lambda: DecoupledConv2d(2, 3, 3, padding=1, learnable=True, angle="learnable_sigmoid"), IMAGE),
    "UnsharedNSConv2d": (lambda: UnsharedNSConv2d(2, 3, 3, padding=1, similarity="unconstrained"), IMAGE),
    "NSConv2d shaped": (lambda: nsl.NSConv2d(2, 3, 3, padding=1, similarity=Shaped("unconstrained")), IMAGE),
    "NSConv2d few taps": (lambda: nsl.NSConv2d(2, 3, 3, padding=1, similarity=FewTaps(2)), IMAGE),
    "DynamicNSConv2d shaped": (
        lambda: nsl.DynamicNSConv2d(2, 3, 3, padding=1, similarity=Shaped(), predictor_options={"hidden": 2}),
        IMAGE,
    ),
    "DynamicNSRNNCell": (lambda: DynamicNSRNNCell(4, 3, hidden=2), (2, 4)),
    "DynamicNSGRUCell": (lambda: DynamicNSGRUCell(4, 3, hidden=2), (2, 4)),
    "ODEBlock": (lambda: ODEBlock(nsl.NSConv2d(2, 2, 3, padding=1), "rk4", 2), IMAGE),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """The layer with parameters that are not the initial ones, and an input."""
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer = build()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer, torch.randn(shape)


@pytest.mark.parametrize("name", LAYERS)
def test_state_dicts_copies_and_pickles_compute_the_same(name: str) -> None:
    layer, x = made(name)
    expected = layer(x)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh = LAYERS[name][0]()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for clone in (fresh, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(clone(x), expected)
        assert repr(clone) == repr(layer)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layers_follow_to_dtype_and_to_meta(name: str, dtype: torch.dtype) -> None:
    layer, x = made(name)
    expected = layer(x)
    layer.to(dtype)
    y = layer(x.to(dtype))
    assert y.dtype == dtype
    if dtype == torch.float64:
        torch.testing.assert_close(y.float(), expected, rtol=1e-3, atol=1e-4)
    assert layer.to("meta")(x.to("meta", dtype)).shape == expected.shape


@pytest.mark.parametrize("name", LAYERS)
def test_layers_run_under_autocast_and_channels_last(name: str) -> None:
    layer, x = made(name)
    expected = layer(x)
    if x.dim() == 4:
        layer, x = layer.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    torch.testing.assert_close(y.float(), expected, rtol=0.2, atol=0.2)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_compile_without_a_graph_break(name: str) -> None:
    torch.compiler.reset()
    layer, x = made(name)
    expected = layer(x)
    parameters = list(layer.parameters())
    gradients = torch.autograd.grad(expected.sum(), parameters, allow_unused=True)
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(torch.autograd.grad(y.sum(), parameters, allow_unused=True), gradients):
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_exported_with_equal_outputs(name: str) -> None:
    layer, x = made(name)
    layer.eval()
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_can_be_mapped_over_their_parameters(name: str) -> None:
    layer, x = made(name)
    parameters = {key: value.detach() for key, value in layer.named_parameters()}
    sets = [{key: value + 0.1 * i for key, value in parameters.items()} for i in range(2)]
    each = torch.stack([torch.func.functional_call(layer, one, (x,)) for one in sets])
    stacked = {key: torch.stack([one[key] for one in sets]) for key in parameters}
    mapped = torch.func.vmap(lambda p: torch.func.functional_call(layer, p, (x,)))(stacked)
    torch.testing.assert_close(mapped, each, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_batch_gives_an_empty_batch(name: str) -> None:
    layer, x = made(name)
    output: Any = layer(torch.zeros(0, *x.shape[1:]))
    assert output.shape == (0, *layer(x).shape[1:])
    output.sum().backward()


def test_a_metric_keeps_its_state() -> None:
    metric = Mahalanobis(4, 2)
    nn.init.normal_(metric.factor)
    fresh = Mahalanobis(4, 2)
    fresh.load_state_dict(metric.state_dict())
    assert torch.equal(fresh.matrix(), metric.matrix())
