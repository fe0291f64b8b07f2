"""What training a run hands back, whatever its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """``result`` as ``TrainResult.as_dict()`` has it, and what the record adds.

    ``multiply_adds`` are those of one image through the network. ``keep`` writes what was trained to a file, with
    JSON-ready facts about it; None where nothing was, as of a run that diverged.
    """

    result: dict[str, Any]
    parameters: int
    observations: dict[str, Any]
    multiply_adds: int | None = None
    keep: Callable[[Path, dict[str, Any]], None] | None = None
