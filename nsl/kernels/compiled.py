"""Compiles `kernels.cpp` once a machine and calls it; where there is no compiler, plain PyTorch does the work.

The library is kept in `$XDG_CACHE_HOME/nsl` (default `~/.cache/nsl`; where that cannot be written, the user's temporary
folder) under a name made of the source, the compiler and the processor, so that a changed one of them compiles again.
`NSL_COMPILE=0` switches it off, `CXX` names another compiler. It uses the threads of PyTorch
(`torch.set_num_threads`), whose OpenMP library it shares.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from nsl import seals
from nsl.folders import home_cache, temporary_folder
from nsl.outputs import scratch

_SOURCE = Path(__file__).with_name("kernels.cpp")
# No -ffast-math: it would flush denormals to zero in the whole process.
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-shared",
    "-fPIC",
    "-Wno-psabi",
)
#: Types that the kernels are compiled for, and their names there.
TYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}


class Geometry(ctypes.Structure):
    """The struct of the same name in kernels.cpp."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "images",
            "height",
            "width",
            "channels",
            *(f"{pair}_{side}" for pair in ("out", "kernel", "stride", "padding", "dilation") for side in "hw"),
            "threads",
        )
    ]


class Rows(ctypes.Structure):
    """The struct of the same name in kernels.cpp."""

    _fields_ = [(name, ctypes.c_int64) for name in ("positions", "channels", "threads")]


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    for name in (named,) if named else ("c++", "g++", "clang++"):
        found = shutil.which(name)
        if found:
            return found
    return None


def _processor() -> str:
    """What -march=native depends on: a home directory may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or home_cache()) / "nsl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return temporary_folder()


def _is_whole(path: Path) -> bool:
    """Whether a compiled library is there as it was written: loading a truncated one ends the process by a signal."""
    try:
        return seals.unsealed(path.read_bytes()) is not None
    except OSError:
        return False


def _seal(path: Path) -> None:
    """Append the check sum of a library to it; the loader does not look behind the end."""
    with path.open("rb+") as file:
        file.write(seals.seal(file.read()))


def _compile(compiler: str, target: Path) -> None:
    """Compile the source in a folder of its own, with the compiler's temporary files, and rename the result: another
    process may be doing the same.

    Raises:
        OSError: the compiler fails, or nothing can be written.
        subprocess.SubprocessError: it takes too long.
    """
    with scratch("compiling-", target.parent) as folder:
        made = folder / target.name
        command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(made)]
        places = {**os.environ, "TMPDIR": str(folder)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=places)
        if done.returncode:
            raise OSError((done.stderr.strip().splitlines() or ["no message"])[0])
        _seal(made)
        os.replace(made, target)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None without a compiler, if it fails (one warning), or under NSL_COMPILE=0."""
    if os.environ.get("NSL_COMPILE", "1") == "0":
        return None
    compiler = _compiler()
    if compiler is None:
        return None
    source = _SOURCE.read_bytes()
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, timeout=60).stdout
        key = b"\0".join([source, " ".join(_FLAGS).encode(), compiler.encode(), version, _processor().encode()])
        target = _cache() / f"kernels-{hashlib.sha256(key).hexdigest()[:16]}.so"
        if not _is_whole(target):
            _compile(compiler, target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(
            f"{compiler} could not compile {_SOURCE.name} ({error}); the dynamic convolution runs its slower eager "
            "path. NSL_COMPILE=0 silences this.",
            stacklevel=2,
        )
        return None


def in_transform() -> bool:
    """Inside vmap, grad, jvp, ... of torch.func, where tensors are wrappers without memory of their own, and where
    `torch.autograd.forward_ad` carries tangents, which no kernel has."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def batched(*tensors: Tensor) -> bool:
    """Whether one of these gradients is many at once, which no kernel takes: `torch.autograd.grad` gives such with
    `is_grads_batched=True`, `torch.autograd.functional.jacobian` with `vectorize=True`."""
    if torch.compiler.is_compiling():
        return False
    return any(torch._C._functorch.is_legacy_batchedtensor(tensor) for tensor in tensors)


def has_memory(tensor: Tensor) -> bool:
    """Whether a kernel may read and write this tensor itself.

    Not so for fake tensors and other subclasses, for what `torch.fx` traces with, for functional wrappers, and where a
    dispatch mode (`make_fx`, `FakeTensorMode`, counters of operations) has to see every operation.
    """
    if torch.compiler.is_compiling():
        return True
    plain = type(tensor) is Tensor or type(tensor) is torch.nn.Parameter
    inside = torch._C._len_torch_dispatch_stack() or torch._is_functional_tensor(tensor)
    return plain and not inside and not torch._C._functorch.is_legacy_batchedtensor(tensor)  # see `batched`


def call(name: str, shape: Geometry | Rows, *tensors: Tensor | None) -> None:
    """Run one kernel on contiguous tensors, None being a null pointer; the first one's type is the stored type."""
    assert tensors[0] is not None
    function = getattr(library(), f"{name}_{TYPES[tensors[0].dtype]}")
    pointers = (ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors)
    function(*pointers, ctypes.byref(shape))
