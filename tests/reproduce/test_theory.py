"""The theory's command: which notebooks it executes, and when they are due."""

from __future__ import annotations

from pathlib import Path

from reproduce import theory


def test_the_command_executes_every_theory_notebook() -> None:
    named = set(theory.sources())
    assert {"theory_flows", "theory_conjecture", "theory_predictor", "theory_shared_block"} <= named
    assert all(name.startswith("theory_") for name in named)


def test_a_theory_notebook_is_due_when_the_ledger_changes(tmp_path: Path) -> None:
    source = theory.sources()["theory_flows"]
    (tmp_path / "claims.json").write_text("{}", encoding="utf-8")
    before = theory.inputs_hash(source, tmp_path, quick=False)
    assert theory.inputs_hash(source, tmp_path, quick=False) == before
    assert theory.inputs_hash(source, tmp_path, quick=True) != before
    (tmp_path / "claims.json").write_text("[]", encoding="utf-8")
    assert theory.inputs_hash(source, tmp_path, quick=False) != before


def test_executed_theory_notebooks_are_kept_once() -> None:
    results = theory.ROOT / "results"
    copies = [path for path in results.rglob("theory_*.ipynb") if "demo" not in path.parts]
    assert {path.parent for path in copies} <= {results / "theory" / "notebooks"}
