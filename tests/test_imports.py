"""The files import each other in one direction."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("nsl", "theory", "reproduce")


def module(path: Path) -> str:
    """The dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def imported(node: ast.AST) -> set[str]:
    """Modules of this repository that a piece of code imports, inside functions too; not for type checkers only."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            found |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom) and child.module:
            names = [f"{child.module}.{alias.name}" for alias in child.names]
            found |= {name if name in FILES else child.module for name in names}
        found |= imported(child)
    return found & FILES.keys()


GRAPH = {name: imported(ast.parse(path.read_text(encoding="utf-8"))) - {name} for name, path in FILES.items()}


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' -> '.join(error.args[1])}") from None


def test_the_packages_stand_on_each_other_in_one_order() -> None:
    below = {"nsl": {"nsl"}, "theory": {"theory", "nsl"}, "reproduce": {"reproduce", "theory", "nsl"}}
    wrong = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if other.split(".")[0] not in below[name.split(".")[0]]
    ]
    assert wrong == []
