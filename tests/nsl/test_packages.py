"""Packages say what is in them, and the lower ones know nothing of the higher."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import nsl
import nsl.kernels
import nsl.layers

ROOT = Path(nsl.__file__).parent


@pytest.mark.parametrize("package", [nsl.kernels, nsl.layers], ids=["kernels", "layers"])
def test_the_package_lists_its_modules_once_each(package: object) -> None:
    text, folder = str(package.__doc__), Path(str(package.__file__)).parent  # type: ignore[attr-defined]
    rows = [re.split(r"\s{2,}", line.strip())[0] for line in text.splitlines() if line.startswith("    ")]
    listed = [name for row in rows for name in row.split(", ") if re.fullmatch(r"[a-z_]+", name)]
    known = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert sorted(name for name in listed if name in known) == sorted(known)


def test_the_kernels_import_nothing_of_the_layers() -> None:
    found = []
    for path in sorted((ROOT / "kernels").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            found += [f"{path.name}: {name}" for name in names if name.split(".")[:2] == ["nsl", "layers"]]
    assert found == []
