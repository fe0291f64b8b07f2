"""Second derivatives of the fused steps, by way of the definition each of them has in plain tensor operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


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
        One gradient a tensor, None where none is needed.
    """
    # Views, nodes of their own in the graph: one of the tensors may have been computed from another (a similarity from
    # its input), and gradients by way of the tensors themselves would count that path twice.
    own = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
    outputs = definition(*own)
    wanted = [tensor for tensor, need in zip(own, needed) if need and tensor is not None]
    found = iter(torch.autograd.grad(outputs, wanted, gradients, create_graph=True))
    return tuple(next(found) if need and tensor is not None else None for tensor, need in zip(own, needed))
