"""The networks of Table 5: the paper's parameter counts, wiring, and what they cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nsl
from nsl.models import ImageNetCNN

NAMES = ("cnn10", "cnn10pp", "nsn10_dynamic_diagonal")


def parameters(name: str, width: int = 32, classes: int = 1000) -> int:
    with torch.device("meta"):
        return nsl.count_parameters(nsl.create_model(name, classes, width=width))


@pytest.mark.parametrize(("name", "paper"), [("cnn10pp", 9.71e6), ("nsn10_dynamic_diagonal", 9.61e6)])
def test_parameter_counts_match_table_5_within_one_percent(name: str, paper: float) -> None:
    assert abs(parameters(name) / paper - 1) < 0.01


def test_the_exact_parameter_counts_are_pinned() -> None:
    assert [parameters(name) for name in NAMES] == [8_268_352, 9_701_677, 9_605_248]
    with torch.device("meta"):
        release = nsl.create_model("nsn10_dynamic_diagonal", 1000, predictor="release")
    assert nsl.count_parameters(release) == 9_606_562


@pytest.mark.parametrize("width", [4, 8, 16, 32])
def test_cnn_plus_plus_is_slightly_larger_than_the_dynamic_network_at_every_width(width: int) -> None:
    counts = [parameters(name, width, 25) for name in NAMES]
    assert counts[0] < counts[2] < counts[1] < 1.25 * counts[2]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("image_size", [16, 30, 64, 128])
def test_every_model_maps_images_of_any_size_to_logits(name: str, image_size: int) -> None:
    model = nsl.create_model(name, 7, width=2, image_size=image_size)
    assert isinstance(model, ImageNetCNN)
    assert model(torch.randn(2, 3, image_size, image_size)).shape == (2, 7)


def test_the_plain_network_has_ten_convolutions_before_the_classifier() -> None:
    model = nsl.create_model("cnn10", 10, width=2)
    kernels = [m.kernel_size[0] for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [7] + 9 * [3] + [1]


def test_the_dynamic_network_starts_near_the_identity() -> None:
    torch.manual_seed(0)
    model = nsl.create_model("nsn10_dynamic_diagonal", 10, width=4, image_size=16)
    layers = [m for m in model.modules() if isinstance(m, nsl.DynamicNSConv2d)]
    assert len(layers) == 9
    assert (layers[0].predict_similarity(torch.rand(4, 8, 16, 16)) - 1).abs().max() < 0.3


def test_too_small_images_and_unknown_variants_are_named() -> None:
    with pytest.raises(ValueError, match="image_size must be at least 16"):
        nsl.create_model("cnn10", image_size=8)
    with pytest.raises(ValueError, match="variant must be one of"):
        nsl.create_model("cnn10", variant="tf1")


def test_multiply_adds_of_plain_layers_are_those_of_the_definition() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, groups=4), nn.Flatten(), nn.Linear(72, 5)
    )
    # Maps of 5x5 and of 3x3.
    assert nsl.count_multiply_adds(model, 10) == 8 * 27 * 25 + 8 * 18 * 9 + 72 * 5


def test_multiply_adds_count_the_predictor_the_norm_and_the_similarity() -> None:
    plain, taps, places = 8 * 27, 9, 10 * 10
    options = {"hidden": 4}
    release = nsl.DynamicNSConv2d(3, 8, 3, padding=1, predictor="release", predictor_options=options)
    predictor = 4 * 27 + 9 * 4 * taps + (3 + taps) + 4
    assert nsl.count_multiply_adds(nn.Sequential(release), 10) == places * (plain + predictor + 3 * taps)
    sphere = nsl.DynamicNSConv2d(3, 8, 3, padding=1, predictor_options=options)
    predictor += (4 + taps) + 9
    assert nsl.count_multiply_adds(nn.Sequential(sphere), 10) == places * (plain + predictor + 3 * taps)
    full = nsl.DynamicNSConv2d(3, 8, 3, padding=1, similarity="unconstrained", predictor=nn.Conv2d(3, 81, 3, padding=1))
    assert nsl.count_multiply_adds(full, 10) == places * (plain + 81 * 27 + 3 * 81)
    static = nsl.NSConv2d(3, 8, 3, padding=1)
    assert nsl.count_multiply_adds(static, 10) == places * plain


def test_counting_leaves_the_network_as_it_was() -> None:
    model = nsl.create_model("nsn10_dynamic_diagonal", 5, width=2, image_size=16)
    model.root.norm.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    nsl.count_multiply_adds(model, 16)
    assert model.training
    assert not model.root.norm.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_networks_of_table_5_cost_what_readme_and_notebook_say() -> None:
    cnn = nsl.count_multiply_adds(nsl.create_model("cnn10", 1000), 224)
    dynamic = nsl.count_multiply_adds(nsl.create_model("nsn10_dynamic_diagonal", 1000), 224)
    assert 3.5e9 < cnn < 3.7e9
    assert 1.2 < dynamic / cnn < 1.5


def test_multiply_adds_of_convolutions_of_one_and_three_dimensions_and_transposed_ones_are_counted() -> None:
    one = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(2), nn.Conv1d(2, 5, 3))
    assert nsl.count_multiply_adds(one, 4) == 3 * 2 * 16 + 2 * 5 * 3 * 14
    three = nn.Sequential(nn.Unflatten(1, (3, 1)), nsl.NSConv3d(3, 4, (1, 2, 2)))
    assert nsl.count_multiply_adds(three, 4) == 3 * 4 * 4 * 9
    assert nsl.count_multiply_adds(nn.ConvTranspose2d(3, 6, 2, stride=2), 4) == 3 * 6 * 4 * 16
