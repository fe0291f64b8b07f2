"""Filters chosen by the input, against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nsl.data import make_dataset
from nsl.layers.filter_selection import MixtureConv2d, SelectedConv2d
from nsl.training import Recipe, train
from nsl.training.fit import fit
from tests.nsl.windows import moved, passes_gradcheck


def image() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(4, 3, 5, 4, dtype=torch.float64)


def test_a_gate_switches_its_filter_off_for_the_image() -> None:
    layer = SelectedConv2d(3, 8, 3, padding=1, hidden=4, dtype=torch.float64)
    moved(layer)
    with torch.no_grad():
        layer.gater[2].bias.zero_()
    x = image()
    numbers = layer.gater[2].weight @ torch.relu(
        layer.gater[0].weight @ x.mean((2, 3)).t() + layer.gater[0].bias[:, None]
    )
    gates = (numbers.t() + layer.gater[2].bias > 0).double()
    assert 0 < gates.mean() < 1
    expected = F.conv2d(x, layer.weight, layer.bias, padding=1) * gates[:, :, None, None]
    assert torch.equal(layer.gates(x), gates)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_the_gates_gradient_is_the_sigmoids() -> None:
    layer = SelectedConv2d(3, 2, 3, hidden=4, dtype=torch.float64)
    x = image()
    hard = torch.autograd.grad(layer.gates(x).sum(), layer.gater[2].weight)[0]
    soft = torch.autograd.grad(torch.sigmoid(layer.gater(x.mean((2, 3)))).sum(), layer.gater[2].weight)[0]
    torch.testing.assert_close(hard, soft, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("routing", ["softmax", "sigmoid"])
def test_a_mixture_convolves_with_the_mixed_kernel_of_the_image(routing: str) -> None:
    layer = MixtureConv2d(3, 5, 3, stride=2, padding=1, banks=3, routing=routing, dtype=torch.float64)
    moved(layer)
    x = image()
    for b in range(len(x)):
        numbers = layer.router.weight @ x[b].mean((1, 2)) + layer.router.bias
        pi = (numbers / 30).softmax(0) if routing == "softmax" else 1 / (1 + torch.exp(-numbers))
        kernel = sum(pi[e] * bank for e, bank in enumerate(layer.weight.chunk(3)))
        expected = F.conv2d(x[b : b + 1], kernel, layer.bias, stride=2, padding=1)
        torch.testing.assert_close(layer(x)[b : b + 1], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("routing", ["softmax", "sigmoid"])
def test_every_bank_starts_with_he_variance(routing: str) -> None:
    torch.manual_seed(0)
    layer = MixtureConv2d(32, 32, 3, banks=4, routing=routing)
    assert layer.weight.var().item() == pytest.approx(2 / (32 * 9), rel=0.1)


def test_an_even_mixture_before_batch_norm_learns_as_fast_as_a_plain_kernel() -> None:
    """A step turns both kernels by the same angle, whose tangent is step over length."""
    torch.manual_seed(0)
    mixture = MixtureConv2d(3, 5, 3, banks=4, bias=False, dtype=torch.float64)
    torch.nn.init.zeros_(mixture.router.weight)
    torch.nn.init.zeros_(mixture.router.bias)
    plain = torch.nn.Conv2d(3, 5, 3, bias=False, dtype=torch.float64)
    norm = torch.nn.BatchNorm2d(5, eps=1e-12, dtype=torch.float64)

    def mixed(of: torch.Tensor | None) -> torch.Tensor:
        assert of is not None
        return of.detach().unflatten(0, (4, -1)).mean(0)

    # The plain kernel is as long as one of He's is expected to be: twice the even mixture of four of them.
    plain.weight.data.copy_(2 * mixed(mixture.weight))
    x = image()
    target = torch.randn_like(plain(x))
    for layer in (mixture, plain):
        (norm(layer(x)) - target).square().sum().backward()
    turned = mixed(mixture.weight.grad) / mixed(mixture.weight).norm()
    torch.testing.assert_close(turned, plain.weight.grad / plain.weight.norm(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("routing", ["softmax", "sigmoid"])
def test_the_temperature_levels_the_weights(routing: str) -> None:
    layer = MixtureConv2d(3, 4, 3, banks=3, routing=routing, temperature=2.0, dtype=torch.float64)
    x = image()
    numbers = layer.router(x.mean((2, 3))) / 2
    expected = numbers.softmax(-1) if routing == "softmax" else numbers.sigmoid()
    torch.testing.assert_close(layer.mixture(x), expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        MixtureConv2d(3, 4, 3, routing=routing, temperature=0.0)


def test_the_temperature_falls_over_the_first_part_of_a_training_and_is_kept_with_the_weights() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(16) % 2
    data = make_dataset("noise", images, labels, images, labels, ("even", "odd"))
    recipe = Recipe(iterations=8, batch_size=4, learning_rate=0.01, evaluations=1, augment="none")
    layer = MixtureConv2d(3, 2, 3, anneal=0.5)
    model = torch.nn.Sequential(layer, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    seen = []
    train(model, data, recipe, seed=0, before_step=lambda _: seen.append(float(layer.temperature)))
    assert seen == pytest.approx([30.0, 22.75, 15.5, 8.25, 1.0, 1.0, 1.0, 1.0])
    seen.clear()

    def loss(network: torch.nn.Module, batch: torch.Tensor, _step: int) -> torch.Tensor:
        seen.append(float(layer.temperature))
        return F.cross_entropy(network(images[batch].float() / 255), labels[batch])

    fit(model, loss, lambda _: {"error": 0.0}, 16, recipe, seed=0, identity="mixture")  # of any other task
    assert seen == pytest.approx([30.0, 22.75, 15.5, 8.25, 1.0, 1.0, 1.0, 1.0])
    again = MixtureConv2d(3, 2, 3, anneal=0.5)
    assert float(again.temperature) == 30.0
    again.load_state_dict(layer.state_dict())
    assert float(again.temperature) == 1.0
    with pytest.raises(ValueError, match="anneal must be a part of the training, from 0 to 1, got 2"):
        MixtureConv2d(3, 2, 3, anneal=2)


def test_mixtures_have_the_derivatives_of_finite_differences() -> None:
    layer = MixtureConv2d(3, 2, 2, dtype=torch.float64)
    assert passes_gradcheck(layer, image()[:2])


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="routing must be one of"):
        MixtureConv2d(3, 4, 3, routing="hard")
    with pytest.raises(ValueError, match="banks must be at least 1"):
        MixtureConv2d(3, 4, 3, banks=0)
    with pytest.raises(ValueError, match="hidden must be at least 1"):
        SelectedConv2d(3, 4, 3, hidden=0)
