"""What the backbones of the few-shot experiments share (paper 7.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.models.cnn import BATCH_NORM_MOMENTUM, he_initialise
from nsl.models.modes import evaluating

#: Batch norm's epsilon here: PyTorch's own, which the few-shot literature's code uses.
EPSILON = 1e-5

Film = Sequence[tuple[Tensor, Tensor]]
"""One (gamma, beta) a convolution, each [C]: maps are scaled by gamma and shifted by beta a channel."""


def halve(maps: Tensor) -> Tensor:
    """2x2 max pooling, of maps larger than a pixel."""
    return F.max_pool2d(maps, 2) if min(maps.shape[-2:]) > 1 else maps


class BatchStatistics(nn.Module):
    """Batch norm that always uses the batch's own statistics, in training and in testing: [B, C, H, W] to the same.

    Scale and shift are applied outside of the normalisation: the second derivative of PyTorch's batch norm with
    scale and shift inside is wrong under `torch.func.vmap` (2.13; without them it is right).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale 1, shift 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, maps: Tensor) -> Tensor:
        normal = F.batch_norm(maps, None, None, training=True, eps=EPSILON)
        return normal * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def norm_of(channels: int, batch_statistics: bool) -> nn.Module:
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

    def reset_parameters(self) -> None:
        """He initialisation of all kernels (fan in); similarities and predictors keep their own."""
        he_initialise(self)

    def features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to the last map [B, channels, h, w]."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to vectors [B, D]."""
        maps = self.features(images)
        return maps.flatten(1) if self.flat else maps.mean((2, 3))

    def output_size(self, image_size: int) -> int:
        """D for square images of this size."""
        probe = next(self.parameters())
        with evaluating(self), torch.no_grad():
            return int(self(probe.new_zeros(2, 3, image_size, image_size)).shape[1])

    def film_channels(self) -> list[int]:
        """Channels of every convolution that `features(images, film)` can scale and shift; empty: it takes none."""
        return []
