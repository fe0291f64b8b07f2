"""Recurrent networks for sequences: one cell, and a linear map of its last state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nsl.layers.dynamic_recurrent import DynamicNSGRUCell, DynamicNSRNNCell
from nsl.layers.recurrent import NSGRUCell, NSRNNCell

CELLS: dict[str, Callable[..., nn.Module]] = {
    "rnn": nn.RNNCell,
    "gru": nn.GRUCell,
    "static_rnn": NSRNNCell,
    "static_gru": NSGRUCell,
    "dynamic_rnn": DynamicNSRNNCell,
    "dynamic_gru": DynamicNSGRUCell,
}


class SequenceNetwork(nn.Module):
    """A recurrent cell over the steps of a sequence, and a linear classifier of the last state.

    Args:
        channels: numbers a step.
        outputs: classes, or 1 for a number.
        width: units of the state.
        cell: a name of `CELLS`: plain, with a static similarity, or with one that input and state move.
        similarity: of the cells that have one.
        hidden: of the predictor of a dynamic cell; None: half of the width.

    Shapes: [B, T, channels] to [B, outputs].

    Raises:
        ValueError: unknown cell, or a similarity or hidden units for one that takes none.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        width: int = 64,
        cell: str = "gru",
        similarity: str | None = None,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {list(CELLS)}, got {cell!r}")
        options: dict[str, Any] = {} if similarity is None else {"similarity": similarity}
        if cell.startswith("dynamic"):
            options["hidden"] = max(1, width // 2) if hidden is None else hidden
        elif hidden is not None:
            raise ValueError(f"hidden is for dynamic cells, not for {cell!r}")
        if similarity is not None and "_" not in cell:
            raise ValueError(f"similarity is for static and dynamic cells, not for {cell!r}")
        self.cell = partial(CELLS[cell], **options)(channels, width)
        self.classifier = nn.Linear(width, outputs)
        self.width = width

    def states(self, inputs: Tensor) -> Tensor:
        """All states [B, T, width] of [B, T, channels], from a state of zeros."""
        state = inputs.new_zeros(len(inputs), self.width)
        seen = []
        for step in inputs.unbind(1):
            state = self.cell(step, state)
            seen.append(state)
        return torch.stack(seen, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, T, channels] to [B, outputs]."""
        return self.classifier(self.states(inputs)[:, -1])
