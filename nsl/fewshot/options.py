"""Options of few-shot methods, checked before hours of training: by the types that constructors declare."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from math import inf
from typing import Any

from nsl.numbers import is_number, is_whole, plain

#: Whole numbers that count something there has to be one of.
AT_LEAST_ONE = ("auxiliary_batch", "batch_size", "latent")
#: Numbers that must be below 1.
BELOW_ONE = ("dropout", "momentum")


def checked(what: str, signature: inspect.Signature, options: Mapping[str, Any], ranges: bool) -> dict[str, Any]:
    """The options with numbers of numpy and tensors of one number as Python's.

    Args:
        ranges: whether numbers are checked for their ranges too, as those of the methods here.

    Raises:
        ValueError: one is not of its type or out of range; the sentence names it.
    """
    return {
        name: _checked(f"{what}: {name}", name, _kind(signature.parameters[name].annotation), plain(value), ranges)
        if name in signature.parameters
        else value
        for name, value in options.items()
    }


def _kind(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _checked(what: str, name: str, kind: str, value: Any, ranges: bool) -> Any:
    if value is None and kind.endswith("| None"):
        return value
    kind = kind.removesuffix(" | None")
    if kind == "int":
        least = 1 if name in AT_LEAST_ONE else 0
        if not is_whole(value, least if ranges else -inf):
            raise ValueError(f"{what} must be a whole number{f' of at least {least}' * ranges}, got {value!r}")
    elif kind == "float":
        if not is_number(value) or (ranges and value < 0):
            raise ValueError(f"{what} must be a finite number{' that is not negative' * ranges}, got {value!r}")
        if ranges and name in BELOW_ONE and value >= 1:
            raise ValueError(f"{what} must be below 1, got {value!r}")
    elif kind == "bool" and not isinstance(value, bool):
        raise ValueError(f"{what} must be True or False, got {value!r}")
    elif kind == "str" and not isinstance(value, str):
        raise ValueError(f"{what} must be a text, got {value!r}")
    elif kind.startswith("dict") and not isinstance(value, Mapping):
        raise ValueError(f"{what} must be a dict of options by name, got {value!r}")
    return value
