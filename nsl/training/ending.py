"""A process that is told to end (SIGTERM: a machine that is taken back, a cluster's queue) saves its trainings first.

A training looks at `ENDING` whenever it reads what its steps found (`nsl.training.state`), writes its checkpoint and
leaves by `SystemExit`; the same command then goes on from there.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Set once the process is to end.
ENDING = threading.Event()
#: What a process ends with that SIGTERM ended: 128 and the signal's number.
EXIT_CODE = 128 + signal.SIGTERM


@contextmanager
def saving_when_told() -> Iterator[None]:
    """SIGTERM sets `ENDING` inside, for trainings in the main thread; in another thread nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: ENDING.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        ENDING.clear()
