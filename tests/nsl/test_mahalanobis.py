"""Metric learning as a symmetric positive semi-definite similarity (paper 3.1)."""

from __future__ import annotations

import pytest
import torch

import nsl
from nsl.layers.mahalanobis import Mahalanobis, neighbourhood_loss
from nsl.layers.structure import Block
from nsl.layers.structures import PSD


def test_distances_and_similarities_are_those_of_one_matrix() -> None:
    torch.manual_seed(0)
    metric = Mahalanobis(4, 3, dtype=torch.float64)
    torch.nn.init.normal_(metric.factor)
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    M = metric.matrix()
    for i in range(5):
        for j in range(6):
            torch.testing.assert_close(metric(x, y)[i, j], x[i] @ M @ y[j], rtol=1e-10, atol=1e-10)
            difference = x[i] - y[j]
            torch.testing.assert_close(
                metric.squared_distance(x, y)[i, j], difference @ M @ difference, rtol=1e-10, atol=1e-10
            )


def test_a_psd_similarity_ranks_kernels_as_the_mahalanobis_distance_does() -> None:
    """The reduction of 3.1: among kernels of equal length in M, the most similar to a patch is the nearest."""
    torch.manual_seed(0)
    block = Block((3, 3))
    structure = PSD()
    M = structure.assemble(torch.randn(45, dtype=torch.float64), block)
    layer = nsl.NSConv2d(1, 12, 3, bias=False, similarity="psd", dtype=torch.float64)
    with torch.no_grad():
        layer.similarity.copy_(torch.randn(45, dtype=torch.float64))
        M = layer.similarity_matrix()
        kernels = layer.weight.flatten(1)
        layer.weight.div_(((kernels @ M) * kernels).sum(1).sqrt().view(-1, 1, 1, 1))
    patches = torch.randn(20, 1, 3, 3, dtype=torch.float64)
    similarity = layer(patches).flatten(1)  # [20, 12]
    difference = patches.flatten(1)[:, None] - layer.weight.flatten(1)[None]
    distance = torch.einsum("pkn,nm,pkm->pk", difference, M, difference)
    assert torch.equal(similarity.argsort(1, descending=True), distance.argsort(1))


def test_in_general_the_ranking_takes_half_the_squared_length_off() -> None:
    torch.manual_seed(0)
    metric = Mahalanobis(4, dtype=torch.float64)
    torch.nn.init.normal_(metric.factor)
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    length = (y @ metric.factor).square().sum(1)
    similarity, distance = metric(x, y) - length / 2, metric.squared_distance(x, y)
    assert torch.equal(similarity.argsort(1, descending=True), distance.argsort(1))


def test_the_loss_is_the_log_probability_of_a_neighbour_of_ones_class() -> None:
    torch.manual_seed(0)
    metric = Mahalanobis(3, dtype=torch.float64)
    torch.nn.init.normal_(metric.factor)
    x, labels = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 1, 2])
    M, total = metric.matrix(), 0.0
    for i in range(5):  # the sixth is alone in its class
        weights = torch.stack([torch.exp(-(x[i] - y) @ M @ (x[i] - y)) for y in x])
        others = [j for j in range(6) if j != i]
        same = [j for j in others if labels[j] == labels[i]]
        total -= torch.log(weights[same].sum() / weights[others].sum()).item()
    assert neighbourhood_loss(metric, x, labels).item() == pytest.approx(total / 5, abs=1e-10)
    assert neighbourhood_loss(metric, x[:1], labels[:1]).item() == 0
    assert torch.autograd.gradcheck(lambda f: _loss(metric, f, x, labels), metric.factor.detach().requires_grad_())


def _loss(metric: Mahalanobis, factor: torch.Tensor, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    distance = torch.func.functional_call(metric, {"factor": factor}, (x, x))
    lengths = (x @ factor).square().sum(1)
    squared = lengths[:, None] + lengths[None, :] - 2 * distance
    other = Mahalanobis(3, dtype=torch.float64)
    other.squared_distance = lambda a, b: squared  # type: ignore[method-assign]
    return neighbourhood_loss(other, x, labels)


def test_learning_m_helps_where_one_direction_carries_the_classes() -> None:
    torch.manual_seed(0)
    labels = torch.arange(2).repeat(60)
    x = torch.randn(120, 5) * torch.tensor([1.0, 4, 4, 4, 4])
    x[:, 0] += 3 * labels
    metric = Mahalanobis(5)
    optimiser = torch.optim.Adam(metric.parameters(), 0.05)

    def error() -> float:
        distance = metric.squared_distance(x[80:], x[:80])
        return (labels[:80][distance.argmin(1)] != labels[80:]).float().mean().item()

    before = error()
    for _ in range(200):
        optimiser.zero_grad()
        neighbourhood_loss(metric, x[:80], labels[:80]).backward()
        optimiser.step()
    assert error() < before - 0.1


def test_impossible_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="rank must be from 1 to features = 4, got 5"):
        Mahalanobis(4, 5)
