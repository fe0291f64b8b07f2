"""Calls in turns on one device, as `nsl.training.side_by_side` has them, for the tests of that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from nsl.training.side_by_side import Result, Turns


def side_by_side(calls: Sequence[Callable[[], Result]], device: torch.device) -> list[Result]:
    """The results of the calls, in their order, made in turns on one device.

    Of calls that are known at once; `reproduce.run.executors` gives every run to `Turns.run` as it comes.

    Raises:
        Exception: what the first of the calls that failed raised, when all have ended.
    """
    turns = Turns()
    results: list[Any] = [None] * len(calls)
    failures: list[BaseException | None] = [None] * len(calls)

    def work(number: int) -> None:
        try:
            results[number] = turns.run(calls[number], device)
        except BaseException as error:
            failures[number] = error

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        if failure is not None:
            raise failure
    return results
