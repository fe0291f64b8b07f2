"""What every layer with a similarity shares, and what makes a static one (paper 3.1, 3.2, 3.5).

The layers themselves are in `conv.py`, `linear.py` and `recurrent.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nsl.layers.structures import Block, Structure, boolean_shape, make_structure

#: D_r starts here and a tap is dropped once its D_r falls to the threshold alpha. The paper fixes alpha and
#: gives neither value; these are ours. Only their distance over the rate matters.
SHAPE_INIT, SHAPE_THRESHOLD = 1.0, 0.9
#: eta of equation (5), D_r <- D_r - eta dL/dD, as a multiple of the training's learning rate. The step is plain: no
#: momentum, no weight decay.
SHAPE_RATE = 1.0


def mix(weight: Tensor, matrix: Tensor) -> Tensor:
    """M^T W: kernels [F, ...] whose trailing elements, in runs of M's size, are multiplied by M [size, size]."""
    return (weight.reshape(weight.shape[0], -1, matrix.shape[0]) @ matrix).view_as(weight)


def refuse_stale(layer: nn.Module, *names: str) -> None:
    """Refuse to read, outside of the forward pass, a tensor that a forward pre-hook computes.

    `torch.nn.utils.prune` and the old `weight_norm` and `spectral_norm` leave such a tensor as a plain attribute, which
    is that of the last forward pass and not of the present parameters.

    Raises:
        ValueError: one of the named tensors is no parameter of the layer.
    """
    for name in names:
        if layer.__dict__.get(name) is not None:
            raise ValueError(
                f"{name} of {type(layer).__name__} is computed by a forward pre-hook (pruning, the old weight_norm) "
                "and may be out of date here: make it a parameter first (prune.remove, remove_weight_norm)"
            )


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


class Similar(nn.Module):
    """A layer whose similarity has a structure and, with `learn_shape`, a Boolean shape D of its own.

    Parameters:
        shape [K] (D_r), only with learn_shape.
    """

    structure: Structure
    block: Block
    shape: nn.Parameter | None
    shape_threshold: float
    shape_rate: float

    def _add_structure(
        self,
        similarity: str | Structure,
        block: Block,
        learn_shape: bool = False,
        shape_threshold: float = SHAPE_THRESHOLD,
        shape_rate: float = SHAPE_RATE,
        like: Tensor | None = None,
    ) -> None:
        self.structure, self.block = make_structure(similarity), block
        self.shape_threshold, self.shape_rate = float(shape_threshold), float(shape_rate)
        if learn_shape:
            like = torch.empty(0) if like is None else like
            self.shape = nn.Parameter(torch.full((self.taps,), SHAPE_INIT, device=like.device, dtype=like.dtype))
        else:
            self.register_parameter("shape", None)

    @property
    def taps(self) -> int:
        """K, the number of kernel taps (of input features for a linear layer)."""
        return self.block.taps

    def boolean_shape(self) -> Tensor | None:
        """D [K], zeros and ones, or None without `learn_shape`."""
        return None if self.shape is None else boolean_shape(self.shape, self.shape_threshold)

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, similarity={self.structure!r}"
        return text if self.shape is None else f"{text}, learn_shape=True"


class Static(Similar):
    """A layer with one kernel tensor `weight` and one learned similarity.

    Parameters:
        similarity [D], the structure's free numbers.
    """

    weight: Tensor
    similarity: nn.Parameter

    def _add_similarity(
        self,
        similarity: str | Structure,
        block: Block,
        learn_shape: bool = False,
        shape_threshold: float = SHAPE_THRESHOLD,
        shape_rate: float = SHAPE_RATE,
    ) -> None:
        self._add_structure(similarity, block, learn_shape, shape_threshold, shape_rate, self.weight)
        free = self.structure.identity(block)
        self.similarity = nn.Parameter(free.to(device=self.weight.device, dtype=self.weight.dtype))

    def reset_parameters(self) -> None:
        """The plain layer's initialisation for weight and bias, the identity for M, the full shape for D."""
        super().reset_parameters()  # type: ignore[misc]
        if hasattr(self, "similarity"):  # the plain layer's constructor calls this before the similarity exists
            with torch.no_grad():
                self.similarity.copy_(self.structure.identity(self.block))
                if self.shape is not None:
                    self.shape.fill_(SHAPE_INIT)

    def similarity_matrix(self) -> Tensor:
        """M_s [K, K] ([C K, C K] when not shared); with learn_shape D R."""
        matrix = self.structure.assemble(self.similarity, self.block)
        shape = self.boolean_shape()
        if shape is None:
            return matrix
        return shape.repeat(matrix.shape[-1] // self.taps).unsqueeze(1) * matrix

    def effective_weight(self) -> Tensor:
        """M^T W, of weight's shape: the kernel that the layer really uses.

        Raises:
            ValueError: a forward pre-hook computes the weight or the similarity (`refuse_stale`).
        """
        refuse_stale(self, "weight", "similarity", "shape")
        return self._mixed_weight()

    def _mixed_weight(self) -> Tensor:
        """The effective weight in the forward pass, where pre-hooks have done their work."""
        if self.structure.is_mask:  # no matrix product needed
            mask, shape = self.structure.mask(self.similarity, self.block), self.boolean_shape()
            return self.weight * (mask if shape is None else mask * shape).view(self.block.kernel_size)
        return mix(self.weight, self.similarity_matrix())

    def similarity_penalty(self) -> Tensor | None:
        """The structure's penalty, a scalar, or None."""
        return self.structure.penalty(self.similarity, self.block)


def _penalties(model: nn.Module) -> list[Tensor]:
    collectors = [getattr(module, "similarity_penalty", None) for module in model.modules()]
    found = [collect() for collect in collectors if callable(collect)]
    return [penalty for penalty in found if penalty is not None]


def has_penalty(model: nn.Module) -> bool:
    """Whether `similarity_penalty` has anything to collect."""
    return bool(_penalties(model))


def similarity_penalty(model: nn.Module) -> Tensor:
    """Sum of all penalties of the model's similarities, a scalar to add to the loss; zero where there are none."""
    found = _penalties(model)
    return torch.stack(found).sum() if found else torch.zeros(())
