"""PAPER.md is true: what it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = [line for line in (ROOT / "PAPER.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")][2:]
ENTRIES = [tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")) for line in LINES]


def defined(path: Path) -> set[str]:
    """Functions, classes and methods (``Class.method``) at the top of a file."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
            names |= {f"{node.name}.{inner.name}" for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef)}
    return names


def exists(place: str) -> bool:
    """Whether ``file`` or ``file:object`` is in the repository."""
    file, _, name = place.partition(":")
    return (ROOT / file).is_file() and (not name or name in defined(ROOT / file))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry[0]} {entry[1]}")
def test_what_the_map_of_the_paper_names_exists(entry: tuple[str, ...]) -> None:
    _, _, code, test, notebook = entry
    assert exists(code)
    assert exists(test)
    assert notebook == "–" or (ROOT / "notebooks" / f"{notebook}.py").is_file()


def test_the_map_has_every_equation_figure_and_table() -> None:
    places = " ".join(entry[0] for entry in ENTRIES)
    equations = {int(number) for part in re.findall(r"eq\. ([\d, ]+)", places) for number in re.findall(r"\d", part)}
    assert equations == set(range(1, 8))
    assert {f"Figure {number}" for number in (1, 2, 3)} | {f"Table {number}" for number in range(1, 7)} <= {
        entry[0] for entry in ENTRIES
    }
