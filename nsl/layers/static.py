"""Static similarity: M learned beside the kernel, into which it folds (paper 3.1, 3.2).

The layers that have one are in `conv.py`, `linear.py`, `recurrent.py` and `unshared.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nsl.kernels.precision import exactly
from nsl.layers.similarity import OneSimilarity, Similarity, refuse_stale
from nsl.layers.structure import Block, Structure


class StaticSimilarity(Similarity):
    """A learned M_s [K, K] ([C K, C K] when not shared), and with learn_shape M_s = D R (paper 3.5).

    Called with kernels [F, ...] whose trailing elements, in runs of M's size, are multiplied by M, it gives M^T W.

    Args:
        similarity, block, like, learn_shape, shape_threshold, shape_rate: as in `Similarity`.

    Parameters:
        similarity [D], the structure's free numbers, and with learn_shape shape [K] (D_r).
    """

    is_dynamic = False

    def __init__(self, similarity: str | Structure, block: Block, like: Tensor, **shape: Any) -> None:
        super().__init__(similarity, block, like, **shape)
        self.similarity = nn.Parameter(self.identity(like))

    def reset_parameters(self) -> None:
        """The identity and the full shape."""
        super().reset_parameters()
        with torch.no_grad():
            self.similarity.copy_(self.identity(self.similarity))

    def matrix(self) -> Tensor:
        """M_s; with learn_shape D R.

        Raises:
            ValueError: a forward pre-hook computes the similarity or the shape (`refuse_stale`).
        """
        refuse_stale(self, "similarity", "shape")
        return self._matrix()

    def _matrix(self) -> Tensor:
        matrix, shape = self.structure.assemble(self.similarity, self.block), self.boolean_shape()
        if shape is None:
            return matrix
        return shape.repeat(matrix.shape[-1] // self.block.taps).unsqueeze(1) * matrix

    def forward(self, weight: Tensor) -> Tensor:
        """M^T W, of weight's shape: the kernel that the layer really uses."""
        if self.structure.is_mask:  # no matrix product needed
            mask, shape = self.structure.mask(self.similarity, self.block), self.boolean_shape()
            mask = mask if shape is None else mask * shape
            if isinstance(weight, Tensor) and weight.dim() == 2:  # of a linear map, whose taps are blocks of features
                return weight * mask.repeat(self.block.channels)
            # The shape that the kernels of a convolution have; torch.fx traces linear maps this way too. The mask is
            # that of all channels, so that a layer may get others.
            channels = self.block.channels
            if isinstance(weight, Tensor) and weight.numel() % (channels * self.block.taps):
                channels = 1
            kernels = weight.reshape(-1, channels, *self.block.kernel_size)
            return (kernels * mask.view(self.block.kernel_size)).view_as(weight)
        matrix = self._matrix()
        return (weight.reshape(weight.shape[0], -1, matrix.shape[0]) @ matrix).view_as(weight)

    def penalty(self) -> Tensor | None:
        """The structure's penalty, a scalar, or None."""
        return self.structure.penalty(self.similarity, self.block)


def is_trainable(layer: nn.Module, name: str) -> bool:
    """Whether the layer's tensor of that name is trained, also where a parametrisation computes it."""
    if name in layer._parameters:
        return getattr(layer, name).requires_grad
    parts = getattr(layer, "parametrizations", {})
    return name not in parts or any(parameter.requires_grad for parameter in parts[name].parameters())


def keep_frozen(plain: nn.Module, layer: nn.Module) -> nn.Module:
    """`plain`, of whose parameters those are frozen that are frozen in the layer it was folded from."""
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(is_trainable(layer, name))
    return plain


def filled(plain: nn.Module, layer: Any, weight: Tensor) -> nn.Module:
    """`plain` with the given kernel; bias, mode, memory format, rate and what is frozen are the folded layer's."""
    refuse_stale(layer, "bias")
    if plain.weight.shape != weight.shape:
        raise ValueError(
            f"the kernel is {list(weight.shape)}, but the layer's arguments say {list(plain.weight.shape)}: set "  # type: ignore[arg-type]
            "its numbers of channels to what it has before folding"
        )
    with torch.no_grad():
        plain.weight.copy_(weight)  # type: ignore[operator]
        if layer.bias is not None:
            plain.bias.copy_(layer.bias)  # type: ignore[operator]
    if weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if hasattr(layer, "rate"):  # of its learning, see `nsl.training.parameter_groups`
        plain.rate = layer.rate
    return keep_frozen(plain, layer).train(layer.training)


class StaticLayer(OneSimilarity):
    """A layer with one kernel `weight` and one static similarity."""

    neural: StaticSimilarity
    weight: Tensor
    bias: Any

    @property
    def similarity(self) -> nn.Parameter:
        """The structure's free numbers [D]."""
        return self.neural.similarity

    def similarity_matrix(self) -> Tensor:
        """M_s [K, K] ([C K, C K] when not shared); with learn_shape D R.

        Raises:
            ValueError: a forward pre-hook computes the similarity or the shape.
        """
        return self.neural.matrix()

    def effective_weight(self) -> Tensor:
        """M^T W, of weight's shape: the kernel that the layer really uses.

        Raises:
            ValueError: a forward pre-hook computes the weight, the similarity or the shape.
        """
        refuse_stale(self, "weight")
        refuse_stale(self.neural, "similarity", "shape")
        with exactly(self.weight):
            return self.neural(self.weight)

    def fold(self) -> nn.Module:
        """The plain layer with equal outputs: deployment costs nothing (paper 3.2).

        Raises:
            ValueError: a forward pre-hook computes one of the layer's tensors.
        """
        return filled(self.unfilled_plain(), self, self.effective_weight())

