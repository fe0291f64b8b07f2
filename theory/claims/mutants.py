"""Wrong dynamics on purpose: what a claim's gate must notice.

A mutant replaces functions of this package (or of `nsl`) while a claim is checked; the claim's own code stays as it
is. Which mutants a claim must notice follows from its statement: a limit does not depend on the rate at which it is
approached, so "doubled rate" is not for claims about limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np

from theory import dynamics, flows, trajectory
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
            blocks = self.blocks(rate)
            # One factor alone is W itself, which has no similarity to freeze.
            if len(blocks) > 1:
                blocks[block][...] = 0
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
    "frozen M": Mutant("M (or the first of several factors of a product) does not learn", _frozen_patches),
    "doubled rate": Mutant("every velocity times two", lambda: _every(_doubled)),
    "preconditioned": Mutant(
        "every parameter has a rate of its own, 0.5 to 1.5: descent, but not gradient flow",
        lambda: [(kind, "velocity", _preconditioned) for kind in _ALL],
    ),
}


def _chapter(name: str) -> Any:
    """A chapter of claims, by its name: chapters import the ledger, and the ledger this file."""
    return import_module(f"theory.claims.{name}")


def _linear_head() -> list[Patch]:
    predictor = _chapter("predictor")
    return [(predictor, "sphere_convolution", lambda _: predictor.convolution)]


def _transposed_similarity() -> list[Patch]:
    return [(dynamics, "residual_similarity", lambda original: lambda q, M, step: original(q, M.T, step))]


def _constant_predictor() -> list[Patch]:
    def constant(original: Callable[[int], dict[str, Any]]) -> Callable[[int], dict[str, Any]]:
        return lambda seed: _with_constant_predictors(original(seed))

    return [(_chapter("systems"), "layers_by_order", constant)]


def _with_constant_predictors(layers: dict[str, Any]) -> dict[str, Any]:
    for layer in layers.values():
        predictor = getattr(layer, "predictor", None)
        if predictor is not None:
            predictor.register_forward_pre_hook(lambda _, inputs: (0 * inputs[0],))
    return layers


def _euler_steps() -> list[Patch]:
    def euler(velocity: Callable[[Any], Any], state: Any, *, step: float, steps: int) -> Any:
        for _ in range(steps):
            state = state + step * velocity(state)
        return state

    return [(_chapter("discrete"), "runge_kutta", lambda _: euler)]


def _transposed_tensors() -> list[Patch]:
    import torch

    def transposed(layer: Any) -> Any:
        def build(*arguments: Any, **options: Any) -> Any:
            made = layer(*arguments, **options)

            def turn(module: Any, _: Any) -> None:
                matrix = getattr(module, "similarity", None)
                if isinstance(matrix, torch.nn.Parameter) and matrix.numel() == 81:
                    matrix.data = matrix.data.reshape(9, 9).T.reshape(matrix.shape)

            made.register_forward_pre_hook(turn)
            return made

        return build

    return [(_chapter("filters").nsl, "NSConv2d", transposed)]


def _forgotten_clock() -> list[Patch]:
    return [(_chapter("training"), "clock", lambda _: lambda rate: 1.0)]


MUTANTS.update(
    {
        "linear head": Mutant("the predictor's products are not divided by the norms", _linear_head),
        "transposed M": Mutant("the residual layer gets M^T", _transposed_similarity),
        "transposed tensors": Mutant("static layers read M_s[l, k] for M_s[k, l]", _transposed_tensors),
        "constant predictor": Mutant("M of a dynamic layer does not depend on the input", _constant_predictor),
        "Euler for Runge-Kutta": Mutant("fourth-order steps replaced by Euler steps", _euler_steps),
        "forgotten clock": Mutant("time is not rescaled where the rate of M is", _forgotten_clock),
    }
)

_ACTIVE: list[str] = []


def active() -> str:
    """Name of the mutant that is applied now; empty for none."""
    return _ACTIVE[-1] if _ACTIVE else ""


@contextmanager
def applied(name: str) -> Iterator[None]:
    """The package as this mutant makes it, within the context, where flows are not guarded (`trajectory.GUARDED`).

    Raises:
        ValueError: there is no such mutant.
    """
    if name not in MUTANTS:
        raise ValueError(f"there is no mutant {name!r}; known: {', '.join(MUTANTS)}.")
    with ExitStack() as stack:
        # The gate is asked, and not the integrators' own checks.
        stack.enter_context(patch.object(trajectory, "GUARDED", False))
        for owner, attribute, change in MUTANTS[name].patches():
            stack.enter_context(patch.object(owner, attribute, change(getattr(owner, attribute))))
        _ACTIVE.append(name)
        stack.callback(_ACTIVE.pop)
        yield
