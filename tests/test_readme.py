"""The README says what is so: its blocks run, its commands exist, its numbers are those of the records."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from reproduce.console import parser
from reproduce.declare import plan
from reproduce.run.store import Store
from reproduce.show.rows import make_table

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
SHELL = [
    line.split("  #")[0].split(" # ")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def test_it_is_about_a_hundred_lines_and_shows_picture_layer_and_numbers_first() -> None:
    lines = TEXT.splitlines()
    assert len(lines) <= 110
    first = "\n".join(lines[:40])
    for part in ("picture.png", "import nsl", "Test error", "make site"):
        assert part in first


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_every_python_block_runs_as_it_stands(number: int, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PYTHON[number]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "accuracy" in PYTHON[number]:
        found = re.search(r"accuracy (\d+) %, chance (\d+) %", done.stdout)
        assert found is not None
        assert int(found[1]) > int(found[2]) + 10


@pytest.mark.parametrize("line", SHELL)
def test_every_command_of_a_shell_block_is_known(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
        assert targets is not None
        assert words[1] in targets[1].split()
        # Variables that make does not know are refused with `help` as with every target.
        subprocess.run(["make", "help", *words[2:]], cwd=ROOT, check=True, capture_output=True)
    elif words[0] == "nsl":
        if "--help" in words:
            with pytest.raises(SystemExit, match="0"):
                parser().parse_args(words[1:])
        else:
            parser().parse_args(words[1:])
    else:
        assert words[:2] == ["pip", "install"]
        named = re.search(r"\[(.*)\]", words[2])
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        assert named is None or set(named[1].split(",")) <= set(extras)


def test_the_measured_numbers_are_those_of_the_stored_records() -> None:
    table = make_table(4, plan.profile("cpu"), Store(ROOT / "results", "cpu"))
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \| (\d+) minutes \|$", TEXT, flags=re.MULTILINE)
    assert len(rows) == 4
    for label, error, paper, minutes in rows:
        row = next(row for row in table.rows if row.method.label == label and row.slot == "cifar10")
        mean = row.mean(row.metric)
        assert mean is not None
        paper_value = row.printed(row.metric)
        assert paper_value is not None
        assert row.train_seconds is not None
        assert (error, paper, minutes) == (f"{mean.mean:.2f}", f"{paper_value:.2f}", f"{row.train_seconds / 60:.0f}")
    # One seed each, so that none decides: when more are stored, the sentence above the table has to be written anew.
    named = {label for label, *_ in rows}
    assert all(len(row.records) == 1 for row in table.rows if row.method.label in named and row.slot == "cifar10")
