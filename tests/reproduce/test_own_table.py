"""A table with a new task is one file of declarations and one file in ``reproduce/tasks``; nothing else changes."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reproduce.helpers import ROOT

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, str]:
    """The package with the two files, after ``python -m reproduce all`` of the table: its name, results and output."""
    folder, stem = tmp_path_factory.mktemp("copy"), "beyond_toys"
    shutil.copytree(ROOT / "reproduce", folder / "reproduce", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "notebooks").mkdir()
    shutil.copy(HERE / "toy_task.py", folder / "reproduce/tasks/toy.py")
    shutil.copy(HERE / f"{stem}.toml", folder / "reproduce/declare/experiments")
    done = subprocess.run(
        [sys.executable, "-m", "reproduce", "all", "--tables", "toys"],
        cwd=folder,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "NSL_COMPILE": "0"},  # its task has no kernels
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return stem, folder / "results/demo", done.stdout


def test_its_runs_are_stored(made: tuple[str, Path, str]) -> None:
    _, results, out = made
    assert len(list((results / "runs").glob("*.json"))) == 4 * 3
    assert "Wide on toys, seed 2: share of hits 62.20 % in 1 s" in out
    assert "Broken on toys, seed 0: diverged (as it always does)" in out


def test_its_table_has_the_papers_values_and_ours(made: tuple[str, Path, str]) -> None:
    stem, results, _ = made
    with (results / f"tables/{stem}.csv").open(encoding="utf-8", newline="") as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert rows["Wide"]["metric"] == "share of hits (%), higher is better"
    assert (rows["Wide"]["paper"], rows["Wide"]["ours_mean"], rows["Wide"]["direction"]) == ("60.00", "62.10", "agrees")
    assert rows["Narrow"]["direction"] == "reference"


def test_its_claims_of_every_kind_have_verdicts(made: tuple[str, Path, str]) -> None:
    stem, results, _ = made
    with (results / f"tables/{stem}_claims.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["direction"] for row in rows] == 4 * ["agrees"]
    assert (rows[0]["difference"], rows[0]["paper_difference"]) == ("7.00", "5.00")


def test_it_stands_in_the_summary(made: tuple[str, Path, str]) -> None:
    _, results, _ = made
    text = (results / "summary.md").read_text(encoding="utf-8")
    assert "## Beyond the paper: Toys" in text
    assert "toys: 40 training images a run" in text
