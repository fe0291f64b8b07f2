"""Recurrent cells whose similarity depends on input and state (paper 1 and 5.2: "it will be interesting to combine
self-recurrence to NSL").

M_hh(x, h) = predictor(x, h) + I stands in the recurrent map, so that the state feeds back into the similarity as a
dynamic neural unit's does. The input map keeps its plain weight: M of the state is what is new, a choice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.layers.dynamic import DynamicLayer, DynamicSimilarity
from nsl.layers.linear import LinearPredictor, check_own, feature_block, similar_features
from nsl.layers.predictors import move_like
from nsl.layers.recurrent import Cell, check_nonlinearity
from nsl.layers.shared import HIDDEN
from nsl.layers.structure import Structure


class _DynamicCell(Cell, DynamicLayer):
    """What the cells share: the predicted similarity of the recurrent map, shared by the gates.

    Parameters beyond the plain cell's:
        neural.predictor.* from [B, input_size + hidden_size] to [B, D].
    """

    weight_ih: Tensor
    weight_hh: Tensor

    def _add_predictor(
        self,
        similarity: str | Structure,
        hidden: int,
        block_size: int | None,
        predictor: nn.Module | None,
        like: Tensor,
    ) -> None:
        self.neural = DynamicSimilarity(similarity, feature_block(self.hidden_size, block_size, "hidden_size"), like)
        check_own(predictor, hidden)
        if predictor is None:
            predictor = LinearPredictor(self.input_size + self.hidden_size, self.neural.degrees_of_freedom, hidden)
            move_like(predictor, like)
        self.neural.predictor = predictor

    def predict_similarity(self, input: Tensor, hx: Tensor) -> Tensor:
        """Masks [B, block_size] or matrices [B, block_size, block_size] of input [B, input_size] and state [B,
        hidden_size].

        Raises:
            ValueError: the predictor's output does not fit.
        """
        return self.neural(torch.cat([input, hx], -1))

    def multiply_adds(self, _input: Tensor, _output: Tensor) -> int:
        """Of one step, without the predictor's: both maps, and M on the state."""
        return self.weight_ih.numel() + self.weight_hh.numel() + self.mixing_multiply_adds(self.hidden_size)

    def _seen(self, input: Tensor, hx: Tensor) -> Tensor:
        """M_hh(x, h) h, [B, hidden_size]."""
        return similar_features(hx, self.predict_similarity(input, hx), self.block, self.structure.is_mask)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, similarity={self.structure!r}"


class DynamicNSRNNCell(_DynamicCell, nn.RNNCell):
    """`torch.nn.RNNCell` with a similarity that its state moves:

        h' = nonlinearity(W_ih x + b_ih + W_hh M(x, h) h + b_hh),    M(x, h) = predictor(x, h) + I

    (W_hh here is torch's, [hidden, hidden] with one unit a row: the paper's W^T.)

    Args:
        input_size, hidden_size, bias, nonlinearity, device, dtype: as in `torch.nn.RNNCell`.
        similarity: a name of `nsl.STRUCTURES` or an `nsl.Structure`; all but "full" and "l1".
        block_size: units of the state that share one block of M; None: all, M is [hidden_size, hidden_size].
        predictor: a module from [B, input_size + hidden_size] to [B, D]; None: `nsl.LinearPredictor`.
        hidden: of the built-in predictor, without a predictor of your own.

    Shapes: input [B, input_size] or [input_size], state and output [B, hidden_size] or [hidden_size].

    Raises:
        ValueError: unknown or unfit similarity or nonlinearity, block_size does not divide hidden_size, or the
            predictor's output does not fit.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        similarity: str | Structure = "diagonal",
        block_size: int | None = None,
        predictor: nn.Module | None = None,
        hidden: int = HIDDEN,
    ) -> None:
        check_nonlinearity(nonlinearity)
        super().__init__(input_size, hidden_size, bias, nonlinearity, device, dtype)
        self._add_predictor(similarity, hidden, block_size, predictor, self.weight_ih)

    def _step(self, input: Tensor, hx: Tensor) -> Tensor:
        biases = (self.bias_ih, self.bias_hh) if self.bias else (None, None)
        sums = F.linear(input, self.weight_ih, biases[0]) + F.linear(self._seen(input, hx), self.weight_hh, biases[1])
        return torch.tanh(sums) if self.nonlinearity == "tanh" else torch.relu(sums)


class DynamicNSGRUCell(_DynamicCell, nn.GRUCell):
    """`torch.nn.GRUCell` whose three recurrent maps see M(x, h) h in place of h, M(x, h) = predictor(x, h) + I.

        r = sigmoid(W_ir x + b_ir + W_hr M h + b_hr)      n  = tanh(W_in x + b_in + r * (W_hn M h + b_hn))
        z = sigmoid(W_iz x + b_iz + W_hz M h + b_hz)      h' = (1 - z) * n + z * h

    Args, shapes and errors: as `DynamicNSRNNCell`'s, without the nonlinearity.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        similarity: str | Structure = "diagonal",
        block_size: int | None = None,
        predictor: nn.Module | None = None,
        hidden: int = HIDDEN,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self._add_predictor(similarity, hidden, block_size, predictor, self.weight_ih)

    def _step(self, input: Tensor, hx: Tensor) -> Tensor:
        biases = (self.bias_ih, self.bias_hh) if self.bias else (None, None)
        ours = F.linear(input, self.weight_ih, biases[0]).chunk(3, -1)
        seen = F.linear(self._seen(input, hx), self.weight_hh, biases[1]).chunk(3, -1)
        reset, update = torch.sigmoid(ours[0] + seen[0]), torch.sigmoid(ours[1] + seen[1])
        new = torch.tanh(ours[2] + reset * seen[2])
        return (1 - update) * new + update * hx
