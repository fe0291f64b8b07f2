"""The dynamic convolution as the paper defines it, to be read first; and second derivatives of the fused steps, by way
of the definition that each of them has in plain tensor operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_conv2d(
    input: Tensor,
    weight: Tensor,
    similarity: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """`nsl.neural_similarity_conv2d` in one formula, y = W^T M X at every position (paper equations 1 to 3).

    Slow and short: all patches are made, K times the input's memory. Nothing of the package computes with it; the tests
    compare with it.

    Args:
        input: [B, C, H, W].
        weight: [F, C / groups, kh, kw], K = kh kw taps.
        similarity: M [B, K, K, Ho, Wo], kernel tap before input tap, or its diagonal [B, K, Ho, Wo].
        bias, stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`; integers or pairs.

    Returns:
        [B, F, Ho, Wo].
    """
    if similarity.dim() == 4:
        similarity = torch.diag_embed(similarity.movedim(1, -1)).movedim((-2, -1), (1, 2))
    batch, channels = input.shape[:2]
    filters, size, taps, (height, width) = weight.shape[0], weight.shape[2:], similarity.shape[1], similarity.shape[-2:]
    patches = F.unfold(input, size, dilation, padding, stride)  # X [B, C K, P], P = Ho Wo
    x = patches.view(batch, groups, channels // groups, taps, height * width)
    w = weight.view(groups, filters // groups, channels // groups, taps)
    # Filter f of group g, channel c of it, kernel tap k, input tap l, position p.
    y = torch.einsum("gfck,bklp,bgclp->bgfp", w, similarity.flatten(3), x)
    y = y.reshape(batch, filters, height, width)
    return y if bias is None else y + bias.view(1, -1, 1, 1)


def gradients_by_definition(
    definition: Callable[..., Tensor | tuple[Tensor, ...]],
    tensors: Sequence[Tensor | None],
    needed: Sequence[bool],
    gradients: Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """The gradients of a fused step as differentiable functions of everything they depend on.

    Args:
        definition: from `tensors` to the step's outputs.
        tensors: what the step was given.
        needed: which of them want a gradient.
        gradients: of the outputs.

    Returns:
        One gradient a tensor, None where none is needed; differentiable where gradients are being recorded.
    """
    further = torch.is_grad_enabled()
    # Views, nodes of their own in the graph: one of the tensors may have been computed from another (a similarity from
    # its input), and gradients by way of the tensors themselves would count that path twice.
    with torch.enable_grad():
        own = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
        outputs = definition(*own)
    wanted = [tensor for tensor, need in zip(own, needed) if need and tensor is not None]
    found = iter(torch.autograd.grad(outputs, wanted, gradients, create_graph=further))
    return tuple(next(found) if need and tensor is not None else None for tensor, need in zip(own, needed))
