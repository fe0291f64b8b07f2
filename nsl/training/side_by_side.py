"""Several trainings on one CUDA device in one process, a stream and a graph each.

Processes that share a GPU take turns on it; streams of one process run beside each other, and networks as small as
these leave most of a large card idle. Each training is a thread, of which one runs at a time and hands the turn on
after some steps: launching a captured step is all that the host does, so that one host keeps several streams busy. What
happens between two turns is never interrupted by another training: a network that is initialised from
`torch.manual_seed` gets the weights that it gets alone. Trainings draw from generators of their own
(`nsl.training.batches.generator`), never from the global one, so that a training's numbers do not depend on its
neighbours.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

#: Steps of a training between two turns.
TURN = 8
#: Seconds between two looks at a device that is not done yet.
_PATIENCE = 5e-5

_own = threading.local()


class Turns:
    """One thread at a time has the turn; the others wait in the order of their coming."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[threading.Event] = deque()
        self._taken = False

    def take(self) -> None:
        """Wait for the turn."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._queue.append(mine)
        mine.wait()

    def leave(self) -> None:
        """Give the turn to the next, and want it no more."""
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._taken = False

    def pass_on(self) -> None:
        """Give the turn to the next, and wait for it again at the end of the queue."""
        with self._lock:
            if not self._queue:
                return
            mine = threading.Event()
            self._queue.append(mine)
            self._queue.popleft().set()
        mine.wait()

    def run(self, call: Callable[[], Result], device: torch.device) -> Result:
        """Call in this thread, when it is its turn, on a stream of its own."""
        self.take()
        _own.turns = self
        try:
            with torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext():
                return call()
        finally:
            _own.turns = None
            self.leave()


def pass_turn() -> None:
    """Let the other trainings of this process have their turns; alone, nothing happens."""
    turns: Turns | None = getattr(_own, "turns", None)
    if turns is not None:
        turns.pass_on()


def wait_for(values: Tensor) -> list[Any]:
    """The numbers of a tensor; while its device is busy the other trainings have their turns."""
    if values.device.type != "cuda" or getattr(_own, "turns", None) is None:
        return values.tolist()
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True, device="cpu")
    host.copy_(values, non_blocking=True)
    there = torch.cuda.Event()
    there.record(torch.cuda.current_stream(values.device))
    while not there.query():
        pass_turn()
        time.sleep(_PATIENCE)
    return host.tolist()
