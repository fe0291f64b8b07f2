"""Peak memory of a call on the CPU, from the kernel's own high-water mark of this process (Linux)."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reproduce.run.executors import unheard

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def peak_bytes(call: Callable[[], Any]) -> int:
    """Largest resident memory during the call beyond what was resident before it."""
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the high-water mark
    call()
    return max(0, _status("VmHWM") - before)


def _measure(cases: Callable[[], Mapping[str, Callable[[], Any]]]) -> dict[str, int]:
    # Freed blocks go back to the system at once; otherwise the second call would find them resident already.
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    libc.mallopt(_M_TRIM_THRESHOLD, 0)
    peaks = {}
    for name, call in cases().items():
        call()  # buffers that a library keeps are its own, not the call's
        peaks[name] = peak_bytes(call)
    return peaks


def peaks(cases: Callable[[], Mapping[str, Callable[[], Any]]]) -> dict[str, int]:
    """Peak bytes of every case, measured in a process of its own; empty where the system cannot tell.

    Args:
        cases: a module-level function that makes the cases.
    """
    if not sys.platform.startswith("linux") or not Path("/proc/self/clear_refs").exists():
        return {}
    with unheard():
        started = multiprocessing.get_context("spawn").Pool(1)
    with started as pool:
        try:
            return pool.apply(_measure, (cases,))
        except (OSError, AttributeError):
            return {}
