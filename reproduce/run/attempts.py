"""Who worked on a run: every start of it with its commit, its machine and its seconds.

The attempts of an unfinished run lie beside its checkpoint; the finished record lists them all, so that a training that
was interrupted and went on elsewhere, or with other code, says so.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from reproduce.run.files import write_text


class Attempts:
    """The attempts at one run.

    Args:
        path: where they are noted.
        checkpoint: the training's state, whose date says how long a killed attempt worked to effect; a training of
            several parts has one a part beside it, as `ID.PART.pt`.
    """

    def __init__(self, path: Path, checkpoint: Path) -> None:
        self.path, self.checkpoint = path, checkpoint
        self.known: list[dict[str, Any]] = []

    def begin(self, details: dict[str, Any]) -> None:
        """Note that an attempt starts now, with ``details`` of code and machine."""
        self.known = self._earlier()
        self.known.append({**code(), **details, "started": now(), "seconds": None})
        self._start = time.perf_counter()
        write_text(self.path, json.dumps(self.known, indent=1) + "\n")

    def _earlier(self) -> list[dict[str, Any]]:
        """What was noted before; an attempt that was killed counts until its last checkpoint."""
        try:
            known: list[dict[str, Any]] = json.loads(self.path.read_text(encoding="utf-8"))
            last = known[-1]
            if last["seconds"] is None:
                states = self.checkpoint.parent.glob(f"{self.checkpoint.stem}.*pt")
                kept = max((state.stat().st_mtime for state in states), default=0.0)
                started = datetime.fromisoformat(last["started"]).timestamp()
                last |= {"seconds": round(max(0.0, kept - started), 1), "interrupted": True}
        except (OSError, ValueError, LookupError, TypeError):
            return []  # nothing noted, or what was noted is damaged: the training itself does not depend on it
        return known

    def end(self) -> list[dict[str, Any]]:
        """All attempts, the present one finished now."""
        self.known[-1]["seconds"] = round(time.perf_counter() - self._start, 1)
        return self.known


@dataclass(frozen=True)
class Begun:
    """An unfinished training of a declared run that was executed in another way."""

    identity: str
    checkpoint: Path
    execution: dict[str, str]


def begun_elsewhere(folder: Path, declared: str, identity: str) -> Iterator[Begun]:
    """What lies in the folder of checkpoints of the declared run beside what is executed as ``identity``."""
    for path in sorted(folder.glob("*.attempts.json")):
        other = path.name.removesuffix(".attempts.json")
        states = sorted(folder.glob(f"{other}.*pt"))
        with suppress(OSError, ValueError, LookupError, TypeError):
            last = json.loads(path.read_text(encoding="utf-8"))[-1]
            if last["declared"] == declared and other != identity and states:
                yield Begun(other, states[-1], dict(last["execution"]))


def now() -> str:
    """Date and time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine() -> dict[str, Any]:
    """What a run is executed on, as far as plain Python knows it."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
    }


@cache
def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


@cache
def code() -> dict[str, Any]:
    """Commit of the checkout this package lies in, whether its code (``nsl``, ``reproduce``) differs from that, and the
    version. An installed package has no commit, also where its environment lies within a repository."""
    from importlib.metadata import PackageNotFoundError, version

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(Path(__file__).parent), *arguments],
                capture_output=True,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    try:
        package = version("neural-similarity-learning")
    except PackageNotFoundError:
        package = "not installed"
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {"commit": None, "dirty": False, "version": package}
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/nsl", ":/reproduce")
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes), "version": package}
