"""Fully connected networks, plain and with a neural similarity (paper 1: NSL for fully connected layers)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from nsl.layers.linear import DynamicNSLinear, NSLinear

KINDS = ("plain", "static", "dynamic")


class MLP(nn.Module):
    """Two hidden layers with batch norm and ReLU, plain, static or dynamic, and a plain classifier.

    Args:
        features: numbers an input has.
        num_classes: outputs.
        hidden: units of the two hidden layers.
        kind: "plain", "static" or "dynamic".
        similarity, block_size: of the last two. A structure other than the diagonal needs a block_size that divides
            features and hidden.
        predictor_hidden: of the dynamic layers' predictors.

    Shapes: [B, ...] with `features` numbers an input, to logits [B, num_classes].

    Raises:
        ValueError: unknown kind or similarity, or options of a similarity for the plain network.
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        hidden: int = 256,
        kind: str = "plain",
        similarity: str = "diagonal",
        block_size: int | None = None,
        predictor_hidden: int = 64,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}, got {kind!r}")
        if kind == "plain" and (similarity, block_size) != ("diagonal", None):
            raise ValueError("similarity and block_size belong to kind='static' and 'dynamic'; leave them out")
        linears: dict[str, Callable[..., nn.Module]] = {
            "plain": nn.Linear,
            "static": partial(NSLinear, similarity=similarity, block_size=block_size),
            "dynamic": partial(DynamicNSLinear, similarity=similarity, block_size=block_size, hidden=predictor_hidden),
        }
        linear = linears[kind]
        layers: list[nn.Module] = [nn.Flatten()]
        for size in (features, hidden):
            layers += [linear(size, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(hidden, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        """[B, ...] to logits [B, num_classes]."""
        return self.classifier(self.layers(input))


def mlp(
    num_classes: int, *, width: int = 32, image_size: int = 32, kind: str = "plain", similarity: str = "diagonal",
    block_size: int | None = None, hidden: int | None = None,
) -> MLP:
    """An MLP on images, `hidden` (None: 8 width) units; predictors have 2 width.

    Args:
        kind, similarity, block_size: as in `MLP`.
    """
    units = 8 * width if hidden is None else hidden
    return MLP(3 * image_size**2, num_classes, units, kind, similarity, block_size, 2 * width)
