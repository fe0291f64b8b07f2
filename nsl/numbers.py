"""What counts as a number that a user gives: Python's own, and numpy's and a tensor of one as those."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch


def plain(value: Any) -> Any:
    """Numbers of numpy, and tensors of one number, as Python's own: what is kept of a training holds no other."""
    one = isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.dim() == 0)
    return value.item() if one else value


def is_number(value: Any) -> bool:
    """Whether it is a finite real number, and no truth value."""
    value = plain(value)
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any, least: float = -math.inf) -> bool:
    """Whether it is a whole number, of a whole type, from `least` on."""
    return is_number(value) and isinstance(plain(value), int) and value >= least
