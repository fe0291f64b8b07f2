"""Timing on a CUDA card: captured graphs, events, and what the card is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

#: Dense peaks by the start of a card's name: TFLOP/s of bfloat16 and TF32 on tensor cores, of float32 beside them, and
#: TB/s of memory (NVIDIA's data sheets, without sparsity).
PEAKS = {
    "NVIDIA H100 PCIe": {"bf16": 756.0, "tf32": 378.0, "fp32": 51.0, "memory": 2.0},
    "NVIDIA H100 NVL": {"bf16": 835.0, "tf32": 417.0, "fp32": 60.0, "memory": 3.9},
    "NVIDIA H100": {"bf16": 989.0, "tf32": 495.0, "fp32": 67.0, "memory": 3.35},
    "NVIDIA H200": {"bf16": 989.0, "tf32": 495.0, "fp32": 67.0, "memory": 4.8},
    "NVIDIA A100": {"bf16": 312.0, "tf32": 156.0, "fp32": 19.5, "memory": 2.04},
}


class Unavailable(RuntimeError):
    """A benchmark that this machine cannot run; the message is one sentence for the reader."""


def require_card() -> None:
    """Raise `Unavailable` unless a CUDA device and Triton are here."""
    import torch

    from nsl.kernels import paths

    if not torch.cuda.is_available():
        raise Unavailable("this machine has no CUDA device, or PyTorch was built without CUDA; nothing was measured.")
    if paths.path(torch.empty(0, device="cuda")) != "triton":
        name = torch.cuda.get_device_name()
        raise Unavailable(f"the kernels do not run on this {name}: they need Triton and compute capability 8.0.")


def driver() -> str:
    """The driver's version as nvidia-smi says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found[0] if found else "unknown"


def card() -> dict[str, Any]:
    """Name, driver and versions for the record of a benchmark."""
    import importlib

    import torch

    from nsl.kernels import paths

    try:
        triton = importlib.import_module("triton").__version__
    except ImportError:
        triton = "none"
    return {
        "card": torch.cuda.get_device_name(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "driver": driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "torch": torch.__version__,
        "triton": triton,
        **paths.describe("cuda"),
    }


def peaks() -> dict[str, float]:
    """The card's peaks, empty for a card that is not listed."""
    import torch

    name = torch.cuda.get_device_name()
    return next((found for start, found in PEAKS.items() if name.startswith(start)), {})


def captured(call: Callable[[], Any], warmup: int = 3) -> Callable[[], None]:
    """The call's work as a CUDA graph, which is replayed; `call` must allocate the same and read no number."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warmup):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()

    def replay(work: Callable[[], Any] = call) -> None:  # which the graph works on: it must live as long
        graph.replay()

    return replay


def seconds(cases: Mapping[str, Callable[[], Any]], repeats: int = 30, warmup: int = 5) -> dict[str, list[float]]:
    """Seconds of every case on the card, by events; the cases take turns, so that clocks and heat hit all alike."""
    import torch

    marks: dict[str, list[tuple[Any, Any]]] = {name: [] for name in cases}
    for turn in range(warmup + repeats):
        for name, call in cases.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            if turn >= warmup:
                marks[name].append((start, end))
        torch.cuda.synchronize()
    return {name: [1e-3 * start.elapsed_time(end) for start, end in pairs] for name, pairs in marks.items()}


def ratio(times: list[float], base: list[float]) -> float:
    """Median of the ratios of the rounds."""
    return median(one / other for one, other in zip(times, base))
