"""Notebooks are executed with the Python that runs the tests, and only when an input has changed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jupytext
import pytest

from reproduce import theory
from reproduce.declare import plan
from reproduce.run.store import Store
from reproduce.show import notebooks
from reproduce.show.closure import ROOT, closure
from tests.reproduce.helpers import fill

SOURCES = sorted(notebooks.SOURCES.glob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_first_code_cell_of_every_notebook_holds_the_parameters(path: Path) -> None:
    cells = [cell for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    assert cells[0].metadata.get("tags") == ["parameters"]
    assert "profile = " in cells[0].source


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_notebook_trains_a_network_of_the_tables(path: Path) -> None:
    assert "nsl.training" not in path.read_text(encoding="utf-8")


def test_an_executed_notebook_has_its_parameters_its_stamp_and_this_python(tmp_path: Path) -> None:
    source = tmp_path / "small.py"
    source.write_text(
        '# %% tags=["parameters"]\nprofile = "x"\n\n# %%\nimport sys\nprint(sys.executable, profile)\n',
        encoding="utf-8",
    )
    output = tmp_path / "out" / "small.ipynb"
    notebooks.execute(source, output, {"profile": "demo"}, "a mark")
    assert notebooks.stamp(output) == "a mark"
    cells = json.loads(output.read_text(encoding="utf-8"))["cells"]
    assert cells[-1]["outputs"][0]["text"] == [f"{sys.executable} demo\n"]
    assert [path.name for path in output.parent.iterdir()] == ["small.ipynb"]
    # Nothing of this machine or this hour, so that the file can be committed.
    assert "papermill" not in json.loads(output.read_text(encoding="utf-8"))["metadata"]


def test_a_failing_notebook_leaves_no_output(tmp_path: Path) -> None:
    source = tmp_path / "broken.py"
    source.write_text('# %% tags=["parameters"]\nprofile = "x"\n\n# %%\n1 / 0\n', encoding="utf-8")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        notebooks.execute(source, tmp_path / "out" / "broken.ipynb", {}, "a mark")
    assert not (tmp_path / "out").exists()


def test_a_tables_notebook_is_due_when_its_records_change_and_only_then(tmp_path: Path) -> None:
    profile = plan.profile("paper")
    store = Store(tmp_path, "paper")
    fill(store, profile, 1, {"cnn": [8.0]})
    before = notebooks.inputs_hash("table1", profile, store)
    assert notebooks.inputs_hash("table1", profile, store) == before
    fill(store, profile, 1, {"dynamic": [7.0]})
    after = notebooks.inputs_hash("table1", profile, store)
    assert after != before
    fill(store, profile, 5, {"dynamic": [7.0]})
    fill(store, profile, 1, {})
    assert notebooks.inputs_hash("table1", profile, store) == after
    fill(store, profile, 4, {"static_uns": [7.0]})  # on the same data, so that it tells Table 1's spread too
    assert notebooks.inputs_hash("table1", profile, store) != after


def test_choosing_tables_leaves_out_all_other_notebooks() -> None:
    every = notebooks.names(plan.tables())
    assert {"table1", "table2", "table3", "table4", "table6", "figures"} <= set(every)
    assert not any(name.startswith("theory") for name in every)
    assert notebooks.names((5, 2)) == ["table2", "table5"]


def test_damaged_output_counts_as_absent(tmp_path: Path) -> None:
    path = tmp_path / "x.ipynb"
    assert notebooks.stamp(path) is None
    path.write_text("{", encoding="utf-8")
    assert notebooks.stamp(path) is None


def reached(name: str) -> set[str]:
    """Files of the repository whose change makes a notebook stale."""
    return {str(path.relative_to(ROOT)) for path in closure(ROOT / "notebooks" / f"{name}.py")}


def test_a_study_makes_its_own_notebook_stale_and_no_table() -> None:
    study = "reproduce/studies/structures.py"
    assert [path.stem for path in SOURCES if study in reached(path.stem)] == ["structures"]


def test_the_verdict_rule_makes_every_table_stale_and_no_notebook_of_the_theory() -> None:
    rule = "reproduce/verdicts/statistics.py"
    assert all(rule in reached(f"table{number}") for number in plan.tables())
    assert not any(rule in reached(path.stem) for path in SOURCES if path.stem.startswith("theory"))


def test_what_a_package_lends_lazily_and_the_kernels_source_are_reached() -> None:
    assert {"theory/flows.py", "theory/integrators.py"} <= reached("theory_flows")
    assert "theory/batched.py" not in reached("theory_flows")
    assert "nsl/kernels/kernels.cpp" in reached("convert")


def test_the_ledger_makes_the_theorys_notebooks_stale(tmp_path: Path) -> None:
    path = notebooks.SOURCES / "theory_flows.py"
    before = theory.inputs_hash(path, tmp_path, False)
    (tmp_path / "claims.json").write_text("{}", encoding="utf-8")
    assert theory.inputs_hash(path, tmp_path, False) != before
