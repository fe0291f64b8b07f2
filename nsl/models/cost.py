"""What a forward pass costs: multiply-adds of any network, counted layer by layer from one small pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from nsl.layers.conv import DynamicNSConv2d
from nsl.layers.predictors import ReleasePredictor
from nsl.layers.spherical import SphereConv2d
from nsl.layers.structures import Diagonal


def _itself(own: Callable[[Tensor, Tensor], int], _layer: nn.Module, input: Tensor, output: Tensor) -> int:
    """A module's own count."""
    return own(input, output)


def _patch_norm(channels: int, taps: int, places: int, outputs: int) -> int:
    """Squares and their sum over channels, then a window of ones: `nsl.layers.spherical.patch_norm`."""
    return channels * places + taps * outputs


def _plain(layer: nn.modules.conv._ConvNd, input: Tensor, output: Tensor) -> int:
    """Of any number of dimensions: every weight once at every output position, of a transposed one at every input's."""
    places = input if layer.transposed else output
    return layer.weight.numel() * prod(places.shape[2:])


def _convolution(layer: nn.Conv2d, input: Tensor, output: Tensor) -> int:
    """Filters x taps x channels of a group at every output position."""
    per_image = prod(output.shape[-2:])
    count = layer.weight.numel() * per_image
    if isinstance(layer, DynamicNSConv2d):
        # One similarity at a position, applied to each channel of the patch: K products, or a K x K matrix product.
        degrees = layer.taps if isinstance(layer.structure, Diagonal) else layer.taps**2
        count += layer.in_channels * degrees * per_image
    elif isinstance(layer, SphereConv2d):
        places = prod(input.shape[-2:])
        count += _patch_norm(layer.in_channels, prod(layer.kernel_size), places, per_image)
        count += layer.out_channels * per_image  # the division by the norm
    return count


def _release_predictor(predictor: ReleasePredictor, input: Tensor, output: Tensor) -> int:
    """The patch norm of the first convolution and the division by it; the convolutions count themselves."""
    if predictor.full:
        return 0
    per_image = prod(output.shape[-2:])
    first = predictor.first
    places = prod(input.shape[-2:])
    return _patch_norm(first.in_channels, prod(first.kernel_size), places, per_image) + first.out_channels * per_image


def _cell(cell: nn.RNNCellBase, _input: Tensor, _output: Tensor) -> int:
    """Both maps of one step; of a dynamic cell M too: a product a unit, or a matrix product a block."""
    count = cell.weight_ih.numel() + cell.weight_hh.numel()
    structure, block = getattr(cell, "structure", None), getattr(cell, "block", None)
    if structure is not None and block is not None:
        count += cell.hidden_size * (1 if structure.is_mask else block.taps)
    return count


@torch.no_grad()
def count_multiply_adds(model: nn.Module, image_size: int, channels: int = 3) -> int:
    """Multiply-adds of one image's forward pass.

    Convolutions and linear layers, a dynamic layer's predictor, the patch norms of a spherical one and the
    multiplication of every patch by its similarity are counted. Batch norm, ReLU, pooling and biases are not: they
    fold into their neighbours or are no products. A static similarity costs nothing, it folds into the kernel. A module
    that has a method `multiply_adds(input, output)` counts itself, without its parts.

    Args:
        model: from images [B, channels, image_size, image_size]; left as it was.
        image_size: height and width of the image.
        channels: of the image.

    Returns:
        The count; a training step costs about three times as much (forward, and backward for inputs and weights).
    """
    total = 0
    hooks = []

    def count(rule: Callable[[Any, Tensor, Tensor], int]) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal total
            total += rule(layer, inputs[0], output)

        return hook

    def linear(layer: nn.Linear, _input: Tensor, output: Tensor) -> int:
        return layer.in_features * output.numel()

    for module in model.modules():
        if callable(own := getattr(module, "multiply_adds", None)):
            hooks.append(module.register_forward_hook(count(partial(_itself, own))))
        elif isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(count(_convolution)))
        elif isinstance(module, nn.modules.conv._ConvNd):
            hooks.append(module.register_forward_hook(count(_plain)))
        elif isinstance(module, nn.RNNCellBase):
            hooks.append(module.register_forward_hook(count(_cell)))
        elif isinstance(module, nn.Linear):
            hooks.append(module.register_forward_hook(count(linear)))
        elif isinstance(module, ReleasePredictor):
            hooks.append(module.register_forward_hook(count(_release_predictor)))
    parameter = next(model.parameters())
    image = torch.zeros(1, channels, image_size, image_size, dtype=parameter.dtype, device=parameter.device)
    # Module by module: calling train() on the whole would lose that some parts may be frozen in evaluation mode.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return total
