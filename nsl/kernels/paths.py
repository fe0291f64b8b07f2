"""Which way a tensor takes: the C++ kernels of the CPU, the Triton kernels of the GPU, or PyTorch's own operations.

    "native"   CPU; float32, float64, bfloat16; needs a C++ compiler (`nsl.kernels.compiled`)
    "triton"   CUDA from compute capability 8.0; float32, bfloat16, float16; needs Triton, which PyTorch for CUDA
               brings, and what that needs: a C compiler and Python's headers
    "plain"    everything else: other types and devices, `torch.func`, `torch.export`, forward-mode derivatives, fake
               tensors, graphs that are traced. The definition.

`NSL_COMPILE=0` leaves only "plain". `torch.compile` works on the CPU with "plain", since it fuses that itself, and on
CUDA with "triton", whose operators it calls as they are.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from nsl.kernels import compiled
from nsl.kernels.precision import float32_products

Path = Literal["native", "triton", "plain"]

TRITON_TYPES = (torch.float32, torch.bfloat16, torch.float16)
#: The unconstrained kernels keep one tile a tap in registers and shared memory: with 16 taps they spill on every card,
#: and do not fit those with 99 KiB. Larger kernels than this take another path.
UNCONSTRAINED_TAPS = 9

# Once an import: importlib is nothing that torch.compile could trace.
_HAS_TRITON = importlib.util.find_spec("triton") is not None and os.environ.get("NSL_COMPILE", "1") != "0"

_only: Path | None = None


@contextmanager
def only(path: Path) -> Iterator[None]:
    """Every tensor takes this path inside, or "plain" where it cannot: for comparisons and for looking for faults.

    "triton" on the CPU means Triton's interpreter, which needs `TRITON_INTERPRET=1` in the environment.
    """
    global _only
    before, _only = _only, path
    try:
        yield
    finally:
        _only = before


def _usable(index: int | None) -> bool:
    """Whether the GPU has the tensor cores that the kernels are built for, and Triton can build and launch there; fake
    tensors, where no GPU is, count as such."""
    if not torch.cuda.is_available():
        return True
    return _launches(torch.cuda.current_device() if index is None else index)


# What `torch.compiler.assume_constant_result` sets; calling it would import the compiler, three seconds, with `nsl`.
_usable._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _launches(index: int) -> bool:
    """Whether this card is one that the kernels are built for, and a small one runs: Triton needs a C compiler and
    Python's headers, which PyTorch does not bring. Found once a process."""
    if torch.version.hip is not None or torch.cuda.get_device_capability(index) < (8, 0):
        return False
    from nsl.kernels import launch

    try:
        launch.touch(torch.device("cuda", index))
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        warnings.warn(
            f"Triton cannot build or launch a kernel here ({why}): dynamic layers take PyTorch's own operations, which "
            "are several times slower. It needs a C compiler and Python's headers (python3-dev).",
            stacklevel=2,
        )
        return False
    return True


def path(tensor: Tensor) -> Path:
    """The way that tensors of this device and type take, here and now."""
    if _only == "plain" or not isinstance(tensor, Tensor) or compiled.in_transform() or torch.compiler.is_exporting():
        return "plain"
    if _only == "triton" and tensor.device.type == "cpu":
        return "triton" if tensor.dtype in TRITON_TYPES else "plain"
    if tensor.device.type == "cuda" and _only != "native":
        fits = _HAS_TRITON and tensor.dtype in TRITON_TYPES and _usable(tensor.device.index)
        return "triton" if fits else "plain"
    if tensor.device.type == "cpu" and not torch.compiler.is_compiling():
        known = tensor.dtype in compiled.TYPES and compiled.has_memory(tensor)
        return "native" if known and compiled.library() is not None else "plain"
    return "plain"


def describe(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, str]:
    """What a record should say of the way its numbers were computed: what their last bits depend on.

    Args:
        device: where the run computed.
        dtype: the type of its activations (autocast's, where it was on).

    Returns:
        `kernels`, the path, and `matmul`, the precision of float32 products; on CUDA also that of cuDNN's convolutions
        and the settings that decide whether repeats are equal bit for bit.
    """
    device = torch.device(device)
    kernels = path(torch.empty(0, dtype=dtype, device=device))
    if device.type != "cuda":
        return {"kernels": kernels, "matmul": torch.get_float32_matmul_precision()}
    return {
        "kernels": kernels,
        **float32_products(),
        "cudnn_benchmark": str(torch.backends.cudnn.benchmark),
        "cudnn_deterministic": str(torch.backends.cudnn.deterministic),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG", "unset"),
    }


def arithmetic(device: torch.device | str = "cpu") -> dict[str, str]:
    """What the last bits of a training depend on beside its settings, as far as this process decides it: `device`,
    `describe`, and on the CPU also `vectors`, the processor's instructions that PyTorch uses, and `threads`. A training
    goes on only where these are equal. The card and the versions of libraries, on which they depend too, are no
    obstacle: a record names them.
    """
    found = {"device": torch.device(device).type, **describe(device)}
    if found["device"] == "cpu":
        found |= {"vectors": torch.backends.cpu.get_cpu_capability(), "threads": str(torch.get_num_threads())}
    return found


def differing(path: dict[str, str], other: dict[str, str]) -> str:
    """Those entries of a path that differ from another one's, as words: "kernels native, threads 2"."""
    return ", ".join(f"{key} {value}" for key, value in path.items() if other.get(key) != value)
