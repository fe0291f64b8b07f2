"""Gradients through gradient steps: MAML's and equation (7)'s, against finite differences in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nsl.fewshot.inner import descend, descend_once, meta_loss
from nsl.fewshot.maml import GradientMeta
from tests.nsl.fewshot.toy import method, tasks


def check(loss: Callable[[], Tensor], parameters: list[nn.Parameter], coordinates: int = 12) -> None:
    """The gradient of `loss` equals central differences in single coordinates and in a direction over all."""
    gradients = torch.autograd.grad(loss(), parameters)
    draw = torch.Generator().manual_seed(1)
    directions: list[list[Tensor]] = [
        [torch.randn(p.shape, dtype=p.dtype, generator=draw) / sum(q.numel() for q in parameters) for p in parameters]
    ]
    for i in range(coordinates):
        parameter = i % len(parameters)
        unit = [torch.zeros_like(p) for p in parameters]
        unit[parameter].view(-1)[int(torch.randint(0, parameters[parameter].numel(), (), generator=draw))] = 1
        directions.append(unit)
    for direction in directions:
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, d in zip(parameters, direction):
                    p.add_(sign * 1e-5 * d)
                values.append(loss().item())
                for p, d in zip(parameters, direction):
                    p.sub_(sign * 1e-5 * d)
        expected = (values[0] - values[1]) / 2e-5
        found = sum(float((g * d).sum()) for g, d in zip(gradients, direction))
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


def smooth(found: GradientMeta) -> GradientMeta:
    """In float64 and with values at which nothing is zero by construction."""
    found.network.double()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in found.start().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64, generator=draw))
    return found


@pytest.mark.parametrize("vectorise", [True, False])
def test_the_meta_gradient_of_maml_equals_finite_differences(vectorise: bool) -> None:
    maml = method("maml", width=2, train_steps=2, rate=0.1, vectorise=vectorise)
    assert isinstance(maml, GradientMeta)
    smooth(maml)
    batch = tasks(2, 3, 2, 2, (3, 8, 8))
    check(lambda: maml.loss(batch), list(maml.start().values()))


@pytest.mark.parametrize("similarity", ["diagonal", "unconstrained"])
def test_the_meta_gradient_of_equation_7_equals_finite_differences(similarity: str) -> None:
    rates = {"classifier_rate": 0.2, "similarity_rate": 0.1}
    found = method("meta_static_nsn", width=2, train_steps=2, similarity=similarity, **rates)
    assert isinstance(found, GradientMeta)
    found.network.eval()
    smooth(found)
    batch = tasks(2, 3, 2, 2, (3, 16, 16))
    start = found.start()
    assert {name.rsplit(".", 1)[-1] for name in start} == {"similarity", "weight", "bias"}
    assert {name for name in start if not name.endswith(".similarity")} == {"classifier.weight", "classifier.bias"}
    check(lambda: found.loss(batch), [*start.values(), *found.learned_rates()])


def test_vectorised_tasks_give_the_loss_and_gradient_of_a_loop() -> None:
    results = []
    for vectorise in (True, False):
        maml = method("maml", width=2, train_steps=2, rate=0.1, vectorise=vectorise)
        assert isinstance(maml, GradientMeta)
        smooth(maml)
        loss = maml.loss(tasks(3, 3, 2, 2, (3, 8, 8)))
        results.append([loss, *torch.autograd.grad(loss, list(maml.start().values()))])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("vectorise", [True, False])
def test_first_order_treats_the_inner_gradients_as_constants(vectorise: bool) -> None:
    """On a quadratic: second order differentiates 1 - rate * A, first order 1."""
    draw = torch.Generator().manual_seed(0)
    support, query = (torch.randn(2, 4, 3, dtype=torch.float64, generator=draw) for _ in range(2))
    targets = torch.randn(4, 1, dtype=torch.float64, generator=draw)
    weight = torch.randn(3, 1, dtype=torch.float64, generator=draw).requires_grad_()

    def loss(p: dict[str, Tensor], items: Tensor, wanted: Tensor) -> Tensor:
        return 0.5 * (items @ p["w"] - wanted).square().sum()

    for first_order in (False, True):
        value = meta_loss(
            loss,
            {"w": weight},
            support,
            targets,
            query,
            targets,
            steps=1,
            rate=0.1,
            first_order=first_order,
            vectorise=vectorise,
        )
        (found,) = torch.autograd.grad(value, weight)
        expected = torch.zeros_like(weight)
        for s, q in zip(support, query):
            with torch.no_grad():
                fast = weight - 0.1 * s.T @ (s @ weight - targets)
                outer = q.T @ (q @ fast - targets)
                expected += outer if first_order else outer - 0.1 * s.T @ (s @ outer)
        torch.testing.assert_close(found, expected / 2, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("vectorise", [True, False])
def test_a_first_order_rate_has_minus_the_sum_of_the_gradients_as_its_derivative(vectorise: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    items = torch.randn(2, 4, 3, dtype=torch.float64, generator=draw)
    targets = torch.randn(4, 1, dtype=torch.float64, generator=draw)
    start = {name: torch.randn(3, 1, dtype=torch.float64, generator=draw) for name in ("a", "b")}
    rates = {"a": torch.tensor(0.1).double().requires_grad_(), "b": torch.tensor(0.03).double().requires_grad_()}

    def loss(p: dict[str, Tensor], x: Tensor, wanted: Tensor) -> Tensor:
        return (items.new_tensor(0.5) * (x @ (p["a"] * p["b"]) - wanted).square()).sum()

    value = meta_loss(
        loss, start, items, targets, items, targets, steps=2, rate=rates, first_order=True, vectorise=vectorise
    )
    found = torch.autograd.grad(value, list(rates.values()))
    expected = {name: torch.zeros((), dtype=torch.float64) for name in rates}
    for x in items:
        fast, sums = dict(start), {name: torch.zeros(3, 1, dtype=torch.float64) for name in start}
        for _ in range(2):
            gradients = torch.func.grad(lambda p, x=x: loss(p, x, targets))(fast)
            sums = {name: sums[name] + gradients[name] for name in sums}
            fast = {name: fast[name] - rates[name].detach() * gradients[name] for name in fast}
        outer = torch.func.grad(lambda p, x=x: loss(p, x, targets))(fast)
        expected = {name: expected[name] - (outer[name] * sums[name]).sum() / 2 for name in expected}
    torch.testing.assert_close(list(found), list(expected.values()), rtol=1e-10, atol=1e-12)


def test_a_training_can_begin_with_first_order_and_end_with_second() -> None:
    def gradients(iteration: int, **options: float) -> list[Tensor]:
        maml = method("maml", iterations=4, width=2, train_steps=2, rate=0.1, vectorise=False, **options)
        assert isinstance(maml, GradientMeta)
        smooth(maml)
        batch = replace(tasks(2, 3, 2, 2, (3, 8, 8)), iteration=iteration)
        return list(torch.autograd.grad(maml.loss(batch), list(maml.start().values())))

    first, second = gradients(0, first_order=True), gradients(0)
    torch.testing.assert_close(gradients(1, first_order_until=0.5), first, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients(2, first_order_until=0.5), second, rtol=0, atol=0)
    assert not torch.allclose(first[0], second[0], rtol=1e-3)
    with pytest.raises(ValueError, match=r"maml: first_order_until must be within 0 and 1, got 1.5"):
        method("maml", first_order_until=1.5)


def test_adapting_after_training_takes_the_same_steps() -> None:
    draw = torch.Generator().manual_seed(0)
    items = torch.randn(5, 4, dtype=torch.float64, generator=draw)
    start = {"w": torch.randn(4, 2, dtype=torch.float64, generator=draw)}

    def loss(p: dict[str, Tensor]) -> Tensor:
        return (items @ p["w"]).exp().sum()

    expected = descend(loss, start, 3, 0.01)["w"]
    found = descend_once(loss, start, 3, 0.01)["w"]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert not found.requires_grad
    torch.testing.assert_close(descend_once(loss, start, 0, 0.01)["w"], start["w"], rtol=0, atol=0)
