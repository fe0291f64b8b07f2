"""The benchmark of a CUDA card: what it does without one, and that its parts are sound."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reproduce.bench import gpu, gpu_steps, run_benchmarks

ROOT = Path(__file__).parents[2]
without_card = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@without_card
def test_without_a_card_one_line_says_so_and_nothing_is_stored(tmp_path: Path) -> None:
    lines: list[str] = []
    assert run_benchmarks({"gpu": gpu.gpu}, tmp_path, [], lines.append) == 0
    assert len(lines) == 1
    assert lines[0].startswith("gpu: this machine has no CUDA device")
    with pytest.raises(ValueError, match=r"^gpu: this machine has no CUDA device.*nothing was measured\.$"):
        run_benchmarks({"gpu": gpu.gpu}, tmp_path, ["gpu"], lines.append)
    assert len(lines) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed (Linux only)")
def test_the_check_of_correctness_passes_in_the_interpreter_and_finds_a_kernel_that_leaves_an_element_out() -> None:
    script = (
        "from nsl.kernels import launch\n"
        "from reproduce.bench import gpu\n"
        "tiny = (1, 3, 3, 2, 3, (1, 2), (1, 1), (0, 1), (1, 1))\n"
        "rows = gpu.correctness('cpu', (tiny,), ('fp32',))\n"
        "print(len(rows), all('bit for bit' in row.note for row in rows))\n"
        "run = launch.run\n"
        "launch.run = lambda kernel, grid, *rest, **more: run(kernel, (0, *grid[1:]), *rest, **more)\n"
        "try:\n"
        "    gpu.correctness('cpu', (tiny,), ('fp32',))\n"
        "except ValueError as error:\n"
        "    print(str(error).split(' (')[0], 'inf' in str(error))\n"
    )
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=900
    )
    assert done.stdout.splitlines() == ["3 True", "DNS fp32 True"], done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("name", gpu_steps.NETWORKS)
def test_a_step_of_the_ladder_trains_on_any_device(name: str) -> None:
    gpu_steps.make_step(name, "bf16", device="cpu", batch=2)()


def test_the_ladder_compares_every_network_with_the_plain_one_on_the_same_rung(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = dict(zip(gpu_steps.NETWORKS, ([0.001, 0.002], [0.003, 0.004], [0.01, 0.02])))
    monkeypatch.setattr(gpu_steps, "_measure", lambda rung, name, precision: (times[name], 100.0))
    rows = gpu_steps.ladder()
    assert len(rows) == 2 * len(gpu_steps.RUNGS) * 3
    assert [row.ratio for row in rows[:3]] == [None, 2.5, 10.0]
    assert sum("target" in row.note for row in rows) == 3


def test_a_rung_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(rung: str, name: str, precision: str) -> tuple[list[float], float]:
        if name == "cnn9" and rung == "graph":
            raise RuntimeError("out of memory")
        return [0.001, 0.002], 100.0

    monkeypatch.setattr(gpu_steps, "_measure", measure)
    rows = {row.case: row for row in gpu_steps.ladder()}
    assert len(rows) == 2 * len(gpu_steps.RUNGS) * 3
    assert rows["step bf16, graph: cnn9"].note == "failed: RuntimeError: out of memory"
    assert rows["step bf16, graph: nsn9_dynamic_diagonal"].ratio is None
    assert rows["step bf16, kernels: nsn9_dynamic_diagonal"].ratio == 1.0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_card_every_kernel_is_right_and_repeats() -> None:
    assert len(gpu.correctness()) == 12


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_card_a_step_can_be_captured_and_timed() -> None:
    from reproduce.bench.card import captured, seconds

    replay = captured(gpu_steps.make_step("nsn9_dynamic_diagonal", "bf16", batch=8))
    assert min(seconds({"step": replay}, repeats=3)["step"]) > 0
