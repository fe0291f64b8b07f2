"""Timing cases side by side, printing and storing what was measured."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from nsl.outputs import check_folder
from reproduce.bench.card import Unavailable, card
from reproduce.run.attempts import machine
from reproduce.run.files import write_text


@dataclass(frozen=True)
class Row:
    """One case: median seconds of a call, and the ratio to the case it is compared with (None: none)."""

    case: str
    seconds: float
    ratio: float | None = None
    note: str = ""


Benchmark = Callable[[], list[Row]]


def alternate(cases: Mapping[str, Callable[[], Any]], *, repeats: int = 7, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of ``repeats`` calls of every case, taken in turns so that drift of the machine hits all alike.

    The first ``warmup`` rounds are not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(warmup + repeats):
        for name, call in cases.items():
            started = time.perf_counter()
            call()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def side_by_side(cases: Mapping[str, Callable[[], Any]], reference: str, *, repeats: int = 7) -> list[Row]:
    """Rows of median seconds and the median of the per-round ratios to the case called ``reference``."""
    measured = alternate(cases, repeats=repeats)
    base = measured[reference]
    return [
        Row(name, median(times), None if name == reference else median(t / b for t, b in zip(times, base)))
        for name, times in measured.items()
    ]


def _format(rows: list[Row]) -> list[str]:
    width = max(len("case"), *(len(row.case) for row in rows))
    lines = [f"  {'case':<{width}}  {'ms':>10}  {'ratio':>7}"]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        lines.append(f"  {row.case:<{width}}  {1000 * row.seconds:>10.3f}  {ratio:>7}  {row.note}".rstrip())
    return lines


def _environment() -> dict[str, Any]:
    """Machine and versions; with a CUDA card, the card's too."""
    found = machine()
    torch = sys.modules.get("torch")
    return found | card() if torch is not None and torch.cuda.is_available() else found


def run_benchmarks(
    benchmarks: Mapping[str, Benchmark],
    folder: Path,
    only: list[str],
    say: Callable[[str], None] = lambda line: print(line, flush=True),
) -> int:
    """Run the benchmarks called ``only`` (all when empty); returns how many were run.

    Raises:
        ValueError: a name is unknown, this machine cannot run one that was named, or ``folder`` cannot be written.
    """
    unknown = [name for name in only if name not in benchmarks]
    if unknown:
        known = ", ".join(benchmarks) or "none are registered"
        raise ValueError(f"No benchmark is called {unknown[0]!r}; choose from: {known}.")
    check_folder(folder, "the folder of results")
    chosen = {name: call for name, call in benchmarks.items() if not only or name in only}
    done = 0
    refused: list[str] = []
    for name, call in chosen.items():
        try:
            rows = call()
        except Unavailable as reason:
            (refused.append if only else say)(f"{name}: {reason}")
            continue
        say(name)
        for line in _format(rows):
            say(line)
        stored = {
            "benchmark": name,
            "rows": [asdict(row) for row in rows],
            "environment": _environment(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_text(folder / f"{name}.json", json.dumps(stored, indent=1, sort_keys=True) + "\n")
        done += 1
    if refused:
        raise ValueError(" ".join(refused))
    return done
