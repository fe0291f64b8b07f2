"""Fully connected layers with a neural similarity: y = W^T M x (the paper adds that NSL applies to them, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.layers.spherical import EPSILON
from nsl.layers.static import SHAPE_RATE, SHAPE_THRESHOLD, Similar, Static, keep_frozen, refuse_stale
from nsl.layers.structures import L1, Block, Structure


def _block(in_features: int, block_size: int | None) -> Block:
    """Blocks of features play the part of a convolution's taps, and the blocks that of its channels."""
    size = in_features if block_size is None else block_size
    if size < 1 or in_features % size:
        raise ValueError(f"block_size must divide in_features = {in_features}, got {block_size}")
    return Block((size,), in_features // size)


class NSLinear(Static, nn.Linear):
    """`torch.nn.Linear` with a static neural similarity: y = (M^T W)^T x + b.

    Args:
        in_features, out_features, bias, device, dtype: as in `torch.nn.Linear`.
        similarity: a name of `nsl.STRUCTURES` or an `nsl.Structure`. "diagonal" weighs the input features.
        block_size: features that share one block M_s, as the taps of a convolution do; None: all of them, M is
            [in_features, in_features].
        learn_shape, shape_threshold, shape_rate: as in `NSConv2d`.

    Parameters:
        weight [out, in], bias [out], similarity [D], and with learn_shape shape [block_size].

    Shapes: input [..., in_features], output [..., out_features].

    Raises:
        ValueError: unknown similarity, or block_size does not divide in_features.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        similarity: str | Structure = "diagonal",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        block_size: int | None = None,
        learn_shape: bool = False,
        shape_threshold: float = SHAPE_THRESHOLD,
        shape_rate: float = SHAPE_RATE,
    ) -> None:
        block = _block(in_features, block_size)
        super().__init__(in_features, out_features, bias, device, dtype)
        self._add_similarity(similarity, block, learn_shape, shape_threshold, shape_rate)

    def _mixed_weight(self) -> Tensor:
        """M^T W [out, in], the weight that the layer really uses."""
        if self.structure.is_mask:
            mask, shape = self.structure.mask(self.similarity, self.block), self.boolean_shape()
            return self.weight * (mask if shape is None else mask * shape).repeat(self.block.channels)
        return super()._mixed_weight()

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return F.linear(input, self._mixed_weight(), self.bias)

    def fold(self) -> nn.Linear:
        """A plain `torch.nn.Linear` with equal outputs.

        Raises:
            ValueError: a forward pre-hook computes one of the layer's tensors.
        """
        refuse_stale(self, "bias")
        plain = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, self.weight.device, self.weight.dtype
        )
        with torch.no_grad():
            plain.weight.copy_(self.effective_weight())
            if self.bias is not None:
                plain.bias.copy_(self.bias)
        keep_frozen(plain, self)
        return plain.train(self.training)


class LinearPredictor(nn.Module):
    """The predictor of a fully connected layer: W2 relu(W1 x / ||x||), SphereNet's normalisation for a vector.

    The second map starts at zero, so that the layer starts as the plain one, M = I.

    Args:
        in_features: of the layer.
        degrees_of_freedom: D.
        hidden: between the two maps.

    Shapes: [..., in_features] to [..., D].
    """

    def __init__(self, in_features: int, degrees_of_freedom: int, hidden: int = 64) -> None:
        super().__init__()
        self.first = nn.Linear(in_features, hidden, bias=False)
        self.second = nn.Linear(hidden, degrees_of_freedom, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation of the first map, zero of the second."""
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        nn.init.zeros_(self.second.weight)

    reset_to_identity = reset_parameters

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] to [..., D]."""
        norm = (input.square().sum(-1, keepdim=True) + EPSILON).sqrt()
        return self.second(torch.relu(self.first(input / norm)))


class DynamicNSLinear(Similar, nn.Linear):
    """`torch.nn.Linear` whose similarity is predicted from its input: y = W^T M(x) x + b, M(x) = predictor(x) + I.

    Args:
        in_features, out_features, bias, device, dtype: as in `torch.nn.Linear`.
        similarity: as in `NSLinear`, all but "full" and "l1". A structure with many numbers needs a small block_size.
        block_size: features that share one block.
        predictor: a module from [..., in_features] to [..., D], or None for `LinearPredictor`.
        hidden: of the built-in predictor.

    Parameters:
        weight [out, in], bias [out], predictor.*

    Shapes: input [..., in_features], output [..., out_features].

    Raises:
        ValueError: unknown or unfit similarity, block_size does not divide in_features, or the predictor's output
            does not fit.
    """

    identity: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        similarity: str | Structure = "diagonal",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        block_size: int | None = None,
        predictor: nn.Module | None = None,
        hidden: int = 64,
    ) -> None:
        block = _block(in_features, block_size)
        super().__init__(in_features, out_features, bias, device, dtype)
        self._add_structure(similarity, block)
        if not self.structure.is_shared or isinstance(self.structure, L1):
            raise ValueError(f"similarity={self.structure!r} is for static layers; choose another one")
        degrees = self.structure.degrees_of_freedom(block)
        free = self.structure.identity(block).to(device=self.weight.device, dtype=self.weight.dtype)
        self.register_buffer("identity", free, persistent=False)
        self.predictor = predictor
        if predictor is None:
            self.predictor = LinearPredictor(in_features, degrees, hidden).to(self.weight.device, self.weight.dtype)

    def _free(self, input: Tensor) -> Tensor:
        raw = self.predictor(input)  # type: ignore[misc]
        degrees = self.identity.numel()
        if raw.shape != (*input.shape[:-1], degrees):
            raise ValueError(
                f"predictor must return {[*input.shape[:-1], degrees]} for {self.structure!r}, got {list(raw.shape)}"
            )
        return raw + self.identity.to(raw.dtype)

    def predict_similarity(self, input: Tensor) -> Tensor:
        """[..., in_features] to masks [..., block_size] or matrices [..., block_size, block_size]."""
        free = self._free(input)
        if self.structure.is_mask:
            return self.structure.mask(free, self.block)
        return self.structure.assemble(free, self.block)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        similarity = self.predict_similarity(input)
        blocks = input.unflatten(-1, (self.block.channels, self.block.taps)).to(similarity.dtype)
        is_mask = self.structure.is_mask
        mixed = blocks * similarity.unsqueeze(-2) if is_mask else blocks @ similarity.transpose(-1, -2)
        return F.linear(mixed.flatten(-2).to(input.dtype), self.weight, self.bias)
