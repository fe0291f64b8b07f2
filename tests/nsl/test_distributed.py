"""Processes that share a training find what one process finds, and resume when one of them is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nsl import distributed_worker

ROOT = Path(__file__).parents[2]


def launch(folder: Path, *arguments: int, processes: int = 2, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    command += [f"--max-restarts={restarts}", "-m", "tests.nsl.distributed_worker", str(folder), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


def losses(folder: Path) -> dict[int, float]:
    found = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return {item["step"]: item["train_loss"] for item in found if "train_loss" in item}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty steps of one process."""
    folder = tmp_path_factory.mktemp("alone")
    distributed_worker.main(folder, 50, 0)
    return folder


def test_two_processes_have_the_losses_of_one(tmp_path: Path, alone: Path) -> None:
    # Fifteen images a batch: the two slices are not of one size.
    done = launch(tmp_path / "two", 50, 0, restarts=1)
    assert done.returncode == 0, done.stderr
    one, two = losses(alone), losses(tmp_path / "two")
    assert len(one) == len(two) == 50
    assert max(abs(one[step] - two[step]) for step in one) < 1e-5
    curves = [json.loads((tmp_path / "two" / f"result{rank}.json").read_text()) for rank in (0, 1)]
    assert curves[0] == curves[1]
    single = json.loads((alone / "result0.json").read_text())
    assert [point["test_error"] for point in curves[0]] == [point["test_error"] for point in single]
    assert curves[0][-1]["test_loss"] == pytest.approx(single[-1]["test_loss"], abs=1e-5)
    assert curves[0][-1]["train_error"] == pytest.approx(single[-1]["train_error"], abs=1e-9)


def test_a_killed_process_brings_all_back_to_the_last_checkpoint(tmp_path: Path, alone: Path) -> None:
    done = launch(tmp_path / "killed", 50, 20, restarts=2)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed" / "died").exists()
    one, killed = losses(alone), losses(tmp_path / "killed")
    assert max(abs(one[step] - killed[step]) for step in one) < 1e-5


def test_without_a_restart_the_next_start_resumes(tmp_path: Path, alone: Path) -> None:
    folder = tmp_path / "stopped"
    assert launch(folder, 50, 20).returncode != 0
    before = losses(folder)
    assert max(before) < 50
    distributed_worker.main(folder, 50, 0)  # one process goes on where two were
    one, resumed = losses(alone), losses(folder)
    assert max(abs(one[step] - resumed[step]) for step in one) < 1e-5


def test_accumulated_parts_give_the_losses_of_whole_batches(tmp_path: Path, alone: Path) -> None:
    distributed_worker.main(tmp_path, 50, 0, 4)
    one, parts = losses(alone), losses(tmp_path)
    assert max(abs(one[step] - parts[step]) for step in one) < 1e-5


def test_more_parts_than_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a batch of 15 images cannot be computed by 1 processes in 16 parts"):
        distributed_worker.main(tmp_path, 2, 0, 16)
