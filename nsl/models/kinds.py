"""Whether the values of a network's options are of the kind that its builder says."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "options by name",
    type(None): "nothing",
}


def kinds_of(hint: Any) -> tuple[type, ...]:
    """The types that an annotation such as `int | None` or `dict[str, Any]` allows."""
    if get_origin(hint) in (types.UnionType, Union):
        return tuple(kind for part in get_args(hint) for kind in kinds_of(part))
    origin = get_origin(hint) or hint
    return (origin,) if isinstance(origin, type) else ()


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def check_kinds(what: str, build: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Compare values as they come from a file or a command line with the annotations of a function.

    Values of other types, such as a structure object, are the function's own to judge.

    Raises:
        ValueError: a number where a text belongs, and so on.
    """
    hints = get_type_hints(build)
    for name, value in values.items():
        kinds = kinds_of(hints.get(name))
        plain = value is None or isinstance(value, int | float | str | list | dict)
        if kinds and plain and not any(_is(value, kind) for kind in kinds):
            wanted = " or ".join(_NAMES.get(kind, kind.__name__) for kind in kinds)
            raise ValueError(f"{what}: {name} must be {wanted}, got {value!r}")
