"""How a training is carried out: where, in how many parts, and with what kept. Nothing here is a setting of the recipe.

What holds of the numbers:

* On the CPU, the same recipe, seed and number of threads give the same bits, interrupted or not. `compiled` changes the
  last bits, `accumulate` and `sync_batch_norm` what a batch is to batch norm: checkpoints of other values are refused.
* On CUDA the random choices are those of the CPU, drawn there and brought over. The sums are not added in the CPU's
  order, so the numbers are close and not equal. The same card, driver and versions repeat their own numbers bit for bit
  where every operation is deterministic: `deterministic` says what that takes. A resumed training takes its first
  steps one by one and the others by a graph, which launches the same kernels: the same promise. It does not hold of a
  network that draws from CUDA's own generator, as dropout does: that one nobody seeds.
* Side by side (`nsl.training.side_by_side`) each training has a stream and a graph of its own and computes what it
  computes alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from nsl.training.ranges import check_counts, check_numbers

#: Steps that a CUDA device is given before the host looks at what came out: choices go over and losses come back once
#: in so many. The CPU works step by step.
STRETCH = 128
#: The fields of an `Execution` that the numbers depend on.
IN_NUMBERS = ("accumulate", "compiled", "sync_batch_norm")


@dataclass(frozen=True)
class Execution:
    """The circumstances of a training; a result depends on those of `IN_NUMBERS` only (see the module).

    Attributes:
        device: "auto", or a torch device.
        checkpoint: file to resume from if it exists, and to write every `checkpoint_minutes`. The caller deletes it
            once the result is stored.
        keep_last: also write the checkpoint after the last step.
        progress: show a bar with loss, error and time left (only on a terminal).
        description: text before the bar.
        accumulate: parts that each batch is computed in, one after the other, for less memory; batch norm then uses
            the statistics of a part.
        compiled: run the network through `torch.compile`.
        sync_batch_norm: batch norm of processes that share the training uses the whole batch; CUDA only.
        graph: on CUDA capture the step, and the evaluation, as a CUDA graph. Not done for processes that share a
            training.
    """

    device: str | torch.device = "auto"
    checkpoint: Path | None = None
    checkpoint_minutes: float = 5.0
    keep_last: bool = False
    progress: bool = True
    description: str = ""
    accumulate: int = 1
    compiled: bool = False
    sync_batch_norm: bool = False
    graph: bool = True

    def __post_init__(self) -> None:
        check_counts("execution", self, ("accumulate",))
        check_numbers("execution", self, ("checkpoint_minutes",))
        if self.checkpoint is not None:
            object.__setattr__(self, "checkpoint", Path(self.checkpoint).expanduser())


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The named device, or for "auto" CUDA where there is one and the CPU otherwise.

    Raises:
        ValueError: there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device must be 'auto' or one of PyTorch's, as 'cpu' or 'cuda:0', got {device!r}") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(chosen)!r} was asked for, and PyTorch finds no CUDA here; use 'auto' or 'cpu'")
    return chosen


def stretch(device: torch.device) -> int:
    """Steps between two looks of the host at a training on this device."""
    return STRETCH if device.type == "cuda" else 1


def deterministic() -> None:
    """Let CUDA repeat its numbers bit for bit: cuDNN's deterministic algorithms, chosen without a race, and a workspace
    of cuBLAS's own for every stream. Before the first operation on CUDA; the CPU needs nothing."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On CUDA a stream that can be captured, the present one if it can; elsewhere nothing."""
    if device.type != "cuda" or torch.cuda.current_stream(device) != torch.cuda.default_stream(device):
        yield
        return
    before = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(before)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        before.wait_stream(stream)


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The host's tensor on the device, without waiting for it: CUDA copies from pinned memory as its turn comes."""
    return tensor if device.type == "cpu" else pinned(tensor, device).to(device, non_blocking=True)


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The host's tensor where CUDA can copy from it by itself."""
    return tensor.pin_memory() if device.type == "cuda" and torch.cuda.is_available() else tensor
