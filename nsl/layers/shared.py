"""Kernels that the predictors of several layers share, and what brings a layer's channels to them (paper 3.3.2).

Disjoint (the default): every layer owns its predictor. Shared: `SharedKernels` holds the two convolutions for
all layers and an adaptation network brings each layer's channels to their width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nsl.kernels.convolution import pair
from nsl.layers.spherical import SphereConv2d

#: Batch norm of the release: eps 1e-3.
BATCH_NORM_EPSILON = 1e-3
#: PyTorch's.
BATCH_NORM_MOMENTUM = 0.1
#: Channels between a predictor's two convolutions, unless said otherwise.
HIDDEN = 64
#: The release scales the He initialisation of the two predictor layers, so that training starts near M = I.
FIRST_INIT_SCALE, SECOND_INIT_SCALE = 0.1, 1e-3
#: More weights than this in the last convolution are refused: 1 GiB in float32.
LARGEST_CONVOLUTION = 1 << 28

Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Stride, padding and dilation, (vertical, horizontal) each."""


def he_normal(convolution: nn.Conv2d, scale: float = 1.0) -> None:
    nn.init.kaiming_normal_(convolution.weight, mode="fan_in", nonlinearity="relu")
    with torch.no_grad():
        convolution.weight.mul_(scale)


def check_hidden(hidden: int) -> None:
    if hidden < 1:
        raise ValueError(f"predictor: hidden must be at least 1, got {hidden}")


def geometry_of(
    stride: int | tuple[int, int], padding: int | tuple[int, int], dilation: int | tuple[int, int]
) -> Geometry:
    return pair(stride), pair(padding), pair(dilation)


def uneven_padding(kernel: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Left, right, top and bottom zeros that keep a map's size under an even kernel: one more after it than before.
    None for odd kernels, whose convolution pads by itself."""
    if kernel[0] % 2 and kernel[1] % 2:
        return None
    (height, width), before = kernel, ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
    return before[1], width - 1 - before[1], before[0], height - 1 - before[0]


def even_padding(kernel: tuple[int, int]) -> tuple[int, int]:
    """The padding of a convolution that keeps a map's size; none where `uneven_padding` does it."""
    return (0, 0) if uneven_padding(kernel) else (kernel[0] // 2, kernel[1] // 2)


def second_convolution(
    kind: type[nn.Conv2d], hidden: int, degrees_of_freedom: int, kernel: tuple[int, int], **options: Any
) -> nn.Conv2d:
    """The second convolution, of stride 1; the map keeps its size.

    Raises:
        ValueError: its weights alone would take more than 1 GiB.
    """
    weights = degrees_of_freedom * hidden * kernel[0] * kernel[1]
    if weights > LARGEST_CONVOLUTION:
        raise ValueError(
            f"predicting {degrees_of_freedom} numbers a position from {hidden} maps with a {kernel[0]}x{kernel[1]} "
            f"kernel takes {weights * 4 / 2**30:.1f} GiB of float32 weights; choose a diagonal similarity or fewer "
            "hidden maps, or leave this layer as it is"
        )
    return kind(hidden, degrees_of_freedom, kernel, padding=even_padding(kernel), bias=False, **options)


def adaptation_network(
    in_channels: int,
    width: int,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
) -> nn.Sequential:
    """What brings a layer's channels to the width of shared kernels: convolution, batch norm, ReLU (paper 3.3.2).

    Args:
        in_channels, kernel_size, stride, padding, dilation: of the layer.
        width: of the shared kernels.
        batch_norm_momentum: of the running averages.

    Shapes: [B, in_channels, H, W] to [B, width, Ho, Wo].
    """
    convolution = nn.Conv2d(
        in_channels, width, pair(kernel_size), *geometry_of(stride, padding, dilation), bias=False
    )
    he_normal(convolution, 1.0)
    norm = nn.BatchNorm2d(width, eps=BATCH_NORM_EPSILON, momentum=batch_norm_momentum)
    return _Adaptation(convolution, norm, nn.ReLU(inplace=True))


class _Adaptation(nn.Sequential):
    """Convolution, batch norm, ReLU, whose convolution has He's start."""

    def reset_parameters(self) -> None:
        """He's start of the convolution; batch norm resets itself."""
        he_normal(self[0], 1.0)

    def __getitem__(self, index: Any) -> Any:
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    def _get_name(self) -> str:
        return "Sequential"  # as which checkpoints know it


class SharedKernels(nn.Module):
    """The two convolutions that all layers of equal kernel size share (paper Table 3, "shared").

    Args:
        in_channels: common width that the adaptation networks produce.
        degrees_of_freedom: D of the structure.
        kernel_size: of the layers.
        hidden: channels between the two convolutions.
        operator: of the hyperspherical convolutions, see `nsl.SphereConv2d`.
        release: plain convolutions for `ReleasePredictor`. Its batch norms are not shared: the layers' statistics
            differ, and running averages mixed over layers would be those of no layer at test time.
    """

    def __init__(
        self,
        in_channels: int,
        degrees_of_freedom: int,
        kernel_size: int | tuple[int, int],
        hidden: int = HIDDEN,
        operator: str = "cosine",
        release: bool = False,
    ) -> None:
        super().__init__()
        check_hidden(hidden)
        kernel = pair(kernel_size)
        kind = nn.Conv2d if release else SphereConv2d
        options: dict[str, Any] = {} if release else {"operator": operator}
        # The adaptation network has the layer's geometry; from there on the map keeps its size.
        self.first = kind(in_channels, hidden, kernel, padding=even_padding(kernel), bias=False, **options)
        self.second = second_convolution(kind, hidden, degrees_of_freedom, kernel, **options)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        he_normal(self.first, FIRST_INIT_SCALE)
        he_normal(self.second, SECOND_INIT_SCALE)

    def check(
        self,
        degrees_of_freedom: int,
        kernel: tuple[int, int],
        kind: type[nn.Conv2d],
        hidden: int,
        options: dict[str, Any],
    ) -> None:
        """Raise ValueError unless these kernels serve such a layer, whose hidden and options are usual or theirs."""
        own: dict[str, tuple[Any, Any, Any]] = {"hidden": (hidden, HIDDEN, self.first.out_channels)}
        if "operator" in options:
            own["operator"] = (options["operator"], "cosine", getattr(self.first, "operator", None))
        for name, (value, usual, theirs) in own.items():
            if value not in (usual, theirs):
                raise ValueError(f"predictor: {name} is that of the shared kernels, {theirs!r}; got {value!r}")
        if self.second.out_channels != degrees_of_freedom or pair(self.second.kernel_size) != kernel:
            raise ValueError(
                f"shared predictor has {self.second.out_channels} outputs and kernels of {self.second.kernel_size}, "
                f"this layer's similarity needs {degrees_of_freedom} and {kernel}: share only among layers of equal "
                "kernel size and structure"
            )
        if type(self.first) is not kind:
            raise ValueError(
                f"shared kernels of {type(self.first).__name__} do not belong to this predictor; make them with "
                f"release={kind is nn.Conv2d}"
            )
