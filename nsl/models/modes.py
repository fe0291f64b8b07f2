"""Training and evaluation mode, module by module: what a user keeps in evaluation mode stays so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode of the whole network within, and after it of every module the mode that it had.

    `model.train()` afterwards would lose that some parts, as frozen batch normalisation, are kept in evaluation mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def begin_training(model: nn.Module) -> None:
    """Training mode of a network that is in evaluation mode; parts of one in training mode keep theirs."""
    if not model.training:
        model.train()
