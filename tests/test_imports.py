"""The files import each other in one direction, and are short."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from reproduce.show.closure import PACKAGES, ROOT, modules


def module(path: Path) -> str:
    """The dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


@cache
def graph() -> dict[str, set[str]]:
    """By file those that it imports, inside functions too; not for type checkers only."""
    return {name: (modules(path.read_text("utf-8")) & FILES.keys()) - {name} for name, path in FILES.items()}


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' -> '.join(error.args[1])}") from None


def test_the_packages_stand_on_each_other_in_one_order() -> None:
    below = {"nsl": {"nsl"}, "theory": {"theory", "nsl"}, "reproduce": {"reproduce", "theory", "nsl"}}
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if other.split(".")[0] not in below[name.split(".")[0]]
    ]
    assert wrong == []


#: Lines of a file, and of a function or method.
LONGEST_FILE, LONGEST_FUNCTION = 400, 80


def test_files_and_functions_are_short() -> None:
    long = {}
    for name, path in FILES.items():
        text = path.read_text("utf-8")
        if (lines := len(text.splitlines())) > LONGEST_FILE:
            long[name] = lines
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long[f"{name}.{node.name}"] = lines
    assert long == {}, f"files may have {LONGEST_FILE} lines, functions {LONGEST_FUNCTION}: split these by subject"


def test_no_layer_asks_whether_it_is_built() -> None:
    """`hasattr(self, ...)` hides an order of construction; `_modules.get` says what is meant."""
    assert [name for name, path in FILES.items() if "hasattr(self" in path.read_text("utf-8")] == []
