"""CNN-9 with what the paper compares NSL to, contains as a special case or leaves open, in its nine convolutions.

Every network is `PlainCNN` with another convolution, so that depth, widths, normalisation and classifier are the same.
Sizes that the sources do not fix are declared here and grow with `width`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from nsl.layers.conv import DynamicNSConv2d
from nsl.layers.decoupled import DecoupledConv2d
from nsl.layers.deformable import OFFSET_RATE, DeformConv2d
from nsl.layers.dynamic_filter import DynamicFilterConv2d
from nsl.layers.filter_selection import MixtureConv2d, SelectedConv2d
from nsl.layers.hypernetwork import HyperConv2d, KernelGenerator
from nsl.layers.ode import ODEBlock
from nsl.layers.predictors import hidden_width
from nsl.layers.shapes import FewTaps, Shaped
from nsl.layers.unshared import UnsharedNSConv2d
from nsl.models.cnn import PlainCNN, nsn9


def dynamic_filter9(
    num_classes: int,
    *,
    width: int = 32,
    image_size: int = 32,
    local: bool = True,
    depthwise: bool = True,
    hidden: int | None = None,
    normalise: bool = True,
) -> PlainCNN:
    """CNN-9 of dynamic filters (`nsl.layers.dynamic_filter`).

    Args:
        local, depthwise, normalise: of the layer.
        hidden: of every generator; None: 2 width, as NSN's predictor has with a diagonal similarity.
    """
    hidden = 2 * width if hidden is None else hidden
    options: dict[str, Any] = {"local": local, "depthwise": depthwise, "normalise": normalise}
    convolution = partial(DynamicFilterConv2d, hidden=hidden, **options)
    return PlainCNN(num_classes, width, 3, image_size, convolution)


def hyper9(
    num_classes: int,
    *,
    width: int = 32,
    image_size: int = 32,
    dynamic: bool = False,
    bounded: bool = False,
    embedding: int | None = None,
    decay: bool = True,
) -> PlainCNN:
    """CNN-9 whose nine kernels one shared generator writes, in blocks of width x width channels.

    Args:
        dynamic: embeddings scaled by the input; `bounded`: by factors from 0 to 2.
        embedding: their length; None: 4 width, with which the network has about CNN-9's number of parameters at width
            32.
        decay: weight decay reaches what the kernels are written from, as it reaches the kernels of other networks.
    """
    generator = KernelGenerator((3, 3), width, 4 * width if embedding is None else embedding, decay=decay)
    convolution = partial(HyperConv2d, generator=generator, dynamic=dynamic, bounded=bounded)
    return PlainCNN(num_classes, width, 3, image_size, convolution)


def selected9(
    num_classes: int,
    *,
    width: int = 32,
    image_size: int = 32,
    hidden: int | None = None,
    batch_norm: bool = True,
) -> PlainCNN:
    """CNN-9 whose filters gaters of `hidden` units (None: 2 width), with batch norm, switch by the input."""
    hidden = 2 * width if hidden is None else hidden
    return PlainCNN(num_classes, width, 3, image_size, partial(SelectedConv2d, hidden=hidden, batch_norm=batch_norm))


def mixture9(
    num_classes: int,
    *,
    width: int = 32,
    image_size: int = 32,
    banks: int = 2,
    routing: str = "softmax",
    temperature: float | None = None,
    anneal: float = 0.0,
) -> PlainCNN:
    """CNN-9 of mixtures of `banks` kernels; two have about the parameters of dynamic NSN with a diagonal similarity."""
    convolution = partial(MixtureConv2d, banks=banks, routing=routing, temperature=temperature, anneal=anneal)
    return PlainCNN(num_classes, width, 3, image_size, convolution)


def deformable9(
    num_classes: int,
    *,
    width: int = 32,
    image_size: int = 32,
    modulated: bool = False,
    stages: int = 1,
    rate: float = OFFSET_RATE,
    predicted: bool = True,
) -> PlainCNN:
    """CNN-9 with deformable convolutions in its last `stages` stages; one, its last three convolutions, is what Dai et
    al. use by default. The others are plain. `rate` is the learning rate of the offsets relative to the network's;
    without `predicted` the convolutions are active ones.

    Raises:
        ValueError: stages is not 1, 2 or 3.
    """
    if stages not in (1, 2, 3):
        raise ValueError(f"stages must be 1, 2 or 3, got {stages!r}")
    plain = 3 * (3 - stages)
    built = 0

    def convolution(in_channels: int, out_channels: int, kernel_size: int, **more: Any) -> nn.Module:
        nonlocal built
        built += 1
        if built <= plain:
            return nn.Conv2d(in_channels, out_channels, kernel_size, **more)
        options: dict[str, Any] = {"modulated": modulated, "rate": rate, "predicted": predicted}
        return DeformConv2d(in_channels, out_channels, kernel_size, **options, **more)

    return PlainCNN(num_classes, width, 3, image_size, convolution)


def decoupled9(
    num_classes: int,
    *,
    width: int = 32,
    image_size: int = 32,
    magnitude: str = "tanh",
    angle: str = "cosine",
    weighted: bool = False,
    learnable: bool = False,
) -> PlainCNN:
    """CNN-9 of decoupled operators, see `nsl.layers.decoupled`."""
    options: dict[str, Any] = {"magnitude": magnitude, "angle": angle, "weighted": weighted, "learnable": learnable}
    return PlainCNN(num_classes, width, 3, image_size, partial(DecoupledConv2d, **options))


def unshared9(
    num_classes: int, *, width: int = 32, image_size: int = 32, similarity: str = "diagonal"
) -> PlainCNN:
    """Static NSN-9 with one similarity a filter."""
    return PlainCNN(num_classes, width, 3, image_size, partial(UnsharedNSConv2d, similarity=similarity))


def shaped9(
    num_classes: int,
    *,
    width: int = 32,
    image_size: int = 32,
    kind: str = "static",
    similarity: str = "diagonal",
    boolean: bool = False,
) -> PlainCNN:
    """NSN-9 whose shape d is continuous or Boolean and, with kind="dynamic", produced by the predictor."""
    structure: Any = Shaped(similarity, boolean)
    return nsn9(num_classes, kind=kind, similarity=structure, width=width, image_size=image_size)


def few_taps9(num_classes: int, *, width: int = 32, image_size: int = 32, count: int = 3) -> PlainCNN:
    """Static NSN-9 of shifts with at most `count` taps a layer, which fold into shifts and 1x1 convolutions."""
    structure: Any = FewTaps(count)
    return nsn9(num_classes, kind="static", similarity=structure, width=width, image_size=image_size)


def ode9(
    num_classes: int,
    *,
    width: int = 32,
    image_size: int = 32,
    scheme: str = "euler",
    steps: int = 1,
    similarity: str = "diagonal",
) -> PlainCNN:
    """Dynamic NSN-9 whose convolutions of equal width are steps of dx/dt = W^T M(x) x (5.2); the others are plain steps
    to the next width."""
    options: dict[str, Any] = {"predictor_options": {"hidden": hidden_width(similarity, width)}}

    def convolution(in_channels: int, out_channels: int, kernel_size: int, **more: Any) -> nn.Module:
        layer = DynamicNSConv2d(in_channels, out_channels, kernel_size, similarity=similarity, **options, **more)
        return ODEBlock(layer, scheme, steps) if in_channels == out_channels else layer

    return PlainCNN(num_classes, width, 3, image_size, convolution)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "dynamic_filter9": dynamic_filter9,
    "hyper9": hyper9,
    "selected9": selected9,
    "mixture9": mixture9,
    "deformable9": deformable9,
    "decoupled9": decoupled9,
    "unshared9": unshared9,
    "shaped9": shaped9,
    "few_taps9": few_taps9,
    "ode9": ode9,
}
