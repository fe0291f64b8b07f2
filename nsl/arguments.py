"""Arguments of a command: every wrong one is one line on the error stream and exit code 2, none is ignored."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import torch

#: The numbers a seed may be: what torch and numpy both take.
SEEDS = (0, 2**63 - 1)


class Parser(argparse.ArgumentParser):
    """Complains by a ValueError of one line, and takes whole names of options only."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # argparse would leave what a command does not know to the whole program, whose help lists no options.
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help.")

    def read(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """As `parse_args`, with the names of what was given, rather than left at its default, in `given`."""
        found = self.parse_args(arguments, argparse.Namespace(**{action.dest: None for action in self._actions}))
        values = vars(found)
        given = {name for name, value in values.items() if value is not None}
        for action in self._actions:
            if values.get(action.dest) is None and action.default is not argparse.SUPPRESS:
                values[action.dest] = action.default
        found.given = given
        return found


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of an option: a whole number from `low` to `high`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text[:40]!r}") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number of {low} to {high}, got {text[:40]}")
        return value

    return read


def real(low: float = -math.inf, high: float = math.inf) -> Callable[[str], float]:
    """The type of an option: a finite number from `low` to `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number, got {text[:40]!r}") from None
        if not math.isfinite(value) or not low <= value <= high:
            between = "" if (low, high) == (-math.inf, math.inf) else f" of {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"must be a finite number{between}, got {text[:40]}")
        return value

    return read


def pairs(items: list[str], what: str) -> dict[str, Any]:
    """`key=value` texts as a dict; values are JSON where they can be read as such, else text.

    Raises:
        ValueError: an item has no equals sign, or a key is given twice.
    """
    found: dict[str, Any] = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign or not key:
            raise ValueError(f"{what} {item!r} is not understood; write key=value, such as width=16.")
        if key in found:
            raise ValueError(f"{what} {key} is given twice; give it once.")
        try:
            found[key] = json.loads(value)
        except (ValueError, RecursionError):
            found[key] = value
    return found


def check_device(name: str) -> None:
    """Raise ValueError unless this machine has the device: "auto", "cpu", "cuda" or "cuda:NUMBER"."""
    kind, colon, number = name.partition(":")
    if name not in ("auto", "cpu") and (kind != "cuda" or (colon and not number.isdecimal())):
        raise ValueError(f"--device {name!r} is unknown; choose auto, cpu, cuda or cuda:NUMBER.")
    if kind != "cuda":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count <= int(number or 0):
        has = f"this machine has {count} CUDA devices" if count else "PyTorch finds no CUDA device here"
        raise ValueError(f"--device {name}: {has}; choose auto or cpu.")


def check_apart(given: Iterable[str], names: Iterable[str], why: str) -> None:
    """Raise ValueError where an option was given that would be ignored; the sentence ends in `why`."""
    wrong = sorted(set(given) & set(names))
    if wrong:
        raise ValueError(f"--{wrong[0].replace('_', '-')} {why}")
