"""Residual backbones of the few-shot experiments (paper 7.2, Table 6).

    ResNet-12   4 blocks of three convolutions                       Mishra et al., ICLR 2018; Oreshkin et al., 2018
    ResNet-34   He et al., CVPR 2016, with a 3x3 stem for small images
    WRN-28-10   Zagoruyko and Komodakis, BMVC 2016
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nsl.models.backbone import Backbone, BatchStatistics, Film, halve, norm_of


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
        self.norms = nn.ModuleList(norm_of(channels, batch_statistics) for _ in range(3))
        self.shortcut = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.shortcut_norm = norm_of(channels, batch_statistics)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The branch starts at zero."""
        _start_as_identity(self.norms[-1])

    def forward(self, maps: Tensor, film: Film | None) -> Tensor:
        shortcut = self.shortcut_norm(self.shortcut(maps))
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            maps = norm(convolution(maps))
            if film is not None:
                gamma, beta = film[i]
                maps = gamma.view(1, -1, 1, 1) * maps + beta.view(1, -1, 1, 1)
            maps = F.silu(maps + shortcut if i == 2 else maps)
        return halve(maps)


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
        self.reset_parameters()

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
        self.first_norm = norm_of(channels, batch_statistics)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.second_norm = norm_of(channels, batch_statistics)
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, bias=False), norm_of(channels, batch_statistics)
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The branch starts at zero."""
        _start_as_identity(self.second_norm)

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
        self.stem_norm = norm_of(width, batch_statistics)
        blocks: list[nn.Module] = []
        channels = width
        for stage, count in enumerate((3, 4, 6, 3)):
            for i in range(count):
                blocks.append(_BasicBlock(channels, width * 2**stage, 2 if stage and not i else 1, batch_statistics))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.channels = channels
        self.reset_parameters()

    def features(self, images: Tensor) -> Tensor:
        maps = F.relu(self.stem_norm(self.stem(images)))
        return self.blocks(halve(maps) if images.shape[-1] >= 64 else maps)


_WIDE_STEM = 16


class _WideBlock(nn.Module):
    """Pre-activation block of a wide residual network."""

    def __init__(self, in_channels: int, channels: int, stride: int, batch_statistics: bool) -> None:
        super().__init__()
        self.first_norm = norm_of(in_channels, batch_statistics)
        self.first = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.second_norm = norm_of(channels, batch_statistics)
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
        self.last_norm = norm_of(channels, batch_statistics)
        self.channels = channels
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation of all kernels (fan in), but zero of the last of every block."""
        super().reset_parameters()
        for block in self.blocks:
            # Its branch ends with a convolution: the same start as that of the other residual networks.
            assert isinstance(block, _WideBlock)
            nn.init.zeros_(block.second.weight)

    def features(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        return F.relu(self.last_norm(self.blocks(halve(maps) if images.shape[-1] >= 64 else maps)))
