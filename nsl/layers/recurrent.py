"""Recurrent cells with a static neural similarity on the input and on the recurrent map (paper 1: NSL applies to
them too)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nsl.kernels.precision import exactly
from nsl.layers.similarity import NAME_ENDS, Similar, refuse_stale
from nsl.layers.static import StaticSimilarity, keep_frozen
from nsl.layers.structure import Block, Structure

MAPS = ("ih", "hh")
#: Attributes of a cell that are its similarities', and where they are.
_OF_SIMILARITY = {f"similarity_{name}{end}": f"neural_{name}.similarity{end}" for name in MAPS for end in NAME_ENDS}


def check_nonlinearity(name: str) -> None:
    """Refuse a name that `torch.nn.RNNCell` would refuse only when it is called."""
    if name not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {name!r}")


class Cell:
    """The step from input and state to the next state, with and without a batch; stands before the plain class."""

    input_size: int
    hidden_size: int

    def _step(self, input: Tensor, hx: Tensor) -> Tensor:
        """The next state of a batch, [B, input_size] and [B, hidden_size]."""
        raise NotImplementedError

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Input [B, input_size] and state [B, hidden_size] (None: zeros) to the next state; or without B."""
        if isinstance(input, Tensor):  # torch.fx traces with something else
            size = self.input_size
            if input.dim() not in (1, 2) or input.shape[-1] != size:
                raise ValueError(f"input must be [B, {size}] or [{size}], got {list(input.shape)}")
            if hx is not None and (hx.dim() != input.dim() or hx.shape[-1] != self.hidden_size):
                shape = f"[B, {self.hidden_size}]" if input.dim() == 2 else f"[{self.hidden_size}]"
                raise ValueError(f"state must be {shape}, got {list(hx.shape)}")
            if input.dim() == 1:
                return self.forward(input.unsqueeze(0), None if hx is None else hx.unsqueeze(0)).squeeze(0)
        return self._step(input, input.new_zeros(input.shape[0], self.hidden_size) if hx is None else hx)


class _NSCell(Cell, Similar):
    """What the cells share: one M for each of the two maps; all gates of a map share it, as kernels of a layer do.

    Parameters beyond the plain cell's:
        neural_ih.similarity [D of input_size], neural_hh.similarity [D of hidden_size].
    """

    bias: bool
    bias_ih: Any
    bias_hh: Any
    weight_ih: Tensor
    weight_hh: Tensor

    def _add_similarities(self, similarity: str | Structure) -> None:
        self.neural_ih = StaticSimilarity(similarity, Block((self.input_size,)), self.weight_ih)
        self.neural_hh = StaticSimilarity(similarity, Block((self.hidden_size,)), self.weight_hh)

    @property
    def structure(self) -> Structure:
        """The structure of both similarities."""
        return self.neural_ih.structure

    @property
    def similarity_ih(self) -> nn.Parameter:
        """The free numbers [D] of the input map's similarity."""
        return self.neural_ih.similarity

    @property
    def similarity_hh(self) -> nn.Parameter:
        """The free numbers [D] of the recurrent map's similarity."""
        return self.neural_hh.similarity

    def _of_part(self, name: str) -> str | None:
        return _OF_SIMILARITY.get(name)

    def _part(self, name: str) -> StaticSimilarity:
        return self.neural_ih if name == "ih" else self.neural_hh

    def similarity_matrix(self, name: str) -> Tensor:
        """M of the input map ("ih") [input_size, input_size] or the recurrent one ("hh") [hidden_size, hidden_size].

        Raises:
            ValueError: a forward pre-hook computes the similarity.
        """
        return self._part(name).matrix()

    def effective_weight(self, name: str) -> Tensor:
        """M^T W of the input map ("ih") or the recurrent one ("hh"), of the weight's shape.

        Raises:
            ValueError: a forward pre-hook computes the weight or the similarity.
        """
        refuse_stale(self, f"weight_{name}")
        refuse_stale(self._part(name), "similarity")
        weight = getattr(self, f"weight_{name}")
        with exactly(weight):
            return self._part(name)(weight)

    def fold(self) -> nn.RNNCellBase:
        """The plain cell with equal outputs.

        Raises:
            ValueError: a forward pre-hook computes one of the cell's tensors.
        """
        refuse_stale(self, "bias_ih", "bias_hh")
        plain = self.unfilled_plain()
        with torch.no_grad():
            for name in MAPS:
                getattr(plain, f"weight_{name}").copy_(self.effective_weight(name))
                if self.bias:
                    getattr(plain, f"bias_{name}").copy_(getattr(self, f"bias_{name}"))
        keep_frozen(plain, self)
        return plain.train(self.training)

    def _weights(self) -> tuple[Tensor, Tensor, Any, Any]:
        return self.neural_ih(self.weight_ih), self.neural_hh(self.weight_hh), self.bias_ih, self.bias_hh


class NSRNNCell(_NSCell, nn.RNNCell):
    """`torch.nn.RNNCell` with similarities: h' = nonlinearity(W_ih^T M_ih x + b_ih + W_hh^T M_hh h + b_hh).

    Args:
        input_size, hidden_size, bias, nonlinearity, device, dtype: as in `torch.nn.RNNCell`.
        similarity: a name of `nsl.STRUCTURES` or an `nsl.Structure`, for both maps.

    Shapes: input [B, input_size] or [input_size], state and output [B, hidden_size] or [hidden_size].

    Raises:
        ValueError: unknown similarity or nonlinearity.
    """

    plain = nn.RNNCell
    arguments = ("input_size", "hidden_size", "nonlinearity")

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
    ) -> None:
        check_nonlinearity(nonlinearity)
        super().__init__(input_size, hidden_size, bias, nonlinearity, device, dtype)
        self._add_similarities(similarity)

    def _step(self, input: Tensor, hx: Tensor) -> Tensor:
        cell = torch.rnn_tanh_cell if self.nonlinearity == "tanh" else torch.rnn_relu_cell
        return cell(input, hx, *self._weights())


class NSGRUCell(_NSCell, nn.GRUCell):
    """`torch.nn.GRUCell` with similarities on the input map and on the recurrent map, shared by the three gates.

    Args:
        input_size, hidden_size, bias, device, dtype: as in `torch.nn.GRUCell`.
        similarity: a name of `nsl.STRUCTURES` or an `nsl.Structure`, for both maps.

    Shapes: input [B, input_size] or [input_size], state and output [B, hidden_size] or [hidden_size].

    Raises:
        ValueError: unknown similarity.
    """

    plain = nn.GRUCell
    arguments = ("input_size", "hidden_size")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        similarity: str | Structure = "diagonal",
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self._add_similarities(similarity)

    def _step(self, input: Tensor, hx: Tensor) -> Tensor:
        return torch.gru_cell(input, hx, *self._weights())
