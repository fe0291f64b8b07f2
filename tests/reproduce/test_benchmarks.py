"""Benchmarks take their cases in turns and store what they print."""

from __future__ import annotations

import json
from pathlib import Path

from reproduce.bench import BENCHMARKS, Row, alternate, run_benchmarks, side_by_side


def test_cases_are_called_in_turns_and_the_first_rounds_are_not_counted() -> None:
    calls: list[str] = []
    seconds = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=2)
    assert calls == 5 * ["a", "b"]
    assert [len(times) for times in seconds.values()] == [3, 3]


def test_the_reference_case_has_no_ratio() -> None:
    rows = side_by_side({"plain": lambda: sum(range(100)), "other": lambda: sum(range(100))}, "plain")
    assert [row.case for row in rows] == ["plain", "other"]
    assert rows[0].ratio is None
    assert rows[1].ratio is not None


def test_what_was_measured_is_printed_and_stored(tmp_path: Path) -> None:
    lines: list[str] = []
    count = run_benchmarks({"one": lambda: [Row("x", 0.002, 1.5, "note")]}, tmp_path, [], lines.append)
    assert count == 1
    assert lines == ["one", "  case          ms    ratio", "  x          2.000    1.500  note"]
    stored = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))
    assert stored["rows"] == [{"case": "x", "seconds": 0.002, "ratio": 1.5, "note": "note"}]


def test_registered_benchmarks_are_functions() -> None:
    assert all(callable(benchmark) for benchmark in BENCHMARKS.values())
