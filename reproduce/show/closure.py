"""The source files that a script depends on: the import closure within this repository, read from the sources.

Nothing is imported. Imports inside functions count, and so does what a text names as "nsl.data.digits:load_digits".
Those under ``if TYPE_CHECKING`` do not, but for names that a package lends lazily: they count where they are asked for
(``from theory import integrate``).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: The repository's packages; everything else belongs to the environment.
PACKAGES = ("nsl", "theory", "reproduce")

_NAMED = re.compile(rf'"((?:{"|".join(PACKAGES)})(?:\.\w+)+):\w+"')


@cache
def _place(module: str) -> Path | None:
    """The file of a module of this repository; None when it is no such module."""
    if module.split(".")[0] not in PACKAGES:
        return None
    base = ROOT.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not _is_type_checking(node):
            yield node
            yield from _nodes(node)


@cache
def _lent(package: str) -> dict[str, str]:
    """Names that a package imports for type checkers only, and so lends lazily, with their modules."""
    path = _place(package)
    if path is None or path.name != "__init__.py":
        return {}
    blocks = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if _is_type_checking(node)]
    imports = [node for block in blocks for node in ast.walk(block) if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def modules(text: str) -> set[str]:
    """Modules that a source names in its imports; those of packages outside the repository too."""
    named: set[str] = set()
    for node in _nodes(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                named.add(alias.name)
                # Any of the package's lazy names may be used.
                named.update(_lent(alias.name).values())
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                named.add(module if _place(module) else node.module)
                named.update(filter(None, [_lent(node.module).get(alias.name)]))
    return named


def closure(script: Path) -> list[Path]:
    """``script`` and the repository's files that it imports, however deep, with the C++ beside them; sorted.

    Raises:
        SyntaxError: one of them is no Python.
    """
    seen: set[Path] = set()
    waiting = [script.resolve()]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        text = path.read_text(encoding="utf-8")
        for module in modules(text) | set(_NAMED.findall(text)):
            # A package's own file runs before its modules'.
            parts = module.split(".")
            found = [_place(".".join(parts[: length + 1])) for length in range(len(parts))]
            waiting += [place for place in found if place is not None]
    native = {source for path in seen for source in path.parent.glob("*.cpp")}
    return sorted(seen | native)


def closure_texts(script: Path) -> list[tuple[str, str]]:
    """Names and texts of :func:`closure`'s files: what a hash is taken of, the same wherever the repository lies."""
    root = ROOT.resolve()
    files = closure(script)
    names = [str(path.relative_to(root)) if path.is_relative_to(root) else path.name for path in files]
    return [(name, path.read_text(encoding="utf-8")) for name, path in zip(names, files)]
