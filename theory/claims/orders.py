"""Orders of convergence, and the worst of several measured ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from theory.arrays import Array


def slope(x: Array | Sequence[float], y: Array | Sequence[float]) -> float:
    """d log y / d log x of the line that fits best: y ~ x^slope."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def worst(values: Iterable[float], stated: float) -> float:
    """The value that is farthest from the stated one."""
    return max(values, key=lambda value: abs(value - stated))
