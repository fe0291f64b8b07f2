"""CNN-10 and its relatives for ImageNet (paper 7.1, Table 5): VGG-like, ten convolutions, one width argument.

    root, 2w | 3 x (3x3 conv, 4w) | pool | 3 x (3x3 conv, 8w) | pool | 3 x (3x3 conv, 16w) | mean | classifier

Appendix A, which gives the widths, is not in our copy of the paper. The form is that of the authors' other ImageNet
networks of ten layers (Liu et al., Deep Hyperspherical Learning, NeurIPS 2017). With w = 32, 1000 classes and the
release's predictor of 64 hidden maps, the dynamic network has 9,606,562 parameters, with the bounded one 9,605,248; the
paper says 9.61M. This agreement is why the widths are taken to be the paper's.

The root takes large images down before the first stage: from 128 pixels on a 7x7 convolution with stride 2 and a 3x3
maximum pooling with stride 2, from 48 on a 3x3 convolution with stride 2, below that a 3x3 convolution with stride 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from torch import nn

from nsl.layers.conv import DynamicNSConv2d
from nsl.layers.predictors import AnyPredictor, hidden_option
from nsl.layers.shared import BATCH_NORM_EPSILON
from nsl.models.cnn import (
    BATCH_NORM_MOMENTUM,
    Chain,
    Convolution,
    StagedCNN,
    check_variant,
    default_predictor,
)

#: Convolutions a stage, of CNN-10 and of the deeper CNN-10++.
DEPTHS, DEEPER = (3, 3, 3), (4, 4, 3)
#: First-stage filters of CNN-10++ for the baseline's 128: with 133 it has 9,701,677 parameters, of all numbers the
#: nearest to the paper's 9.71M.
PLUS_PLUS_FILTERS = 133
SMALLEST_IMAGE = 16


class Root(Chain):
    """First convolution, batch norm, ReLU, and a pooling for large images: [B, 3, S, S] to [B, F, S', S']."""

    def __init__(self, filters: int, image_size: int, batch_norm_momentum: float) -> None:
        super().__init__()
        large = image_size >= 128
        kernel, stride = (7, 2) if large else (3, 2) if image_size >= 48 else (3, 1)
        self.conv = nn.Conv2d(3, filters, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(filters, eps=BATCH_NORM_EPSILON, momentum=batch_norm_momentum)
        self.relu = nn.ReLU(inplace=True)
        if large:
            self.pool = nn.MaxPool2d(3, 2, 1)


class ImageNetCNN(StagedCNN):
    """The plain network above; `convolution` decides what stands at the nine places after the root.

    Args:
        num_classes: outputs.
        stage_width: filters of the first stage, 4w; the root has half of it, the others two and four times.
        depths: convolutions a stage.
        image_size: height and width of the square input, at least 16.
        convolution: (in_channels, out_channels, kernel_size, padding=..., bias=...) to a module.
        variant: "paper" or "release", as in `nsl.models.cnn.PlainCNN`.

    Shapes: [B, 3, image_size, image_size] to logits [B, num_classes]; `features` to the means [B, 16w, 1, 1]. Other
    sizes work too.

    Raises:
        ValueError: image_size, stage_width or num_classes is too small, or the variant is unknown.
    """

    any_size: ClassVar[bool] = True

    def __init__(
        self,
        num_classes: int,
        stage_width: int = 128,
        depths: tuple[int, ...] = DEPTHS,
        image_size: int = 224,
        convolution: Convolution = nn.Conv2d,
        variant: str = "paper",
    ) -> None:
        if image_size < SMALLEST_IMAGE:
            raise ValueError(f"image_size must be at least {SMALLEST_IMAGE} (three poolings), got {image_size}")
        if stage_width < 2 or num_classes < 1:
            raise ValueError(f"width and num_classes must be positive, got {stage_width / 4:g} and {num_classes}")
        check_variant(variant)
        root = Root(stage_width // 2, image_size, BATCH_NORM_MOMENTUM[variant])
        stages = [(stage_width << number, depth) for number, depth in enumerate(depths)]
        last = nn.AdaptiveAvgPool2d(1)
        super().__init__(num_classes, root, stage_width // 2, stages, last, 1, image_size, convolution, variant)


def cnn10(num_classes: int, *, width: int = 32, image_size: int = 224, variant: str = "paper") -> ImageNetCNN:
    """The baseline: 8.27 million parameters at width 32 (w above) for 1000 classes."""
    return ImageNetCNN(num_classes, 4 * width, DEPTHS, image_size, nn.Conv2d, variant)


def cnn10pp(num_classes: int, *, width: int = 32, image_size: int = 224, variant: str = "paper") -> ImageNetCNN:
    """CNN++ of Table 5: deeper (4, 4 and 3 convolutions a stage) and wider.

    At width 32 and for 1000 classes it has the paper's 9.71 million parameters within 0.1 %; smaller networks are
    widened in the same proportion, rounded up.
    """
    wider = -(-width * PLUS_PLUS_FILTERS // 32)
    return ImageNetCNN(num_classes, wider, DEEPER, image_size, nn.Conv2d, variant)


def nsn10(
    num_classes: int,
    *,
    kind: str = "dynamic",
    width: int = 32,
    image_size: int = 224,
    variant: str = "paper",
    predictor: AnyPredictor | None = None,
    predictor_options: dict[str, Any] | None = None,
) -> ImageNetCNN:
    """CNN-10 with a dynamic diagonal similarity (DNS) in its nine 3x3 convolutions.

    Args:
        num_classes, width, image_size, variant: as above.
        kind: "dynamic", the only one that the paper has.
        predictor, predictor_options: as in `nsl.models.cnn.nsn9`; the hidden channels default to 2w, the
            release's 64 at width 32.
    """
    if kind != "dynamic":
        raise ValueError(f"kind must be 'dynamic', got {kind!r}")
    predictor = default_predictor(variant) if predictor is None else predictor
    options = hidden_option(predictor, "diagonal", width) | (predictor_options or {})
    convolution: Callable[..., nn.Module] = partial(
        DynamicNSConv2d,
        similarity="diagonal",
        predictor=predictor,
        predictor_options=options,
    )
    network = ImageNetCNN(num_classes, 4 * width, DEPTHS, image_size, convolution, variant)
    network.set_averages(options)
    return network
