"""Backbones of the few-shot table: sizes, shapes, widths."""

from __future__ import annotations

import pytest
import torch

import nsl
from nsl.models.backbones import BACKBONES, create_backbone

# Convolutions and batch norms only, counted by hand. CNN-9: the release's 511,200 less its classifier; WRN-28-10: the
# 36,479,194 of its authors for CIFAR-10 less the classifier.
PARAMETERS = {"cnn4": 28_768, "cnn9": 490_720, "resnet12": 7_996_800, "resnet34": 21_276_992, "wrn28_10": 36_472_784}


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_widths_are_those_of_the_papers(name: str) -> None:
    with torch.device("meta"):
        network = create_backbone(name)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(BACKBONES))
@pytest.mark.parametrize("size", [16, 32, 84])
def test_every_backbone_takes_every_image_size_and_width(name: str, size: int) -> None:
    network = create_backbone(name, width=10)
    images = torch.randn(2, 3, size, size)
    maps = network.features(images)
    assert maps.shape[:2] == (2, network.channels)
    assert network(images).shape == (2, network.output_size(size))


def test_cnn4_has_1600_features_of_an_image_of_mini_imagenet_with_64_filters() -> None:
    assert create_backbone("cnn4", width=64).output_size(84) == 1600
    assert create_backbone("cnn4").output_size(84) == 800


@pytest.mark.parametrize("similarity", ["diagonal", "unconstrained"])
@pytest.mark.parametrize("name", ["cnn4", "cnn9"])
def test_a_static_backbone_starts_as_the_plain_one(name: str, similarity: str) -> None:
    plain = create_backbone(name, width=4).eval()
    static = create_backbone(name, width=4, kind="static", similarity=similarity).eval()
    missing, unexpected = static.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(key.endswith(".similarity") for key in missing)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(static(images), plain(images), rtol=0, atol=0)


def test_batch_statistics_are_used_in_evaluation_too_where_asked() -> None:
    network = create_backbone("cnn4", width=4, batch_statistics=True)
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(network.eval()(images), network.train()(images), rtol=0, atol=0)
    assert not any("running" in key for key in network.state_dict())


def test_the_few_shot_networks_have_names() -> None:
    for name in ("cnn4", "nsn4_static", "nsn4_dynamic", "resnet12", "resnet34", "wrn28_10"):
        model = nsl.create_model(name, 64, width=10, image_size=16)
        assert model(torch.randn(2, 3, 16, 16)).shape == (2, 64)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="backbone must be one of"):
        create_backbone("vgg")
    with pytest.raises(ValueError, match="kind must be one of"):
        create_backbone("cnn4", kind="learned")
    with pytest.raises(ValueError, match="needs the backbone 'cnn4' or 'cnn9'"):
        create_backbone("wrn28_10", kind="static")
    with pytest.raises(ValueError, match="width must be positive"):
        create_backbone("cnn4", width=0)
    with pytest.raises(ValueError, match="pools must be 0 to 4"):
        create_backbone("cnn4", pools=5)
