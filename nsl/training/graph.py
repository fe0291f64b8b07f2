"""A function's work as a CUDA graph: launched as a whole, without the host between its kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

#: Calls that run as they are before one is captured: allocations settle, libraries choose their algorithms.
WARM_UP = 3


class Captured:
    """`function` on a CUDA device, called as it is a few times, then captured and replayed.

    The function takes its inputs from tensors that stay where they are, leaves its results in such, and reads no number
    back. Every call has the effect of one call of the function. The present stream must not be the default one
    (`nsl.training.execution.own_stream`).

    Args:
        function: see above.
        device: where it works; elsewhere than on CUDA it is simply called.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self.function, self.device = function, device
        self.calls = 0
        self.graph: Any = None

    def __call__(self) -> None:
        self.calls += 1
        if self.device.type != "cuda" or self.calls <= WARM_UP:
            self.function()
            return
        if self.graph is None:
            graph = torch.cuda.CUDAGraph()
            stream = torch.cuda.current_stream(self.device)
            # Other threads may have work of their own: only this one's is captured.
            try:
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    self.function()
            except RuntimeError as error:
                raise RuntimeError(
                    "this network's step cannot be captured as a CUDA graph (a number read back, a copy from the host, "
                    "a decision on the host); train it with Execution(graph=False)"
                ) from error
            self.graph = graph
        self.graph.replay()
