"""Backbones of the few-shot experiments: networks without a classifier (paper 7.2, Table 6).

    CNN-4       4 x (3x3 convolution, batch norm, ReLU, 2x2 pool)    Vinyals et al., NeurIPS 2016
    CNN-9       the convolutions of `nsl.models.cnn`                 paper 7.1
    ResNet-12   4 blocks of three convolutions                       Mishra et al., ICLR 2018; Oreshkin et al., 2018
    ResNet-34   He et al., CVPR 2016, with a 3x3 stem for small images
    WRN-28-10   Zagoruyko and Komodakis, BMVC 2016

Every backbone has `features(images)`, the last map, and `forward(images)`, that map as a vector: flattened for
CNN-4, as its users do, averaged over positions for the others. A map of one pixel is not pooled further, so that
every backbone takes every image size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nsl.layers.conv import DynamicNSConv2d, NSConv2d
from nsl.layers.predictors import AnyPredictor, hidden_option
from nsl.models.backbone import Backbone, halve, norm_of
from nsl.models.cnn import Convolution
from nsl.models.residual import WRN28, ResNet12, ResNet34


class CNN4(Backbone):
    """Four blocks of convolution, batch norm, ReLU and pooling.

    Args:
        width: filters of every block (paper: 32; often 64 in the literature).
        convolution: what stands at the four places.
        pools: number of blocks, from the first, that pool (RelationNet: 2).
        batch_statistics: batch norm always uses the batch's own statistics (MAML).

    Shapes: `features` [B, 3, S, S] to [B, width, S / 16, S / 16] with four pools.
    """

    flat = True

    def __init__(
        self,
        width: int = 32,
        convolution: Convolution = nn.Conv2d,
        pools: int = 4,
        batch_statistics: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= pools <= 4:
            raise ValueError(f"pools must be 0 to 4, got {pools}")
        self.channels, self.pools = width, pools
        self.convolutions = nn.ModuleList(
            convolution(3 if i == 0 else width, width, 3, padding=1, bias=False) for i in range(4)
        )
        self.norms = nn.ModuleList(norm_of(width, batch_statistics) for _ in range(4))
        self.reset_parameters()

    def features(self, images: Tensor) -> Tensor:
        maps = images
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            maps = norm(convolution(maps))
            # The largest of four and the larger of it and zero commute; this way there is a quarter to compare with 0.
            maps = F.relu(halve(maps) if i < self.pools else maps)
        return maps


class CNN9(Backbone):
    """Root and nine convolutions of `nsl.models.cnn.PlainCNN`, three poolings, averaged over positions.

    Args:
        width: filters of the root and the first stage; the others have two and four times as many.
        convolution: what stands at the nine places after the root.
        batch_statistics: as in `CNN4`.

    Shapes: `features` [B, 3, S, S] to [B, 4 * width, S / 8, S / 8].
    """

    def __init__(
        self, width: int = 32, convolution: Convolution = nn.Conv2d, batch_statistics: bool = False
    ) -> None:
        super().__init__()
        sizes = [width] + [stage * width for stage in (1, 2, 4) for _ in range(3)]
        self.channels = sizes[-1]
        before = [3, *sizes[:-1]]
        self.convolutions = nn.ModuleList(
            (nn.Conv2d if i == 0 else convolution)(before[i], sizes[i], 3, padding=1, bias=False)
            for i in range(10)
        )
        self.norms = nn.ModuleList(norm_of(size, batch_statistics) for size in sizes)
        self.reset_parameters()

    def features(self, images: Tensor) -> Tensor:
        maps = images
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            maps = norm(convolution(maps))
            maps = F.relu(halve(maps) if i in (3, 6, 9) else maps)
        return maps


#: Backbone and the width that the paper or the method's own paper gives it.
BACKBONES: dict[str, tuple[Callable[..., Backbone], int]] = {
    "cnn4": (CNN4, 32),
    "cnn9": (CNN9, 32),
    "resnet12": (ResNet12, 64),
    "resnet34": (ResNet34, 64),
    "wrn28_10": (WRN28, 160),
}
_SIMILARITY_KINDS = ("none", "static", "dynamic")


def create_backbone(
    name: str,
    *,
    width: int | None = None,
    kind: str = "none",
    similarity: str = "diagonal",
    predictor: AnyPredictor = "sphere",
    predictor_options: dict[str, Any] | None = None,
    **options: Any,
) -> Backbone:
    """A backbone by name.

    Args:
        name: a key of `BACKBONES`.
        width: filters of its first stage; None: the paper's.
        kind: "none" (plain convolutions), "static" or "dynamic" neural similarity; CNN-4 and CNN-9 only. The
            dynamic predictor has 2 (diagonal) or 4 (unconstrained) times `width` hidden maps, the release's
            proportion.
        similarity: "diagonal" or "unconstrained".
        predictor, predictor_options: of a dynamic similarity, see `nsl.DynamicNSConv2d`.
        options: batch_statistics, and for CNN-4 pools.

    Returns:
        The backbone, initialised from torch's global generator.

    Raises:
        ValueError: an unknown name or kind, or a similarity in a residual network.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone must be one of {sorted(BACKBONES)}, got {name!r}")
    if kind not in _SIMILARITY_KINDS:
        raise ValueError(f"kind must be one of {list(_SIMILARITY_KINDS)}, got {kind!r}")
    build, usual = BACKBONES[name]
    width = usual if width is None else width
    if width < 1:
        raise ValueError(f"width must be positive, got {width}")
    if kind == "none":
        return build(width=width, **options)
    if build not in (CNN4, CNN9):
        raise ValueError(f"a neural similarity needs the backbone 'cnn4' or 'cnn9', got {name!r}")
    if kind == "static":
        convolution: Convolution = partial(NSConv2d, similarity=similarity)
    else:
        own = hidden_option(predictor, similarity, width) | (predictor_options or {})
        convolution = partial(DynamicNSConv2d, similarity=similarity, predictor=predictor, predictor_options=own)
    return build(width=width, convolution=convolution, **options)


class BackboneClassifier(nn.Module):
    """A backbone and a linear classifier with bias: what is trained on the base classes.

    Shapes: [B, 3, S, S] to logits [B, num_classes].
    """

    def __init__(self, backbone: Backbone, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.output_size(image_size), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] to logits [B, num_classes]."""
        return self.classifier(self.backbone(images))


def backbone_classifier(
    num_classes: int,
    *,
    backbone: str,
    width: int | None = None,
    image_size: int = 84,
    kind: str = "none",
    similarity: str = "diagonal",
) -> BackboneClassifier:
    """A backbone with a classifier, for `nsl.create_model`; arguments as in `create_backbone`."""
    return BackboneClassifier(
        create_backbone(backbone, width=width, kind=kind, similarity=similarity), num_classes, image_size
    )
