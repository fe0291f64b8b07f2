"""Fully connected layers with a neural similarity: y = W^T M x (paper 1: NSL applies to them too)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.layers.dynamic import DynamicLayer, DynamicSimilarity
from nsl.layers.inputs import check_features
from nsl.layers.predictors import move_like
from nsl.layers.shared import HIDDEN
from nsl.layers.similarity import SHAPE_RATE, SHAPE_THRESHOLD
from nsl.layers.spherical import EPSILON
from nsl.layers.static import StaticLayer, StaticSimilarity
from nsl.layers.structure import Block, Structure


def feature_block(features: int, block_size: int | None, name: str = "in_features") -> Block:
    """Blocks of features play the part of a convolution's taps, and the blocks that of its channels.

    Raises:
        ValueError: block_size does not divide the number of features, which the layer's argument `name` gives.
    """
    size = features if block_size is None else block_size
    if not isinstance(size, int) or size < 1 or features % size:
        raise ValueError(f"block_size must divide {name} = {features}, got {block_size}")
    return Block((size,), features // size)


def similar_features(input: Tensor, similarity: Tensor, block: Block, is_mask: bool) -> Tensor:
    """M x of features [..., in], given masks [..., K] or matrices [..., K, K] of their blocks."""
    blocks = input.unflatten(-1, (block.channels, block.taps))
    return (blocks * similarity.unsqueeze(-2) if is_mask else blocks @ similarity.transpose(-1, -2)).flatten(-2)


def no_fast_path(layer: nn.Module, arguments: object) -> None:
    """A hook that does nothing but be there: beside one `nn.TransformerEncoderLayer` calls its linear layers, where it
    would otherwise, in evaluation mode without gradients, multiply by their weights itself and leave M out."""


class NSLinear(StaticLayer, nn.Linear, replaces=nn.Linear):
    """`torch.nn.Linear` with a static neural similarity: y = (M^T W)^T x + b.

    Not for `out_proj` of an `nn.MultiheadAttention`, which multiplies by its weight without calling it: M is left out.

    Args:
        in_features, out_features, bias, device, dtype: as in `torch.nn.Linear`.
        similarity: a name of `nsl.STRUCTURES` or an `nsl.Structure`. "diagonal" weighs the input features.
        block_size: features that share one block M_s, as the taps of a convolution do; None: all of them, M is
            [in_features, in_features].
        learn_shape, shape_threshold, shape_rate: as in `NSConv2d`.

    Parameters:
        weight [out, in], bias [out], neural.similarity [D], and with learn_shape neural.shape [block_size].

    Shapes: input [..., in_features], output [..., out_features].

    Raises:
        ValueError: unknown similarity, or block_size does not divide in_features.
    """

    arguments = ("in_features", "out_features")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        similarity: str | Structure = "diagonal",
        block_size: int | None = None,
        learn_shape: bool = False,
        shape_threshold: float = SHAPE_THRESHOLD,
        shape_rate: float = SHAPE_RATE,
    ) -> None:
        block = feature_block(in_features, block_size)
        super().__init__(in_features, out_features, bias, device, dtype)
        shape = {"learn_shape": learn_shape, "shape_threshold": shape_threshold, "shape_rate": shape_rate}
        self.neural = StaticSimilarity(similarity, block, self.weight, **shape)
        self.register_forward_pre_hook(no_fast_path)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        check_features(input, self.in_features, nested=True)
        return F.linear(input, self.neural(self.weight), self.bias)


class LinearPredictor(nn.Module):
    """The predictor of a fully connected layer: W2 relu(W1 x / ||x||), SphereNet's normalisation for a vector.

    The second map starts at zero, so that the layer starts as the plain one, M = I. The lengths of the maps are not
    divided out, as SphereNet's are: what bounds M - I is how large the weights become.

    Args:
        in_features: of the layer.
        degrees_of_freedom: D.
        hidden: between the two maps.

    Shapes: [..., in_features] to [..., D].
    """

    def __init__(self, in_features: int, degrees_of_freedom: int, hidden: int = HIDDEN) -> None:
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
        check_features(input, self.first.in_features)
        # The sum of squares overflows in float16, where M would silently be I. torch.fx traces with something else.
        narrow = isinstance(input, Tensor) and input.dtype == torch.float16
        values = input.float() if narrow else input
        norm = (values.square().sum(-1, keepdim=True) + EPSILON).sqrt()
        return self.second(torch.relu(self.first((values / norm).to(input.dtype))))


def check_own(predictor: nn.Module | None, hidden: int) -> None:
    """Refuse `hidden`, which is the built-in predictor's, beside a predictor of the user's."""
    if predictor is not None and hidden != HIDDEN:
        raise ValueError(f"hidden belongs to the built-in predictor; leave it out beside {type(predictor).__name__}")


class DynamicNSLinear(DynamicLayer, nn.Linear, replaces=nn.Linear):
    """`torch.nn.Linear` whose similarity is predicted from its input: y = W^T M(x) x + b, M(x) = predictor(x) + I.

    Args:
        in_features, out_features, bias, device, dtype: as in `torch.nn.Linear`.
        similarity: as in `NSLinear`, all but "full" and "l1". A structure with many numbers needs a small block_size.
        block_size: features that share one block.
        predictor: a module from [..., in_features] to [..., D], or None for `LinearPredictor`.
        hidden: of the built-in predictor, without a predictor of your own.

    Parameters:
        weight [out, in], bias [out], neural.predictor.*

    Shapes: input [..., in_features], output [..., out_features].

    Raises:
        ValueError: unknown or unfit similarity, block_size does not divide in_features, or the predictor's output
            does not fit.
    """

    arguments = ("in_features", "out_features")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        similarity: str | Structure = "diagonal",
        block_size: int | None = None,
        predictor: nn.Module | None = None,
        hidden: int = HIDDEN,
    ) -> None:
        block = feature_block(in_features, block_size)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.neural = DynamicSimilarity(similarity, block, self.weight)
        check_own(predictor, hidden)
        if predictor is None:
            predictor = LinearPredictor(in_features, self.neural.degrees_of_freedom, hidden)
            move_like(predictor, self.weight)
        self.neural.predictor = predictor
        self.register_forward_pre_hook(no_fast_path)

    def predict_similarity(self, input: Tensor) -> Tensor:
        """[..., in_features] to masks [..., block_size] or matrices [..., block_size, block_size]."""
        return self.neural(input)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        check_features(input, self.in_features)
        similarity = self.neural(input)
        mixed = similar_features(input.to(similarity.dtype), similarity, self.block, self.structure.is_mask)
        return F.linear(mixed.to(input.dtype), self.weight, self.bias)
