"""Wrong dynamics on purpose: what a claim's gate must notice.

A mutant replaces functions of this package (or of `nsl`) while a claim is checked; the claim's own code stays as it
is. Which mutants a claim must notice follows from its statement: a limit does not depend on the rate at which it is
approached, so "doubled rate" is not for claims about limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from theory import flows
from theory.arrays import Array, transpose

#: (object, attribute, what to put in place of the original, which it is given).
Patch = tuple[Any, str, Callable[[Any], Any]]

_ALL = (flows.Factorised, flows.DiagonalSimilarity, flows.Tied, flows.Product)


@dataclass(frozen=True)
class Mutant:
    """Its description and, made when needed, the patches it consists of."""

    text: str
    patches: Callable[[], list[Patch]]


def _doubled(original: Callable[..., Array]) -> Callable[..., Array]:
    return lambda self, state, descent: 2 * original(self, state, descent)


def _metric(size: int) -> Array:
    """Positive weights between 0.5 and 1.5, one a parameter, without pattern."""
    return 0.5 + (np.arange(1, size + 1) * 0.6180339887498949) % 1.0


def _preconditioned(original: Callable[..., Array]) -> Callable[..., Array]:
    return lambda self, state, descent: _metric(state.shape[-1]) * original(self, state, descent)


def _frozen(block: int) -> Callable[[Any], Any]:
    def change(original: Callable[..., Array]) -> Callable[..., Array]:
        def velocity(self: flows.Parametrisation, state: Array, descent: Array) -> Array:
            rate = original(self, state, descent).copy()
            self.blocks(rate)[block][...] = 0
            return rate

        return velocity

    return change


def _wrong_order(_: Any) -> Callable[..., Array]:
    def velocity(self: flows.Factorised, state: Array, descent: Array) -> Array:
        kernel, similarity = self.blocks(state)
        return self.pack(transpose(similarity) @ descent, descent @ transpose(kernel))

    return velocity


def _every(change: Callable[[Any], Any]) -> list[Patch]:
    return [(kind, name, change) for kind in _ALL for name in ("velocity", "weight_velocity")]


def _frozen_patches() -> list[Patch]:
    return [
        (flows.Factorised, "velocity", _frozen(1)),
        (flows.Factorised, "weight_velocity", lambda _: _frozen_weight_velocity),
        (flows.DiagonalSimilarity, "velocity", _frozen(1)),
        (flows.Product, "velocity", _frozen(0)),
    ]


def _frozen_weight_velocity(self: flows.Factorised, state: Array, descent: Array) -> Array:
    _, similarity = self.blocks(state)
    return transpose(similarity) @ similarity @ descent


MUTANTS: dict[str, Mutant] = {
    "wrong order": Mutant(
        "M^T in place of M in dW'/dt and dM/dt, and M M^T in place of M^T M in dW/dt",
        lambda: [
            (flows.Factorised, "velocity", _wrong_order),
            (flows.Factorised, "weight_velocity", lambda _: flows.Factorised.other_order),
        ],
    ),
    "frozen M": Mutant("M (or the first factor of a product) does not learn", _frozen_patches),
    "doubled rate": Mutant("every velocity times two", lambda: _every(_doubled)),
    "preconditioned": Mutant(
        "every parameter has a rate of its own, 0.5 to 1.5: descent, but not gradient flow",
        lambda: [(kind, "velocity", _preconditioned) for kind in _ALL],
    ),
}


@contextmanager
def applied(name: str) -> Iterator[None]:
    """The package as this mutant makes it, within the context.

    Raises:
        ValueError: there is no such mutant.
    """
    if name not in MUTANTS:
        raise ValueError(f"there is no mutant {name!r}; known: {', '.join(MUTANTS)}.")
    with ExitStack() as stack:
        for owner, attribute, change in MUTANTS[name].patches():
            stack.enter_context(patch.object(owner, attribute, change(getattr(owner, attribute))))
        yield
