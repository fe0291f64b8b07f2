"""The tables' notebooks read right whatever is stored: nothing, one seed, three, or some rows and not others."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import jupytext
import pytest

from reproduce.declare import plan
from reproduce.run.store import Store
from reproduce.show.notebooks import SOURCES
from tests.reproduce.helpers import fill, put_record
from tests.reproduce.test_fewshot_table import put

CPU = plan.profile("cpu")
TABLES = (*plan.tables(), "budget")
#: What is stored: seeds by the place of a row among its table's, counted from 0 again after the last number.
STATES = {"nothing": [0], "one": [1], "three": [3], "some": [3, 1, 0, 2]}


def shown(key: plan.Key, folder: Path) -> list[str]:
    """What every code cell of a table's notebook displays, as text; the bytes of a picture are left out."""
    texts = []
    name = f"table{key}" if isinstance(key, int) else str(key)
    namespace: dict[str, Any] = {}
    for cell in jupytext.read(SOURCES / f"{name}.py").cells:
        if cell.cell_type != "code":
            continue
        *before, last = ast.parse(cell.source).body
        if not isinstance(last, ast.Expr):
            before.append(last)
        exec(compile(ast.Module(before, []), name, "exec"), namespace)
        if "parameters" in cell.metadata.get("tags", []):
            namespace |= {"profile": "cpu", "results": str(folder)}
        elif isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
            texts.append(value.data if isinstance(value.data, str) else "")
    return texts


def store(key: plan.Key, counts: list[int], folder: Path) -> None:
    """Records of a table's rows with so many seeds each; errors are 10, 11, and so on, by row."""
    made, experiment = Store(folder, "cpu"), plan.experiment(key)
    methods = [(method.key, counts[place % len(counts)]) for place, method in enumerate(experiment.methods)]
    if key == 6:
        for place, (method, seeds) in enumerate(methods):
            for seed in range(seeds):
                put(made, CPU, method, [30 + place + seed, 45, 60 - place, 50], seed)
        return
    errors = {method: [10.0 + row + seed / 7 for seed in range(seeds)] for row, (method, seeds) in enumerate(methods)}
    fill(made, CPU, key, errors)
    if experiment.metrics:
        for record in list(made.records()):
            record["result"]["test_top5_error"] = record["result"]["test_error"] / 3
            made.write(record)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("key", TABLES)
def test_a_notebook_says_what_is_there_and_what_is_not(key: plan.Key, state: str, tmp_path: Path) -> None:
    store(key, STATES[state], tmp_path)
    texts = shown(key, tmp_path)
    everything = "\n".join(texts)
    assert not re.search(r"\b(nan|inf|None)\b|\d seeds? seed|1 seeds|\{|\(\)", everything)
    scope, answer = texts[0], next(text for text in texts if text.startswith(("**Of ", "**No claim")))
    seeds = {"nothing": "0", "one": "1", "three": "3", "some": "0 to 3"}[state]
    assert key == 6 or f"Seeds per method: {seeds}." in scope
    untrained = ("counted on the networks", "Computed in float64")
    lines = [line for line in answer.splitlines() if line.startswith("- ")]
    trained = [line for line in lines if not any(words in line for words in untrained)]
    assert trained
    for line in trained:
        if state == "nothing":
            assert "Not run on" in line
        elif state == "one":
            few = "one seed" in line and "(one common seed, three decide" in line
            assert "4 episodes" in line if key == 6 else few
            assert key == 6 or " [" not in line
        elif state == "three":
            assert "three seeds" in line
            assert " [" in line or "runs fail" in line
    if state == "some":
        assert ("2 common seeds, three decide" if key == "budget" else "Not run on") in answer
    if state == "nothing":
        assert "No run is stored yet." in everything


def test_a_diverged_run_is_named_in_the_table_and_leaves_its_claims_undecided(tmp_path: Path) -> None:
    store(4, [3], tmp_path)
    run = CPU.run(plan.experiment(4).method("dynamic"), "cifar10", 1)
    put_record(Store(tmp_path, "cpu"), run, float("nan"), status="diverged")
    everything = "\n".join(shown(4, tmp_path))
    assert "1 of 3 runs diverged" in everything
    assert everything.count("undecided (a run diverged)") >= 4
    assert "nan" not in everything


@pytest.mark.parametrize("key", plan.tables())
def test_the_prose_of_a_notebook_knows_no_number_of_seeds(key: int) -> None:
    cells = [cell.source for cell in jupytext.read(SOURCES / f"table{key}.py").cells if cell.cell_type == "markdown"]
    prose = "\n".join(cells)
    assert not re.search(r"\b(one|single|two|\d+) seeds?\b", prose)
    assert "minus the second" not in prose
