"""SphereNet with global neural similarity (paper appendix B; widths and places from the release)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nsl.layers.attention import GlobalSimilarity, sphere_maps
from nsl.layers.shared import BATCH_NORM_EPSILON
from nsl.layers.spherical import OPERATORS, SphereConv2d
from nsl.models.cnn import Chain, check_image_size, he_initialise


class SphereBlock(Chain):
    """SphereConv, batch norm, ReLU: [B, C, H, W] to [B, F, H, W]."""

    def __init__(self, in_channels: int, out_channels: int, operator: str = "cosine") -> None:
        super().__init__()
        self.conv = SphereConv2d(in_channels, out_channels, 3, padding=1, operator=operator)
        self.norm = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPSILON)
        self.relu = nn.ReLU(inplace=True)


class SphereNet(nn.Module):
    """Three stages of SphereConv layers, each followed by a pooling, with attention after the first two poolings.

    After them a SphereConv over the whole map, without batch norm or ReLU (the release's fc6), and a linear classifier.

    Args:
        num_classes: outputs.
        width: filters of the first stage; the others have 3/2 and 2 times as many (release: 128, 192, 256).
        depth: convolutions a stage.
        image_size: height and width of the square input, a multiple of 8.
        attention: with the two blocks of global similarity.
        operator: of all SphereConv layers but those of attention.

    Shapes: [B, 3, image_size, image_size] to logits [B, num_classes].

    Raises:
        ValueError: image_size is not a positive multiple of 8, width or num_classes is not positive, unknown operator.
    """

    def __init__(
        self,
        num_classes: int,
        width: int = 128,
        depth: int = 3,
        image_size: int = 32,
        attention: bool = True,
        operator: str = "cosine",
    ) -> None:
        super().__init__()
        if image_size < 8 or image_size % 8:
            raise ValueError(f"image_size must be a multiple of 8 (three poolings), got {image_size}")
        if width < 1 or num_classes < 1:
            raise ValueError(f"width and num_classes must be positive, got {width} and {num_classes}")
        if operator not in OPERATORS:
            raise ValueError(f"operator must be one of {list(OPERATORS)}, got {operator!r}")
        self.image_size = image_size
        channels = 3
        layers: list[nn.Module] = []
        for stage, filters in enumerate((width, width * 3 // 2, width * 2)):
            for _ in range(depth):
                layers.append(SphereBlock(channels, filters, operator))
                channels = filters
            layers.append(nn.MaxPool2d(2))
            if attention and stage < 2:
                layers.append(GlobalSimilarity(**sphere_maps(channels)))
        self.layers = nn.Sequential(*layers)
        self.embedding = SphereConv2d(channels, channels, image_size // 8, operator=operator)
        self.classifier = nn.Conv2d(channels, num_classes, 1, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation of all kernels (fan in)."""
        he_initialise(self)

    def features(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] to the last map [B, 2 * width, S / 8, S / 8]."""
        return self.layers(images)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] to logits [B, num_classes].

        Raises:
            ValueError: images of another size, where the classifier would give several logits a class or none.
        """
        if not torch.jit.is_scripting():
            check_image_size(images, self.image_size)
        return self.classifier(self.embedding(self.features(images))).flatten(1)


def spherenet(
    num_classes: int,
    *,
    width: int = 128,
    image_size: int = 32,
    attention: bool = True,
    operator: str = "cosine",
) -> SphereNet:
    """SphereNet of the release's appendix model; how it is trained there: DISCREPANCIES.md, "Global similarity"."""
    return SphereNet(num_classes, width, 3, image_size, attention, operator)
