"""What the numbers of a recipe may be; one sentence for one that is impossible."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nsl.numbers import is_number, is_whole, plain

#: Whole numbers of a recipe are at most this large: no training takes so many steps, or evaluates so often.
LARGEST = 10**9


def _read(values: Any, name: str) -> Any:
    """A named attribute of `values`, which from then on is no number of numpy's."""
    value = plain(getattr(values, name))
    object.__setattr__(values, name, value)  # of a frozen dataclass too
    return value


def check_counts(what: str, values: Any, names: Iterable[str]) -> None:
    """Raise ValueError unless each named attribute of `values` is a whole number of 1 to `LARGEST`; numpy's numbers
    become Python's."""
    for name in names:
        value = _read(values, name)
        if not is_whole(value, 1):
            raise ValueError(f"{what}: {name} must be a whole number of at least 1, got {value!r}")
        if value > LARGEST:
            raise ValueError(f"{what}: {name} must be at most {LARGEST}, got {value!r}")


def check_numbers(what: str, values: Any, names: Iterable[str]) -> None:
    """Raise ValueError unless each named attribute of `values` is a finite number that is not negative; numpy's numbers
    become Python's."""
    for name in names:
        value = _read(values, name)
        if not is_number(value) or value < 0:
            raise ValueError(f"{what}: {name} must be a finite number that is not negative, got {value!r}")


def check_seed(what: str, seed: Any) -> int:
    """The seed as Python's own number; raises ValueError unless it is a whole one from 0 on."""
    seed = plain(seed)
    if not is_whole(seed, 0):
        raise ValueError(f"{what}: seed must be a whole number from 0 on, got {seed!r}")
    return int(seed)


def check_below(what: str, values: Any, limits: dict[str, float]) -> None:
    """Raise ValueError where an attribute of `values` is not below its limit."""
    for name, limit in limits.items():
        if not getattr(values, name) < limit:
            raise ValueError(f"{what}: {name} must be below {limit:g}, got {getattr(values, name)!r}")


def check_steps(what: str, schedule: str, milestones: tuple[Any, ...], factor: Any, usual: tuple[Any, Any]) -> None:
    """Check milestones and decay factor of a schedule, of which only "steps" has any.

    Args:
        usual: both as they are where nobody names them.

    Raises:
        ValueError: a milestone outside 0 to 1 or before an earlier one, a factor that raises the rate, or either of
            them with another schedule, which would ignore it.
    """
    rising = all(is_number(value) for value in milestones) and list(milestones) == sorted(milestones)
    if not rising or not all(0 <= value <= 1 for value in milestones):
        raise ValueError(
            f"{what}: milestones must be rising fractions of the budget, 0 to 1, got {list(milestones)!r}"
        )
    if not is_number(factor) or not 0 < factor <= 1:
        raise ValueError(f"{what}: decay_factor must be above 0 and at most 1, got {factor!r}")
    if schedule == "steps" and not milestones:
        raise ValueError(f"{what}: schedule 'steps' needs milestones, at which the rate drops; 'constant' has none")
    if schedule != "steps":
        for name, value, ignored in (("milestones", milestones, usual[0]), ("decay_factor", factor, usual[1])):
            if value and value != ignored:
                raise ValueError(f"{what}: {name} belongs to schedule 'steps', not to {schedule!r}; leave it out")
