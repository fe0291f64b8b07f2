"""The attack campaign's command works; the campaign itself is ``python -m reproduce torture``."""

from __future__ import annotations

import pytest

from reproduce.__main__ import main


def test_one_try_of_one_attack_is_counted_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["torture", "--tries", "1", "--only", "kill-pack"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| kill-pack")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == cells[4] == "1"
    assert cells[5] == "0"


@pytest.mark.parametrize(
    "wrong", [["--tries", "0"], ["--tries", "many"], ["--tries", "1000000000"], ["--only", "kill-everything"]]
)
def test_a_wrong_option_ends_in_one_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["torture", *wrong]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {wrong[0]} {wrong[1]!r}")
