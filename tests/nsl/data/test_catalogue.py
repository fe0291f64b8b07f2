"""The catalogue has every fact of every data set, and no other file repeats them."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from nsl.data.catalogue import CATALOGUE, Entry

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE)
def test_the_loader_of_every_set_takes_what_its_entry_says(entry: Entry) -> None:
    module, function = entry.loader.split(":")
    parameters = inspect.signature(getattr(import_module(module), function)).parameters
    held_out_by_all = {"validation"} - set(parameters)
    assert {*entry.needs, *entry.options} - held_out_by_all <= set(parameters)
    said = {"image_size": entry.image_size, "length": entry.image_size, "num_classes": entry.classes}
    for option, value in (said | {"train": entry.train, "test": entry.test}).items():
        assert option not in entry.options or parameters[option].default in (value, None)
    assert entry.embedded == bool(entry.packages) != bool(entry.patterns)


def test_the_page_on_data_repeats_the_catalogue_s_sources_and_licences() -> None:
    text = (ROOT / "docs" / "data.md").read_text("utf-8")
    listed = [line for line in text.splitlines() if line.startswith("- `")]
    assert listed == [f"- `{entry.name}`: {entry.terms}" for entry in CATALOGUE.values()]


def test_no_other_file_lists_data_sets() -> None:
    found = []
    for package in ("nsl", "theory", "reproduce"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not isinstance(node, ast.Dict | ast.Tuple | ast.List | ast.Set):
                    continue
                items = node.keys if isinstance(node, ast.Dict) else node.elts
                named = {item.value for item in items if isinstance(item, ast.Constant)} & CATALOGUE.keys()
                if len(named) > 1:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {sorted(map(str, named))}")
    assert found == []


def test_the_facts_are_there_without_torch_and_are_the_same_objects_once_it_is_loaded() -> None:
    code = (
        "import sys; from reproduce.declare.shapes import CATALOGUE; assert 'torch' not in sys.modules\n"
        "import nsl.data; assert nsl.data.catalogue.CATALOGUE is CATALOGUE"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
