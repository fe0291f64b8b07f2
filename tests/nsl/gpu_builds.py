"""Builds the GPU kernels without a GPU, with the arguments that the launchers give them, and reads what came out.

    python -m tests.nsl.gpu_builds 90 bfloat16 32     one capability, type and number of channels
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch


@dataclass(frozen=True)
class Build:
    """What the compiler says of one kernel: registers a thread, bytes of stack (spilled registers, mostly), bytes of
    shared memory a program, and how many instructions of a kind there are."""

    kernel: str
    registers: int
    stack: int
    shared: int
    tensor_cores: int
    wide_loads: int
    atomics: int


def _tool(name: str) -> str:
    import triton

    (found,) = Path(triton.__file__).parent.rglob(name)
    return str(found)


def _read(kernel: str, built: Any) -> Build:
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(built.asm["cubin"])
        usage, code = (
            subprocess.run([_tool("cuobjdump"), what, binary], capture_output=True, text=True, check=True).stdout
            for what in ("--dump-resource-usage", "--dump-sass")
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    count = {
        name: len(re.findall(pattern, code))
        for name, pattern in (
            ("tensor_cores", r"\bHG?MMA\b"),
            ("wide_loads", r"\bLDG\.E\S*\.128|\bLDGSTS\S*\.128"),
            ("atomics", r"\bATOMG?\b|\bRED\b"),
        )
    }
    return Build(kernel, int(found[1]), int(found[2]), built.metadata.shared, **count)


@contextmanager
def _card(capability: int) -> Iterator[None]:
    """Triton believes that a card of this capability is here."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    before = driver._active  # None until a card is asked for: asking would fail without one
    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: GPUTarget("cuda", capability, 32),
            get_current_device=lambda: capability,
            get_current_stream=lambda device: 0,
        )
    )
    try:
        yield
    finally:
        driver.set_active(before)


def builds(
    capability: int, dtype: torch.dtype, channels: int, products: str, only: tuple[str, ...] = ("",)
) -> list[Build]:
    """The kernels of a 3x3 layer of `channels` to `channels` and of its predictor, as the launchers launch them.

    Args:
        only: those whose name starts so.
    """
    from triton.runtime.jit import MockTensor

    from nsl.kernels import launch, launch_rows

    found: list[Build] = []

    def build(kernel: Any, grid: tuple[int, ...], *arguments: Any, tile: Any, **constants: Any) -> None:
        name = f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__}"
        if not name.startswith(only):
            return
        sides = {"ROWS": tile.rows, "CHANNELS": tile.channels, "FILTERS": tile.filters}
        constants |= {name: value for name, value in sides.items() if name in kernel.arg_names}
        if "PRODUCTS" in constants:
            constants["PRODUCTS"] = products
        mocks = [MockTensor(a.dtype) if isinstance(a, torch.Tensor) else a for a in arguments]
        built = kernel.warmup(*mocks, grid=grid, num_warps=tile.warps, num_stages=tile.stages, **constants)
        found.append(_read(name, built))

    before, launch.run, launch_rows.run = launch.run, build, build
    try:
        with _card(capability):
            window = launch.Window(3, 3, 1, 1, 1, 1, 1, 1)
            for block in ((9,), (9, 9)):
                x = torch.empty(128, 32, 32, channels, dtype=dtype, device="meta")
                w = torch.empty(9, channels, channels, dtype=dtype, device="meta")
                m = torch.empty(128, 32, 32, *block, dtype=dtype, device="meta")
                y = launch.forward(x, w, m, window)
                launch.input_gradients(y, x, w, m, window)
                launch.weight_gradient(y, x, w, m, window)
            e = launch_rows.energy(x)
            launch_rows.energy_gradient(e, x)
            launch_rows.windows_gradient(launch_rows.windows(e, [32, 32], window, 1e-4), e, [32, 32], window)
            for activation, with_energy in (("relu", True), ("clamp", False)):
                y, energy = launch_rows.scale(x, e, activation, channels if with_energy else 9, with_energy)
                launch_rows.scale_gradient(y, energy, x, e, activation)
            launch_rows.unit_gradient(launch_rows.unit(w, 16, dtype, 1e-4), w, 1e-4)
    finally:
        launch.run = launch_rows.run = before
    return found


def main(arguments: list[str]) -> None:
    capability, name, channels, *products = arguments
    for build in builds(int(capability), getattr(torch, name), int(channels), *(products or ["ieee"])):
        print(capability, name, channels, *products, build, flush=True)


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") != "1"
    main(sys.argv[1:])
