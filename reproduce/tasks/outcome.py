"""What training a run hands back, whatever its task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """``result`` as ``TrainResult.as_dict()`` has it, and what the record adds.

    ``multiply_adds`` are those of one image through the network.
    """

    result: dict[str, Any]
    parameters: int
    observations: dict[str, Any]
    multiply_adds: int | None = None
