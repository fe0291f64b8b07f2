"""Recurrent cells with a static neural similarity on the input and on the recurrent map (the paper adds that NSL
applies to them, section 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nsl.layers.static import keep_frozen, mix, refuse_stale
from nsl.layers.structures import Block, Structure, make_structure


class _NSCell(nn.Module):
    """What the cells share: one M for each of the two maps; all gates of a map share it, as kernels of a layer do.

    Parameters beyond the plain cell's:
        similarity_ih [D of input_size], similarity_hh [D of hidden_size].
    """

    _plain: type[nn.RNNCellBase]
    input_size: int
    hidden_size: int
    bias: bool
    weight_ih: Tensor
    weight_hh: Tensor
    similarity_ih: nn.Parameter
    similarity_hh: nn.Parameter

    def _add_similarities(self, similarity: str | Structure) -> None:
        self.structure = make_structure(similarity)
        self.blocks = {"ih": Block((self.input_size,)), "hh": Block((self.hidden_size,))}
        for name, block in self.blocks.items():
            free = self.structure.identity(block).to(self.weight_ih)
            self.register_parameter(f"similarity_{name}", nn.Parameter(free))

    def reset_parameters(self) -> None:
        """The plain cell's initialisation and identities."""
        super().reset_parameters()  # type: ignore[misc]
        if hasattr(self, "similarity_ih"):
            with torch.no_grad():
                for name, block in self.blocks.items():
                    getattr(self, f"similarity_{name}").copy_(self.structure.identity(block))

    def similarity_matrix(self, name: str) -> Tensor:
        """M of the input map ("ih") [input_size, input_size] or the recurrent one ("hh") [hidden_size, hidden_size]."""
        return self.structure.assemble(getattr(self, f"similarity_{name}"), self.blocks[name])

    def effective_weight(self, name: str) -> Tensor:
        """M^T W of the input map ("ih") or the recurrent one ("hh"), of the weight's shape.

        Raises:
            ValueError: a forward pre-hook computes the weight or the similarity.
        """
        refuse_stale(self, f"weight_{name}", f"similarity_{name}")
        return self._mixed_weight(name)

    def _mixed_weight(self, name: str) -> Tensor:
        """The effective weight in the forward pass, where pre-hooks have done their work."""
        weight, free = getattr(self, f"weight_{name}"), getattr(self, f"similarity_{name}")
        if self.structure.is_mask:
            return weight * self.structure.mask(free, self.blocks[name])
        return mix(weight, self.similarity_matrix(name))

    def similarity_penalty(self) -> Tensor | None:
        """The structure's penalty of both maps, a scalar, or None."""
        found = [self.structure.penalty(getattr(self, f"similarity_{n}"), b) for n, b in self.blocks.items()]
        return None if found[0] is None or found[1] is None else found[0] + found[1]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, similarity={self.structure!r}"

    def _options(self) -> dict[str, Any]:
        return {"input_size": self.input_size, "hidden_size": self.hidden_size, "bias": self.bias}

    def fold(self) -> nn.RNNCellBase:
        """The plain cell with equal outputs.

        Raises:
            ValueError: a forward pre-hook computes one of the cell's tensors.
        """
        refuse_stale(self, "bias_ih", "bias_hh")
        plain = self._plain(**self._options(), device=self.weight_ih.device, dtype=self.weight_ih.dtype)
        with torch.no_grad():
            for name in ("ih", "hh"):
                getattr(plain, f"weight_{name}").copy_(self.effective_weight(name))
                if self.bias:
                    getattr(plain, f"bias_{name}").copy_(getattr(self, f"bias_{name}"))
        keep_frozen(plain, self)
        return plain.train(self.training)

    def _start(self, input: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor, bool]:
        """Batched input and state, and whether they were batched."""
        if input.dim() not in (1, 2):
            raise ValueError(f"input must be [B, {self.input_size}] or [{self.input_size}], got {list(input.shape)}")
        batched = input.dim() == 2
        if not batched:
            input, hx = input.unsqueeze(0), None if hx is None else hx.unsqueeze(0)
        return input, input.new_zeros(len(input), self.hidden_size) if hx is None else hx, batched

    def _weights(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        biases = (self.bias_ih, self.bias_hh) if self.bias else (None, None)
        return self._mixed_weight("ih"), self._mixed_weight("hh"), *biases


class NSRNNCell(_NSCell, nn.RNNCell):
    """`torch.nn.RNNCell` with similarities: h' = nonlinearity(W_ih^T M_ih x + b_ih + W_hh^T M_hh h + b_hh).

    Args:
        input_size, hidden_size, bias, nonlinearity, device, dtype: as in `torch.nn.RNNCell`.
        similarity: a name of `nsl.STRUCTURES` or an `nsl.Structure`, for both maps.

    Shapes: input [B, input_size] or [input_size], state and output [B, hidden_size] or [hidden_size].

    Raises:
        ValueError: unknown similarity or nonlinearity.
    """

    _plain = nn.RNNCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        similarity: str | Structure = "diagonal",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(input_size, hidden_size, bias, nonlinearity, device, dtype)
        self._add_similarities(similarity)

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"nonlinearity": self.nonlinearity}

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Input [B, input_size] and state [B, hidden_size] (None: zeros) to the next state."""
        input, hx, batched = self._start(input, hx)
        cell = torch.rnn_tanh_cell if self.nonlinearity == "tanh" else torch.rnn_relu_cell
        output = cell(input, hx, *self._weights())
        return output if batched else output.squeeze(0)


class NSGRUCell(_NSCell, nn.GRUCell):
    """`torch.nn.GRUCell` with similarities on the input map and on the recurrent map, shared by the three gates.

    Args:
        input_size, hidden_size, bias, device, dtype: as in `torch.nn.GRUCell`.
        similarity: a name of `nsl.STRUCTURES` or an `nsl.Structure`, for both maps.

    Shapes: input [B, input_size] or [input_size], state and output [B, hidden_size] or [hidden_size].

    Raises:
        ValueError: unknown similarity.
    """

    _plain = nn.GRUCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        similarity: str | Structure = "diagonal",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self._add_similarities(similarity)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Input [B, input_size] and state [B, hidden_size] (None: zeros) to the next state."""
        input, hx, batched = self._start(input, hx)
        output = torch.gru_cell(input, hx, *self._weights())
        return output if batched else output.squeeze(0)
