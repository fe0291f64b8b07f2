"""Profiles with single settings changed: ``cpu+width=16`` is the profile cpu with networks of width 16.

The name carries the changes, so that results lie in a folder of their own, notebooks show what was run, and every
changed setting is part of the runs' identities like the declared ones.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable
from typing import Any

SIGN = "+"

_VALUE = re.compile(r"[A-Za-z0-9_.-]+")


def base_of(profile: str) -> str:
    """The profile as it is declared, without the changes that its name carries."""
    return profile.split(SIGN)[0]


def named(profile: str, settings: Iterable[str]) -> str:
    """The name of a profile with settings such as ``cpu.width=16`` changed.

    Raises:
        ValueError: a setting is not ``PROFILE.KEY=VALUE`` of this profile.
    """
    found = profile
    base = base_of(profile)
    for item in settings:
        key, sign, value = item.partition("=")
        first, _, rest = key.partition(".")
        if not sign or first != base or not rest or not _VALUE.fullmatch(value):
            raise ValueError(
                f"--set {item!r} is not understood; write {base}.KEY=VALUE of the chosen profile, such as "
                f"{base}.width=16, with a value of letters, digits, '_', '.' and '-'."
            )
        found += f"{SIGN}{rest}={value}"
    return found


def changed(name: str, declared: dict[str, Any]) -> dict[str, Any]:
    """The declaration of a profile with the changes that its name carries.

    Other widths or data than declared are no longer said to be the paper's.

    Raises:
        ValueError: a setting does not exist, or its value is of another type.
    """
    base, *changes = name.split(SIGN)
    found = copy.deepcopy(declared)
    for change in changes:
        key, _, text = change.partition("=")
        *path, last = key.split(".")
        part: Any = found
        for step in path:
            inner = part.get(step)
            if not isinstance(inner, dict):
                raise _unknown(base, key, part)
            part = inner
        if last not in part or isinstance(part[last], dict | list):
            raise _unknown(base, key, part)
        old, part[last] = part[last], _value(key, text, part[last])
        where = found["slot"][path[1]] if path[:1] == ["slot"] else found
        for words, same in ((("width", "widths"), "same_width"), (("data",), "same_data")):
            if old != part[last] and set(words) & set(key.split(".")):
                where[same] = False
    return found


def _unknown(base: str, key: str, part: dict[str, Any]) -> ValueError:
    """The complaint that names what stands where the key leaves what is declared."""
    known = [f"{name}.KEY" if isinstance(value, dict) else name for name, value in part.items()]
    return ValueError(f"Profile {base} has no single setting {key!r}; there are: {', '.join(known)}.")


def _value(key: str, text: str, old: Any) -> Any:
    """The text as a value of the old one's type: no number below zero or without end, no count of nothing."""
    counted = isinstance(old, int | float) and not isinstance(old, bool)
    lowest = min(old, 1 if isinstance(old, int) else 0) if counted else None
    try:
        if isinstance(old, bool):
            return {"true": True, "false": False}[text]
        value = type(old)(text)
        if lowest is not None and not lowest <= value < math.inf:
            raise ValueError
        return value
    except (ValueError, KeyError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}.get(type(old), "a text")
        least = f" of at least {lowest:g}" if lowest is not None else ""
        raise ValueError(f"The setting {key} must be {kind}{least}, as {old!r} is, got {text!r}.") from None
