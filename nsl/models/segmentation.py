"""A fully convolutional network for semantic segmentation, and its Neural Similarity Networks (paper 8).

Source: Long, Shelhamer, Darrell, Fully Convolutional Networks for Semantic Segmentation, CVPR 2015: the scores of every
stage are enlarged and added. Sizes are ours: three stages of CNN-9's widths with two convolutions each.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nsl.layers.conv import DynamicNSConv2d, NSConv2d
from nsl.layers.predictors import hidden_width
from nsl.models.cnn import BATCH_NORM_MOMENTUM, ConvBlock, Convolution, he_initialise

KINDS = ("plain", "static", "dynamic")


class SegmentationNetwork(nn.Module):
    """Root and three stages of convolutions, the second and third behind a pooling; a 1x1 classifier a stage.

    Args:
        num_classes: outputs a pixel.
        width: filters of the root and the first stage; the others have 2 and 4 times as many.
        depth: convolutions a stage.
        kind: "plain", "static" or "dynamic" convolutions after the root.
        similarity: of the last two.
        predictor_options: of the dynamic one; the hidden channels default to 2 width.

    Shapes: [B, 3, H, W], H and W multiples of 4, to logits [B, num_classes, H, W].

    Raises:
        ValueError: unknown kind, or a width or a number of classes below 1.
    """

    def __init__(
        self,
        num_classes: int,
        width: int = 16,
        depth: int = 2,
        kind: str = "plain",
        similarity: str = "diagonal",
        predictor_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}, got {kind!r}")
        if width < 1 or num_classes < 1:
            raise ValueError(f"width and num_classes must be positive, got {width} and {num_classes}")
        options = {"hidden": hidden_width(similarity, width)} | (predictor_options or {})
        convolutions: dict[str, Convolution] = {
            "plain": nn.Conv2d,
            "static": partial(NSConv2d, similarity=similarity),
            "dynamic": partial(DynamicNSConv2d, similarity=similarity, predictor_options=options),
        }
        momentum = BATCH_NORM_MOMENTUM["paper"]
        self.root = ConvBlock(3, width, nn.Conv2d, momentum)
        stages, classifiers, channels = [], [], width
        for number, filters in enumerate((width, 2 * width, 4 * width)):
            blocks: list[nn.Module] = [nn.MaxPool2d(2)] if number else []
            for _ in range(depth):
                blocks.append(ConvBlock(channels, filters, convolutions[kind], momentum))
                channels = filters
            stages.append(nn.Sequential(*blocks))
            classifiers.append(nn.Conv2d(filters, num_classes, 1))
        self.stages, self.classifier = nn.ModuleList(stages), nn.ModuleList(classifiers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation of the kernels (fan in); similarities, predictors and classifiers keep their own."""
        for stage in [self.root, *self.stages]:
            he_initialise(stage)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, num_classes, H, W]."""
        maps, logits = self.root(images), None
        for stage, classifier in zip(self.stages, self.classifier):
            maps = stage(maps)
            scores = F.interpolate(classifier(maps), size=images.shape[2:], mode="bilinear", align_corners=False)
            logits = scores if logits is None else logits + scores
        assert logits is not None
        return logits
