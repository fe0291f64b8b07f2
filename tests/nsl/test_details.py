"""Details of training and networks, each with the number that it has to be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nsl
from nsl.data import EpisodeSampler, make_dataset
from nsl.models.backbones import CNN9, create_backbone
from nsl.models.cnn import PlainCNN
from nsl.models.cnn10 import Root
from nsl.models.segmentation import SegmentationNetwork
from nsl.training import Execution, Recipe, evaluate, parameter_groups, train
from nsl.training.fit import fit
from nsl.training.loop import DIVERGED_FACTOR

QUIET = Execution(progress=False)


def images(classes: int, count: int = 12) -> Any:
    """Images that do not matter, of classes in turn."""
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % classes
    return make_dataset("any", pixels, labels, pixels, labels, [f"class {i}" for i in range(classes)])


class Ranks(nn.Module):
    """Every image's classes are as likely as their numbers are small."""

    def __init__(self, classes: int, scale: float = 1.0) -> None:
        super().__init__()
        self.logits = nn.Parameter(-scale * torch.arange(classes).float())

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def test_the_top_five_are_five() -> None:
    data = images(7, 14)
    found = evaluate(Ranks(7), data)
    assert found[0] == pytest.approx(100 * 6 / 7)  # only class 0 is first
    assert found[1] == pytest.approx(100 * 2 / 7)  # classes 5 and 6 are not among the first five


@pytest.mark.parametrize(("factor", "diverged"), [(0.98, False), (1.02, True)])
def test_a_loss_of_fifty_times_chances_is_a_divergence(factor: float, diverged: bool) -> None:
    """Two classes, of which the wrong one is said with a logit that makes the loss."""
    data = images(2, 8)
    data = make_dataset("ones", data.train_images, data.train_labels * 0 + 1, data.test_images, data.test_labels,
                        list(data.class_names))  # fmt: skip
    loss = factor * DIVERGED_FACTOR * torch.log(torch.tensor(2.0)).item()
    recipe = Recipe(iterations=1, batch_size=8, learning_rate=1e-9, warmup=0, augment="none", evaluations=1)
    assert train(Ranks(2, loss), data, recipe, seed=0, execution=QUIET).diverged == diverged


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_penalty_counts_once_whatever_a_batch_is_computed_in(parts: int) -> None:
    recipe = Recipe(iterations=1, batch_size=8, learning_rate=1e-9, warmup=0, augment="none", evaluations=1)
    execution = Execution(progress=False, accumulate=parts)

    def loss(penalty: Any) -> float:
        found = train(Ranks(2), images(2), recipe, seed=0, execution=execution, penalty=penalty).train_loss
        assert found is not None
        return found

    assert loss(lambda model: model.logits.sum() * 0 + 3.0) - loss(None) == pytest.approx(3.0, abs=1e-5)


def test_the_releases_recipe_is_that_of_the_release() -> None:
    recipe = Recipe.release()
    rates = [recipe.rate(step) for step in (0, 19_999, 20_000, 29_999, 30_000, 37_499, 37_500, 42_499)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4])
    assert (recipe.iterations, recipe.label_smoothing, recipe.warmup) == (42_500, 0.01, 0.0)


def test_the_real_numbers_under_a_learned_shape_take_plain_steps() -> None:
    layer = nsl.NSConv2d(2, 3, 3, learn_shape=True, shape_rate=0.25)
    shape = layer.shape
    (group,) = [g for g in parameter_groups(layer, Recipe(iterations=1)) if any(p is shape for p in g["params"])]
    assert (group["momentum"], group["weight_decay"], group["rate"]) == (0.0, 0.0, 0.25)


# The loop for networks that are no classifiers.
class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.map = nn.BatchNorm1d(3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(self.norm(x))


X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) + 5


def fitted(seed: int = 0, steps: int = 4, **options: Any) -> tuple[nn.Module, list[list[int]]]:
    torch.manual_seed(0)
    model, seen = Normed(), []

    def loss(net: nn.Module, chosen: Tensor, _: int) -> Tensor:
        seen.append(chosen.tolist())
        return (1e6 if "clip" in options else 1e-3) * net(X[chosen]).square().mean()

    def measure(net: nn.Module) -> dict[str, float]:
        assert not net.training
        before = model.norm.running_mean.clone()  # type: ignore[union-attr, operator]
        value = net(X).mean()
        assert not value.requires_grad
        assert torch.equal(before, model.norm.running_mean)  # type: ignore[arg-type]
        return {"value": float(value)}

    recipe = Recipe(iterations=steps, batch_size=5, learning_rate=0.1, momentum=0.0, weight_decay=0.0,
                    schedule="constant", warmup=0, evaluations=2 if steps > 1 else 1)  # fmt: skip
    fit(model, loss, measure, len(X), recipe, seed=seed, identity="x", **options)
    return model, seen


def test_a_fit_measures_in_evaluation_mode_and_orders_by_its_seed() -> None:
    _, first = fitted(0)
    _, second = fitted(1)
    assert sorted(place for batch in first for place in batch) == list(range(20))
    assert first != second


def test_a_long_gradient_is_shortened_to_the_norm_that_is_said() -> None:
    torch.manual_seed(0)
    start = Normed()
    model, _ = fitted(steps=1, clip=1e-3)
    pairs = zip(model.parameters(), start.parameters())
    moved = torch.cat([(now - then).flatten() for now, then in pairs]).detach()
    assert float(moved.double().norm()) == pytest.approx(1e-4, rel=1e-2)


# Networks.
def test_cnn9_as_a_backbone_is_that_of_the_tables() -> None:
    torch.manual_seed(0)
    tables, backbone = PlainCNN(10, 4).eval(), CNN9(4).eval()
    blocks = [tables.root, *(block for stage in tables.stages for block in stage if hasattr(block, "conv"))]
    for block, convolution, norm in zip(blocks, backbone.convolutions, backbone.norms, strict=True):
        convolution.load_state_dict(block.conv.state_dict())
        norm.eps = block.norm.eps
        with torch.no_grad():
            block.norm.running_mean.normal_()
            block.norm.running_var.uniform_(0.5, 2)
        norm.load_state_dict(block.norm.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(backbone.features(x), tables.features(x))


def norm(x: Tensor, layer: Any) -> Tensor:
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, False, 0.0, layer.eps)


def lively(network: nn.Module) -> nn.Module:
    """Batch norms that scale and shift, residual branches that do not vanish."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for value in (module.weight, module.running_var):
                    value.copy_(torch.rand(value.shape, generator=generator) + 0.5)  # type: ignore[union-attr]
                for value in (module.bias, module.running_mean):
                    value.copy_(torch.randn(value.shape, generator=generator))  # type: ignore[union-attr]
            elif isinstance(module, nn.Conv2d):
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) / 10)
    return network.eval()


def conv(x: Tensor, layer: Any, stride: int = 1) -> Tensor:
    return F.conv2d(x, layer.weight, None, stride, layer.kernel_size[0] // 2)


def test_resnet34s_blocks_are_those_of_its_paper() -> None:
    """He et al., 2016: relu(x + norm(conv(relu(norm(conv(x)))))), the shortcut projected where the size changes."""
    network = lively(create_backbone("resnet34", width=4))
    x = torch.randn(2, 3, 16, 16)
    maps = F.relu(norm(conv(x, network.stem), network.stem_norm))
    for number, block in enumerate(network.blocks):  # type: ignore[arg-type]
        stride = 2 if number in (3, 7, 13) else 1
        inner = F.relu(norm(conv(maps, block.first, stride), block.first_norm))
        inner = norm(conv(inner, block.second), block.second_norm)
        if stride == 2:
            maps = norm(F.conv2d(maps, block.shortcut[0].weight, None, 2), block.shortcut[1])
        maps = F.relu(maps + inner)
    torch.testing.assert_close(network.features(x), maps, rtol=1e-4, atol=1e-4)


def test_wrn28s_blocks_are_those_of_its_paper() -> None:
    """Zagoruyko and Komodakis, 2016: norm and ReLU before every convolution, a projection of what they give."""
    network = lively(create_backbone("wrn28_10", width=4))
    x = torch.randn(2, 3, 16, 16)
    maps = conv(x, network.stem)
    for number, block in enumerate(network.blocks):  # type: ignore[arg-type]
        stride = 2 if number in (4, 8) else 1
        active = F.relu(norm(maps, block.first_norm))
        inner = F.relu(norm(conv(active, block.first, stride), block.second_norm))
        shortcut = maps if block.shortcut is None else F.conv2d(active, block.shortcut.weight, None, stride)
        maps = shortcut + conv(inner, block.second)
    torch.testing.assert_close(network.features(x), F.relu(norm(maps, network.last_norm)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet12", "resnet34", "wrn28_10"])
def test_the_branches_of_residual_networks_start_at_zero(name: str) -> None:
    torch.manual_seed(0)
    network = create_backbone(name, width=4).eval()
    last = {"resnet12": "norms.2", "resnet34": "second_norm", "wrn28_10": "second"}[name]
    for block in network.blocks:  # type: ignore[union-attr]
        assert not block.get_submodule(last).weight.any()  # type: ignore[union-attr, operator]


def test_the_root_for_large_images_pools_their_largest() -> None:
    torch.manual_seed(0)
    root = Root(4, 128, 0.1).eval()
    x = torch.randn(1, 3, 128, 128)
    maps = root[:3](x)
    torch.testing.assert_close(root(x), F.max_pool2d(maps, 3, 2, 1))


def test_segmentation_adds_the_scores_of_all_stages() -> None:
    torch.manual_seed(0)
    network = SegmentationNetwork(3, 4).eval()
    x = torch.randn(2, 3, 16, 16)
    maps, scores = network.root(x), []
    for stage, classifier in zip(network.stages, network.classifier):
        maps = stage(maps)
        scores.append(F.interpolate(classifier(maps), size=(16, 16), mode="bilinear", align_corners=False))
    assert len(scores) == 3
    torch.testing.assert_close(network(x), sum(scores))


def test_a_learned_radius_starts_at_the_norm_of_a_patch_of_unit_variance() -> None:
    layer = nsl.DecoupledConv2d(2, 3, 3, magnitude="ball", learnable=True)
    assert layer.rho is not None
    torch.testing.assert_close(layer.rho.detach(), torch.full_like(layer.rho, 18**0.5))
    assert copy.deepcopy(layer).rho is not layer.rho


def test_episodes_are_the_ones_that_stored_records_were_measured_on() -> None:
    episode = EpisodeSampler(torch.arange(20).repeat_interleave(20), 5, 1, 2, 3, seed=7)[2]
    assert tuple(episode.classes) == (4, 16, 8, 2, 19)
    assert torch.as_tensor(episode.support).tolist() == [83, 327, 160, 50, 380]
    assert torch.as_tensor(episode.query).tolist() == [85, 84, 339, 333, 174, 173, 56, 43, 381, 394]
