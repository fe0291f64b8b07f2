"""Dynamic similarity: M predicted from every input, and learned jointly with W (paper 3.3, equation 3).

Around the identity, M(X) = predictor(X) + I, as the paper has it in 3.3.1.

The layers that have one are in `conv.py`, `linear.py` and `dynamic_recurrent.py`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nsl.layers.similarity import OneSimilarity, Similarity
from nsl.layers.structure import Block, Structure
from nsl.layers.structures import Diagonal


class DynamicSimilarity(Similarity):
    """M(X) = predictor(X) + I, one matrix or mask a position.

    The predictor's numbers are added to the identity's before the structure makes a matrix of them, so that every
    predicted M has the structure. Called with the layer's input it gives the masks, or the matrices, of all positions.

    Args:
        similarity, block, like, learn_shape, shape_threshold, shape_rate: as in `Similarity`; all structures but
            "full" and "l1".
        residual: False leaves out the identity.

    Attributes:
        degrees_of_freedom: D, the numbers that the predictor gives a position.
        predictor: a module from maps [B, C, H, W] to [B, D, Ho, Wo], or from features [..., in] to [..., D].

    Parameters:
        predictor.*, and with learn_shape shape [K] (D_r): the shape is static here too (paper 3.5).

    Raises:
        ValueError: the structure cannot be predicted.
    """

    is_dynamic = True
    predictor: nn.Module

    def __init__(
        self, similarity: str | Structure, block: Block, like: Tensor, residual: bool = True, **shape: Any
    ) -> None:
        super().__init__(similarity, block, like, **shape)
        self.residual = residual
        if not self.structure.is_shared:
            raise ValueError(f"similarity={self.structure!r} is for static layers; predict a shared one")
        if self.structure.penalty(self.identity(like.detach()), block) is not None:
            raise ValueError(
                f"similarity={self.structure!r} penalises a learned similarity, and a predicted one is none: a "
                "dynamic layer takes its inner structure, or another one without a penalty"
            )
        self.degrees_of_freedom = self.structure.degrees_of_freedom(block)

    def reset_parameters(self) -> None:
        """The full shape, and the predictor's own initialisation near M = I; kernels that it shares with other layers
        too, for all of them."""
        super().reset_parameters()
        # Children first, so that a predictor's own scaled initialisation has the last word.
        for module in reversed(list(self.predictor.modules())):
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()

    def reset_to_identity(self) -> None:
        """Silence the last step of the predictor, so that M(X) = I exactly, in training and evaluation mode.

        The gradient still reaches that last step, and through it, after one update, the rest.

        Raises:
            ValueError: the identity is left out, so that M(X) would be 0; or the predictor is a module of the user's,
                which has to bring `reset_to_identity` itself, or one that could not learn from there.
        """
        if not self.residual:
            raise ValueError("with residual=False there is no identity to start from: M(X) would be 0")
        reset = getattr(self.predictor, "reset_to_identity", None)
        if not callable(reset):
            raise ValueError(
                f"predictor {type(self.predictor).__name__} has no reset_to_identity(), so its layer cannot start as "
                "the one it replaces; add that method"
            )
        reset()

    def matrix(self, input: Tensor) -> Tensor:
        """What a call gives: of maps [B, K, Ho, Wo] or [B, K, K, Ho, Wo], of features [..., K] or [..., K, K].

        Without the learned shape D, which belongs to the kernel (`on_kernel`).
        """
        return self(input)

    def forward(self, input: Tensor) -> Tensor:
        raw = self.predictor(input)
        over_map = len(self.block.kernel_size) == 2
        if isinstance(raw, Tensor):  # torch.fx traces with something else
            self._check(raw, input, over_map)
        if type(self.structure) is Diagonal:
            return raw + 1 if self.residual else raw
        free = raw.movedim(1, -1) if over_map else raw
        if self.residual:
            free = free + self.identity(raw)
        if self.structure.is_mask:
            mask = self.structure.mask(free, self.block)
            return mask.movedim(-1, 1) if over_map else mask
        matrix = self.structure.assemble(free, self.block)
        return matrix.movedim((-2, -1), (1, 2)) if over_map else matrix

    def _check(self, raw: Tensor, input: Tensor, over_map: bool) -> None:
        degrees = self.degrees_of_freedom
        if over_map:
            wanted = f"[B, {degrees}, Ho, Wo]"
            fits = raw.dim() == 4 and raw.shape[0] == input.shape[0] and raw.shape[1] == degrees
        else:
            wanted = f"{[*input.shape[:-1], degrees]}"
            fits = raw.shape == (*input.shape[:-1], degrees)
        if not fits:
            raise ValueError(
                f"predictor must return {wanted} for {self.structure!r} with {self.block.taps} taps, "
                f"got {list(raw.shape)}"
            )

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.residual else ", residual=False")

    def on_kernel(self, weight: Tensor) -> Tensor:
        """D W: diag(D) M scales the rows of M, which are the kernel's taps; the same as masking the kernel."""
        shape = self.boolean_shape()
        return weight if shape is None else weight * shape.view(*self.block.kernel_size)


class DynamicLayer(OneSimilarity):
    """A layer with one kernel `weight` and one dynamic similarity."""

    is_dynamic = True
    neural: DynamicSimilarity

    @property
    def predictor(self) -> nn.Module:
        """What predicts the similarity's numbers."""
        return self.neural.predictor

    @property
    def residual(self) -> bool:
        """Whether the identity is added to what is predicted."""
        return self.neural.residual

    def mixing_multiply_adds(self, numbers: int) -> int:
        """Of M at work on so many numbers: a product each, or as many as a block of M is wide."""
        return numbers * (1 if self.structure.is_mask else self.block.taps)
