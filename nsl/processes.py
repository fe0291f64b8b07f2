"""Worker processes that never outlive the one that started them, and leave Ctrl-C to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any


def _end_with_parent() -> None:
    """Wait for the parent process to end, then end this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class _Pool(ProcessPoolExecutor):
    """Starts its processes, which it does as tasks come, with Ctrl-C blocked: it would be a traceback of theirs."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        resource_tracker.ensure_running()  # the first process starts it, and that would unblock the signal
        super().__init__(*arguments, **options)

    def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(*arguments, **options)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, heard)


def _begin(first: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """What every worker does before its first task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if first is not None:
        first(*arguments)


@contextmanager
def workers(
    count: int, first: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """`count` fresh processes. They end with the block: at once where it is left by an exception, or where this process
    is killed.

    Args:
        first: called with `arguments` in each of them before its first task.
    """
    pool = _Pool(
        count, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(first, arguments)
    )
    try:
        yield pool
    except BaseException:
        running = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.kill()
        raise
    pool.shutdown()
