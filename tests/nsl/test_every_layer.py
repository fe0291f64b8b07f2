"""What users do with any layer: save, copy, pickle, cast, compile, and call it functionally, for every layer."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

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
from nsl.layers.ode import ODEBlock
from nsl.layers.shapes import FewTaps, Shaped
from nsl.layers.unshared import UnsharedNSConv2d

Case = tuple[Callable[[], nn.Module], tuple[int, ...]]
PAPER: dict[str, Case] = {
    **{
        f"NSConv2d {name}": (lambda name=name: nsl.NSConv2d(2, 3, 3, padding=1, similarity=name), (2, 2, 5, 4))
        for name in nsl.STRUCTURES
    },
    "NSConv2d learn_shape": (lambda: nsl.NSConv2d(2, 3, 3, learn_shape=True), (2, 2, 5, 4)),
    "NSConv1d": (lambda: nsl.NSConv1d(2, 3, 3, similarity="unconstrained"), (2, 2, 7)),
    "NSConv3d": (lambda: nsl.NSConv3d(2, 3, 2), (2, 2, 3, 4, 3)),
    "NSConvTranspose2d": (lambda: nsl.NSConvTranspose2d(2, 3, 3, stride=2), (2, 2, 5, 4)),
    "NSLinear": (lambda: nsl.NSLinear(4, 3, similarity="unconstrained"), (2, 4)),
    "NSRNNCell": (lambda: nsl.NSRNNCell(4, 3), (2, 4)),
    "NSGRUCell": (lambda: nsl.NSGRUCell(4, 3, similarity="unconstrained"), (2, 4)),
    **{
        f"DynamicNSConv2d {name}": (
            lambda name=name: nsl.DynamicNSConv2d(
                2, 3, 3, padding=1, similarity=name, predictor_options={"hidden": 2}
            ),
            (2, 2, 5, 4),
        )
        for name in ("diagonal", "unconstrained", "symmetric", "shift", "dilated")
    },
    "DynamicNSConv2d cnn": (
        lambda: nsl.DynamicNSConv2d(
            2, 3, 3, predictor="cnn", predictor_options={"hidden": 2, "head": "tanh"}, learn_shape=True
        ).eval(),
        (2, 2, 5, 4),
    ),
    "DynamicNSLinear": (lambda: nsl.DynamicNSLinear(4, 3, similarity="unconstrained", block_size=2), (2, 4)),
    **{
        f"SphereConv2d {name}": (lambda name=name: nsl.SphereConv2d(2, 3, 3, operator=name), (2, 2, 5, 4))
        for name in ("cosine", "linear", "sigmoid", "learnable_sigmoid")
    },
    "StaticGlobalSimilarity": (lambda: nsl.StaticGlobalSimilarity((3, 4)), (2, 2, 3, 4)),
    "GlobalSimilarity": (lambda: nsl.GlobalSimilarity(**nsl.sphere_maps(8), gamma=0.5), (2, 8, 3, 4)),
    "ShiftConv2d": (lambda: nsl.NSConv2d(2, 3, 3, padding=1, similarity="shift").fold(), (2, 2, 5, 4)),
}

IMAGE = (2, 2, 5, 4)
COMPARATORS: dict[str, Case] = {
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
LAYERS = PAPER | COMPARATORS


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
    fresh = LAYERS[name][0]() if name != "ShiftConv2d" else copy.deepcopy(layer)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert set(fresh.state_dict()) == set(layer.state_dict())
    for clone in (fresh, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(clone(x), expected)
        assert repr(clone) == repr(layer)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layers_follow_to_dtype_and_back(name: str, dtype: torch.dtype) -> None:
    layer, x = made(name)
    expected = layer(x)
    layer.to(dtype)
    y = layer(x.to(dtype))
    assert y.dtype == dtype
    close = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float64 else {"rtol": 0.2, "atol": 0.2}
    torch.testing.assert_close(y.float(), expected, **close)
    assert layer.to("meta")(x.to("meta", dtype)).shape == expected.shape


@pytest.mark.parametrize("name", LAYERS)
def test_layers_compile_without_a_graph_break(name: str) -> None:
    torch.compiler.reset()
    layer, x = made(name)
    expected = layer(x)
    parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(expected.sum(), parameters, allow_unused=True)
    # aot_eager traces forward and backward as every backend does, without generating code.
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y = compiled(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(torch.autograd.grad(y.sum(), parameters, allow_unused=True), gradients):
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_can_be_called_with_other_parameters_and_mapped_over_them(name: str) -> None:
    layer, x = made(name)
    parameters = {key: value.detach() for key, value in layer.named_parameters()}
    sets = [{key: value + 0.1 * i for key, value in parameters.items()} for i in range(3)]
    each = torch.stack([torch.func.functional_call(layer, one, (x,)) for one in sets])
    stacked = {key: torch.stack([one[key] for one in sets]) for key in parameters}
    mapped = torch.func.vmap(lambda p: torch.func.functional_call(layer, p, (x,)))(stacked)
    torch.testing.assert_close(mapped, each, rtol=1e-4, atol=1e-4)

    def loss(p: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layer, p, (x,)).square().sum()

    mapped_gradients = torch.func.vmap(torch.func.grad(loss))(stacked)
    for key, gradient in torch.func.grad(loss)(sets[1]).items():
        torch.testing.assert_close(mapped_gradients[key][1], gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("mode", [True, False])
def test_an_empty_batch_gives_an_empty_batch(name: str, mode: bool) -> None:
    layer, x = made(name)
    layer.train(mode)
    empty = torch.zeros(0, *x.shape[1:])
    output = layer(empty)
    assert output.shape == (0, *layer(x).shape[1:])
    output.sum().backward()
