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

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.layers.conv import DynamicNSConv2d, NSConv2d
from nsl.models.cnn import BATCH_NORM_MOMENTUM, Convolution, _he_initialise

#: Batch norm's epsilon here: PyTorch's own, which the few-shot literature's code uses.
EPSILON = 1e-5

Film = Sequence[tuple[Tensor, Tensor]]
"""One (gamma, beta) a convolution, each [C]: maps are scaled by gamma and shifted by beta a channel."""


def _halve(maps: Tensor) -> Tensor:
    """2x2 max pooling, of maps larger than a pixel."""
    return F.max_pool2d(maps, 2) if min(maps.shape[-2:]) > 1 else maps


class BatchStatistics(nn.Module):
    """Batch norm that always uses the batch's own statistics, in training and in testing: [B, C, H, W] to the same.

    Scale and shift are applied outside of the normalisation: the second derivative of PyTorch's batch norm with
    scale and shift inside is wrong under `torch.func.vmap` (2.13; without them it is right).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        normal = F.batch_norm(maps, None, None, training=True, eps=EPSILON)
        return normal * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def _norm(channels: int, batch_statistics: bool) -> nn.Module:
    if batch_statistics:
        return BatchStatistics(channels)
    return nn.BatchNorm2d(channels, EPSILON, BATCH_NORM_MOMENTUM["paper"])


class Backbone(nn.Module):
    """What all backbones share.

    Attributes:
        channels: C of the last map.
        flat: whether `forward` flattens the map (else it averages it).
    """

    channels: int
    flat = False

    def features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to the last map [B, channels, h, w]."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to vectors [B, D]."""
        maps = self.features(images)
        return maps.flatten(1) if self.flat else maps.mean((2, 3))

    def output_size(self, image_size: int) -> int:
        """D for square images of this size."""
        training = self.training
        with torch.no_grad():
            probe = next(self.parameters())
            size = self.eval()(probe.new_zeros(2, 3, image_size, image_size)).shape[1]
        self.train(training)
        return int(size)

    def film_channels(self) -> list[int]:
        """Channels of every convolution that `features(images, film)` can scale and shift; empty: it takes none."""
        return []


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
        self.norms = nn.ModuleList(_norm(width, batch_statistics) for _ in range(4))
        _he_initialise(self)

    def features(self, images: Tensor) -> Tensor:
        maps = images
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            maps = norm(convolution(maps))
            # The largest of four and the larger of it and zero commute; this way there is a quarter to compare with 0.
            maps = F.relu(_halve(maps) if i < self.pools else maps)
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
        self.norms = nn.ModuleList(_norm(size, batch_statistics) for size in sizes)
        _he_initialise(self)

    def features(self, images: Tensor) -> Tensor:
        maps = images
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            maps = norm(convolution(maps))
            maps = F.relu(_halve(maps) if i in (3, 6, 9) else maps)
        return maps


def _start_as_identity(norm: nn.Module) -> None:
    """Zero the scale of a residual branch's last batch norm: short trainings of deep networks need it (Goyal et al.,
    "Accurate, large minibatch SGD", 2017)."""
    assert isinstance(norm, nn.BatchNorm2d | BatchStatistics)
    nn.init.zeros_(norm.weight)


class _Residual12(nn.Module):
    """Three convolutions and a 1x1 shortcut, then 2x2 pooling; gamma and beta of TADAM after each batch norm.

    The activation is swish (SiLU), as in TADAM.
    """

    def __init__(self, in_channels: int, channels: int, batch_statistics: bool) -> None:
        super().__init__()
        sizes = [in_channels, channels, channels, channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1, bias=False) for i in range(3)
        )
        self.norms = nn.ModuleList(_norm(channels, batch_statistics) for _ in range(3))
        self.shortcut = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.shortcut_norm = _norm(channels, batch_statistics)
        _start_as_identity(self.norms[-1])

    def forward(self, maps: Tensor, film: Film | None) -> Tensor:
        shortcut = self.shortcut_norm(self.shortcut(maps))
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            maps = norm(convolution(maps))
            if film is not None:
                gamma, beta = film[i]
                maps = gamma.view(1, -1, 1, 1) * maps + beta.view(1, -1, 1, 1)
            maps = F.silu(maps + shortcut if i == 2 else maps)
        return _halve(maps)


class ResNet12(Backbone):
    """Four residual blocks of three 3x3 convolutions; widths 1, 2, 4 and 8 times `width`.

    Args:
        width: filters of the first block (64).
        batch_statistics: as in `CNN4`.

    Shapes: `features(images, film)` [B, 3, S, S] to [B, 8 * width, S / 16, S / 16]; `film`, when given, has one
    (gamma, beta) for each of the twelve 3x3 convolutions, applied after its batch norm (Oreshkin et al., 2018).
    """

    def __init__(self, width: int = 64, batch_statistics: bool = False) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width, 8 * width]
        self.channels, self._sizes = sizes[-1], sizes
        before = [3, *sizes[:-1]]
        self.blocks = nn.ModuleList(_Residual12(a, b, batch_statistics) for a, b in zip(before, sizes))
        _he_initialise(self)

    def film_channels(self) -> list[int]:
        return [size for size in self._sizes for _ in range(3)]

    def features(self, images: Tensor, film: Film | None = None) -> Tensor:
        maps = images
        for i, block in enumerate(self.blocks):
            maps = block(maps, None if film is None else film[3 * i : 3 * i + 3])
        return maps


def _subsample(maps: Tensor, stride: int) -> Tensor:
    """The positions that a 1x1 convolution of this stride reads.

    The shortcuts subsample before a convolution of stride 1, because oneDNN's weight gradient of a strided 1x1
    convolution, channels last, corrupts memory when there are fewer channels than a vector has lanes
    (https://github.com/uxlfoundation/oneDNN/issues/6035; PyTorch 2.13 on AVX2: 2 to 7 channels crash or hang).
    """
    return maps if stride == 1 else maps[:, :, ::stride, ::stride]


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-34)."""

    def __init__(self, in_channels: int, channels: int, stride: int, batch_statistics: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.first_norm = _norm(channels, batch_statistics)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.second_norm = _norm(channels, batch_statistics)
        _start_as_identity(self.second_norm)
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, bias=False), _norm(channels, batch_statistics)
            )

    def forward(self, maps: Tensor) -> Tensor:
        inner = F.relu(self.first_norm(self.first(maps)))
        return F.relu(self.second_norm(self.second(inner)) + self.shortcut(_subsample(maps, self.stride)))


class ResNet34(Backbone):
    """3, 4, 6 and 3 basic blocks of 1, 2, 4 and 8 times `width` filters, each stage but the first halving the map.

    Args:
        width: filters of the first stage (64).
        batch_statistics: as in `CNN4`.

    Shapes: `features` [B, 3, S, S] to [B, 8 * width, S / 8, S / 8]; images of 64 pixels and more are pooled once
    after the stem.
    """

    def __init__(self, width: int = 64, batch_statistics: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stem_norm = _norm(width, batch_statistics)
        blocks: list[nn.Module] = []
        channels = width
        for stage, count in enumerate((3, 4, 6, 3)):
            for i in range(count):
                blocks.append(_BasicBlock(channels, width * 2**stage, 2 if stage and not i else 1, batch_statistics))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.channels = channels
        _he_initialise(self)

    def features(self, images: Tensor) -> Tensor:
        maps = F.relu(self.stem_norm(self.stem(images)))
        return self.blocks(_halve(maps) if images.shape[-1] >= 64 else maps)


_WIDE_STEM = 16


class _WideBlock(nn.Module):
    """Pre-activation block of a wide residual network."""

    def __init__(self, in_channels: int, channels: int, stride: int, batch_statistics: bool) -> None:
        super().__init__()
        self.first_norm = _norm(in_channels, batch_statistics)
        self.first = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.second_norm = _norm(channels, batch_statistics)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.stride = stride
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        active = F.relu(self.first_norm(maps))
        inner = self.second(F.relu(self.second_norm(self.first(active))))
        return inner + (maps if self.shortcut is None else self.shortcut(_subsample(active, self.stride)))


class WRN28(Backbone):
    """WRN-28: three stages of four blocks of 1, 2 and 4 times `width` filters; width 160 is WRN-28-10.

    Args:
        width: filters of the first stage (160); the stem has 16 whatever the width.
        batch_statistics: as in `CNN4`.

    Shapes: `features` [B, 3, S, S] to [B, 4 * width, S / 4, S / 4]; images of 64 pixels and more are pooled once
    after the stem.
    """

    def __init__(self, width: int = 160, batch_statistics: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _WIDE_STEM, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        channels = _WIDE_STEM
        for stage in range(3):
            for i in range(4):
                blocks.append(_WideBlock(channels, width * 2**stage, 2 if stage and not i else 1, batch_statistics))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.last_norm = _norm(channels, batch_statistics)
        self.channels = channels
        _he_initialise(self)
        for block in blocks:
            # Its branch ends with a convolution: the same start as that of the other residual networks.
            assert isinstance(block, _WideBlock)
            nn.init.zeros_(block.second.weight)

    def features(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        return F.relu(self.last_norm(self.blocks(_halve(maps) if images.shape[-1] >= 64 else maps)))


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
    predictor: str = "sphere",
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
        hidden = (4 if similarity == "unconstrained" else 2) * width
        own = {"hidden": hidden, **(predictor_options or {})}
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
