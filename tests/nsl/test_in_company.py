"""Layers in the company of what users put around them: other layouts, types, parametrisations, ties and modes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import nsl
from nsl.layers.attention import sphere_maps
from nsl.training import Recipe, parameter_groups


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class LeNet(nn.Module):
    """Flattens by `view`, as many networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x).relu(), 2)
        x = F.max_pool2d(self.conv2(x).relu(), 2)
        logits: Tensor = self.fc(x.view(x.size(0), -1))
        return logits


def test_a_converted_network_may_flatten_by_view() -> None:
    model = nsl.convert(LeNet(), kind="dynamic")
    model(randn(2, 3, 16, 16)).sum().backward()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nsl.NSConv2d(4, 4, 3, padding=1),
        lambda: nsl.DynamicNSConv2d(4, 4, 3, padding=1),
        lambda: nsl.DynamicNSConv2d(4, 4, 3, padding=1, similarity="unconstrained"),
        lambda: nsl.SphereConv2d(4, 4, 3, padding=1),
        lambda: nsl.HyperConv2d(4, 4, 3, padding=1, dynamic=True),
        lambda: nsl.DynamicFilterConv2d(4, 4, 3, padding=1),
        lambda: nsl.DynamicFilterConv2d(4, 4, 3, padding=1, depthwise=True),
        lambda: nsl.DynamicFilterConv2d(4, 4, 3, padding=1, local=False),
        lambda: nsl.MixtureConv2d(4, 4, 3, padding=1),
        lambda: nsl.SelectedConv2d(4, 4, 3, padding=1),
        lambda: nsl.DeformConv2d(4, 4, 3, padding=1),
        lambda: nsl.DecoupledConv2d(4, 4, 3, padding=1),
        lambda: nsl.GlobalSimilarity(**sphere_maps(4), gamma=0.5),
        lambda: nsl.GlobalSimilarity(residual=False, gamma=None),
    ],
)
def test_usual_maps_come_out_as_usual_maps(make: Any) -> None:
    torch.manual_seed(0)
    layer, x = make(), randn(2, 4, 6, 5)
    usual, innermost = layer(x), layer(x.contiguous(memory_format=torch.channels_last))
    assert usual.is_contiguous()
    torch.testing.assert_close(usual, innermost, rtol=1e-4, atol=1e-5)


def test_patch_norms_of_groups_have_room_for_squares_in_half_precision() -> None:
    torch.manual_seed(0)
    layer, x = nsl.SphereConv2d(4, 4, 3, groups=2), 300 * randn(1, 4, 8, 8)
    found = copy.deepcopy(layer).half()(x.half()).float()
    torch.testing.assert_close(found, layer(x), rtol=0.01, atol=0.01)


class Drop(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return F.dropout(weight, 0.5, True)


@pytest.mark.parametrize("layer", [nsl.SphereConv2d(8, 16, 1), nsl.DecoupledConv2d(8, 16, 1, magnitude="sphere")])
def test_a_kernel_drawn_at_random_is_divided_by_its_own_norm(layer: nn.Module) -> None:
    torch.manual_seed(0)
    parametrize.register_parametrization(layer, "weight", Drop())
    found = layer(randn(50, 8, 4, 4))
    bias = getattr(layer, "bias", None)
    assert (found if bias is None else found - bias.view(1, -1, 1, 1)).abs().max() <= 1 + 1e-5


def test_a_parametrised_convolution_is_not_passed_over() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)))
    with pytest.raises(ValueError, match="'1' has hooks or parametrisations, which a conversion would lose"):
        nsl.convert(model)
    assert isinstance(nsl.convert(model, where=lambda name, _: name == "0")[0], nsl.NSConv2d)  # type: ignore[index]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.b.weight, self.b.bias = self.a.weight, self.a.bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.a(x).relu())
        return y


def test_folding_keeps_what_layers_share() -> None:
    torch.manual_seed(0)
    model, x = nsl.convert(Tied()), randn(1, 4, 6, 6)
    alike = copy.deepcopy(model)
    alike.b.neural = alike.a.neural  # type: ignore[union-attr]
    wanted = model(x), alike(x)
    model, alike = nsl.fold(model), nsl.fold(alike)
    assert model.a.bias is model.b.bias  # type: ignore[union-attr]
    assert model.a.weight is not model.b.weight  # type: ignore[union-attr]
    assert alike.a.weight is alike.b.weight  # type: ignore[union-attr]
    torch.testing.assert_close((model(x), alike(x)), wanted, rtol=1e-4, atol=1e-5)


def test_a_layers_rate_is_that_of_its_similarity_and_of_what_it_folds_into() -> None:
    layer = nsl.NSConv2d(3, 4, 3, similarity="unconstrained")
    layer.rate = 0.25
    groups = parameter_groups(nn.Sequential(layer), Recipe(iterations=1))
    assert {group["rate"] for group in groups} == {0.25}
    assert layer.fold().rate == 0.25


@pytest.mark.parametrize("similarity", ["diagonal", "dilated", "unconstrained"])
def test_the_channels_of_a_layer_may_be_changed_by_hand(similarity: str) -> None:
    torch.manual_seed(0)
    layer, x = nsl.NSConv2d(3, 8, 7, similarity=similarity), randn(2, 1, 9, 9)
    wanted = layer(x.expand(2, 3, 9, 9))
    layer.weight = nn.Parameter(layer.weight.detach().sum(1, keepdim=True))
    layer.in_channels = 1
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.fold()(x), wanted, rtol=1e-4, atol=1e-5)


def test_an_adaptation_network_and_an_own_generator_are_reset_to_their_start() -> None:
    torch.manual_seed(0)
    layer = nsl.DynamicNSConv2d(64, 32, 3, predictor_options={"shared": nsl.SharedKernels(16, 9, 3)})
    kernel = layer.predictor.adaptation[0].weight  # type: ignore[union-attr, index]
    start = kernel.std().item()
    layer.reset_parameters()
    assert kernel.std().item() == pytest.approx(start, rel=0.1)
    hyper = nsl.HyperConv2d(4, 4, 3)
    with torch.no_grad():
        hyper.generator.weight_in.fill_(7)
    hyper.reset_parameters()
    assert hyper.generator.weight_in.abs().max() < 7
    shared = nsl.KernelGenerator((3, 3), 2)
    layers = [nsl.HyperConv2d(4, 4, 3, generator=shared) for _ in range(2)]
    before = layers[0].kernel()
    layers[1].reset_parameters()
    assert torch.equal(layers[0].kernel(), before)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("local", [False, True])
def test_normalised_filters_learn_in_half_precision(depthwise: bool, local: bool) -> None:
    torch.manual_seed(0)
    layer = nsl.DynamicFilterConv2d(8, 8, 3, padding=1, local=local, depthwise=depthwise, hidden=4)
    x = randn(2, 8, 6, 6)
    layer(x).square().mean().backward()
    half = copy.deepcopy(layer).half()
    half.zero_grad()
    half(x.half()).square().mean().backward()
    for wide, narrow in zip(layer.parameters(), half.parameters()):
        assert wide.grad is not None
        assert narrow.grad is not None
        assert bool(narrow.grad.isfinite().all())
        assert (narrow.grad.float() - wide.grad).norm() <= 0.1 * wide.grad.norm() + 1e-4


def test_distances_of_near_points_are_measured_under_autocast_too() -> None:
    x, metric = 3 * randn(64, 16), nsl.Mahalanobis(16)
    y = x + 0.02 * torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    wanted = metric.squared_distance(x, y).diagonal()
    with torch.autocast("cpu", torch.bfloat16):
        found = metric.squared_distance(x, y).diagonal()
    assert torch.equal(found, wanted)
    assert bool((wanted > 0).all())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: nsl.GlobalSimilarity(nn.Conv2d(4, 2, 1, stride=(2, 1)), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 8, 1))(
                randn(1, 4, 4, 4)
            ),
            "query must give the positions of the input",
        ),
        (lambda: nsl.ODEBlock(nsl.NSConv2d(4, 1, 3, padding=1))(randn(2, 4, 5, 5)), "field must give a velocity"),
        (lambda: nsl.StaticGlobalSimilarity((2.7, 3)), "size must be"),  # type: ignore[arg-type]
        (lambda: nsl.DynamicNSConv2d(3, 4, 3)(randn(1, 3, 1, 1)), "input of 1x1 is smaller than the kernel"),
        (lambda: nsl.SphereConv2d(3, 4, 3, dtype=torch.complex64)(randn(1, 3, 4, 4) + 0j), "input must be real"),
        (lambda: nsl.DeformConv2d(3, 4, 3, dtype=torch.complex64)(randn(1, 3, 4, 4) + 0j), "must be real"),
    ],
)
def test_what_does_not_fit_is_one_sentence(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
