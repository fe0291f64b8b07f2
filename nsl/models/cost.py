"""What a forward pass costs: multiply-adds of any network, counted layer by layer from one small pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from nsl.models.modes import evaluating


def _convolution(layer: nn.modules.conv._ConvNd, input: Tensor, output: Tensor) -> int:
    """Of any number of dimensions: every weight once at every output position, of a transposed one at every input's."""
    places = input if layer.transposed else output
    return layer.weight.numel() * prod(places.shape[2 - layer.weight.dim() :])


def _linear(layer: nn.Linear, _input: Tensor, output: Tensor) -> int:
    return layer.in_features * output.numel()


def _cell(cell: nn.RNNCellBase, _input: Tensor, _output: Tensor) -> int:
    """Both maps of one step."""
    return cell.weight_ih.numel() + cell.weight_hh.numel()


def _recurrence(layer: nn.RNNBase, input: Tensor, _output: Tensor) -> int:
    """Every weight once a step, of one sequence."""
    steps = input.shape[-2] if layer.batch_first or input.dim() == 2 else input.shape[0]
    return steps * sum(weight.numel() for name, weight in layer.named_parameters() if name.startswith("weight"))


def _attention(layer: nn.MultiheadAttention, query: Tensor, _output: Any) -> int:
    """Self-attention of one sequence: its four maps, and the two products of all pairs."""
    positions = query.shape[-2] if layer.batch_first or query.dim() == 2 else query.shape[0]
    return positions * layer.embed_dim * (4 * layer.embed_dim + 2 * positions)


#: How PyTorch's own layers, and what is derived from them and costs the same, are counted.
_RULES: tuple[tuple[type[nn.Module], Callable[..., int]], ...] = (
    (nn.modules.conv._ConvNd, _convolution),
    (nn.Linear, _linear),
    (nn.RNNCellBase, _cell),
    (nn.RNNBase, _recurrence),
    (nn.MultiheadAttention, _attention),
)


def _rule(module: nn.Module) -> Callable[[Tensor, Tensor], int] | None:
    """A module's own count, or that of the plain layer that it is; None where it has no products."""
    if callable(own := getattr(module, "multiply_adds", None)):
        return own
    return next((partial(rule, module) for kind, rule in _RULES if isinstance(module, kind)), None)


@torch.no_grad()
def count_multiply_adds(model: nn.Module, image_size: int, channels: int = 3) -> int:
    """Multiply-adds of one image's forward pass.

    Convolutions, linear and recurrent layers, self-attention (`nn.MultiheadAttention`), a dynamic layer's predictor,
    the patch norms of a spherical one and the multiplication of every patch by its similarity are counted. Batch norm,
    ReLU, pooling and biases are not: they fold into their neighbours or are no products; products that no module
    computes (`torch.matmul` in a `forward`) are not seen. A static similarity costs nothing, it folds into the kernel.
    A module that has a method `multiply_adds(input, output)` counts itself, without its parts.

    Args:
        model: from images [B, channels, image_size, image_size]; left as it was.
        image_size: height and width of the image.
        channels: of the image.

    Returns:
        The count; a training step costs about three times as much (forward, and backward for inputs and weights).
    """
    total = 0
    hooks = []

    def count(rule: Callable[[Tensor, Tensor], int]) -> Any:
        def hook(_layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            nonlocal total
            total += rule(next(iter((*inputs, *named.values()))), output)

        return hook

    for module in model.modules():
        if (rule := _rule(module)) is not None:
            hooks.append(module.register_forward_hook(count(rule), with_kwargs=True))
    parameter = next(model.parameters(), torch.empty(0, device="cpu"))
    image = torch.zeros(1, channels, image_size, image_size, dtype=parameter.dtype, device=parameter.device)
    try:
        # What `torch.compile` made of it before has none of these hooks.
        with torch.compiler.set_stance("force_eager"), evaluating(model):
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return total
