"""How a network is before it works: on which device, laid out how, and in which mode, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy


def placed(model: nn.Module, device: torch.device | str | None = None) -> nn.Module:
    """The network itself, moved to the device, with channels innermost in what has four axes.

    Raises:
        ValueError: a parameter has no shape yet (`nn.LazyLinear` and others).
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if is_lazy(tensor):
            raise ValueError(f"the network's {name} has no shape yet: let it see one batch of images first")
    if all(tensor.dim() != 5 for _, tensor in tensors):
        return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.to(device)  # PyTorch would lay out volumes too, for which the format is none
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model


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
