"""A process that is told to end (SIGTERM: a machine that is taken back, a cluster's queue) saves its trainings first.

A training looks at `ENDING` whenever it reads what its steps found (`nsl.training.state`), writes its checkpoint and
leaves by `SystemExit`; the same command then goes on from there. Ctrl-C ends it at once, without saving.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Set once the process is to end.
ENDING = threading.Event()
#: Set once Ctrl-C was pressed.
INTERRUPTED = threading.Event()
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


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C leaves the block by `KeyboardInterrupt`, whatever the libraries below make of it.

    The exception alone is not enough: one that arrives while an extension module is imported becomes an `ImportError`,
    one in a callback from C is printed as ignored. So the key press is kept in `INTERRUPTED`, which a training looks
    at as it looks at `ENDING`. In a thread, and where Ctrl-C is ignored or handled otherwise, nothing changes.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def press(*_: object) -> None:
        INTERRUPTED.set()
        raise KeyboardInterrupt

    def report(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            unraisable_before(unraisable)

    unraisable_before, sys.unraisablehook = sys.unraisablehook, report
    signal.signal(signal.SIGINT, press)
    try:
        yield
    except Exception as error:
        if INTERRUPTED.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = unraisable_before
        INTERRUPTED.clear()
