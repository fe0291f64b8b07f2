"""What an integrator returns: the path of a flow, or the iterates of an algorithm, with what is measured on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np

from theory import observables
from theory.arrays import Array
from theory.flows import Parametrisation
from theory.problems import LinearRegression, Problem

#: Whether a flow is refused that grows, becomes infinite or does not come to its end. Not so where the dynamics are
#: wrong on purpose (`theory.claims.mutants`): a flow that becomes infinite then stays at its last finite state, and
#: what was measured on it goes to the claim's gate.
GUARDED = True
#: Distance from the nearest fit, relative to the weights, beyond which an end in regression is not given out as limit.
FIT_DISTANCE = 1e-6
#: A limit's gradient in W, relative to the largest on the path and to that at W = 0.
SMALL_GRADIENT = 1e-6


class FlowError(ValueError):
    """A flow or an iteration left the range of floating point, or did not reach its limit."""


class Ended(Protocol):
    """What `ended` asks: whether each member of a flow met what it was run for."""

    converged: Any


E = TypeVar("E", bound=Ended)


def ended(end: E) -> E:
    """`end` itself, where every member came to what it was run for: its `stop_loss`, or rest in a limit.

    A flow that never moved, or ran out of steps, has no end to compare with anything.

    Raises:
        FlowError: some member did not.
    """
    met = np.atleast_1d(np.asarray(end.converged) | np.asarray(getattr(end, "fitted", False)))
    if GUARDED and not np.all(met):
        raise FlowError(
            f"{int(np.sum(~met))} of {met.size} flows stopped before they reached the loss asked for, or a limit; "
            "allow more time or evaluations, or start further from the saddle at the origin."
        )
    return end


@dataclass
class Trajectory:
    """A path of the flow (or the iterates of an algorithm).

    Attributes:
        times: [T] time (for iterations: step size times step number).
        states: [T, ..., D] parameters.
        dissipated: [T] the integral of `||d(state)/dt||^2` up to each time, summed over the batch; equal to
            the loss lost so far for an exact gradient flow. NaN for discrete iterations.
        converged: whether the flow has come to rest, as `integrate` defines it, where the gradient in W is small or no
            direction leads further down (never for a loss without a minimiser). Rest is told relative to the largest
            velocity on the path: modes slower than `stop_gradient` of the fastest are not seen, so that the end may be
            off the limit by `stop_gradient` times the condition of X X^T. `limit` looks for this in regression.
        methods: the solver used in each time segment.
        evaluations: number of evaluations of the flow.
        fitted: whether the path was ended by `stop_loss`: a fit, but not yet a limit.
        rtol: the solver's relative tolerance at the end, which long plateaus may have relaxed; NaN for iterations.
    """

    problem: Problem
    parametrisation: Parametrisation
    times: Array
    states: Array
    dissipated: Array
    converged: bool
    methods: list[str] = field(default_factory=list)
    evaluations: int = 0
    fitted: bool = False
    rtol: float = np.nan

    @cached_property
    def weights(self) -> Array:
        """Effective weights [T, ..., n, m]."""
        return self.parametrisation.weight(self.states)

    @cached_property
    def losses(self) -> Array:
        """[T, ...]."""
        return self.problem.loss(self.weights)

    @cached_property
    def gradient_norms(self) -> Array:
        """Frobenius norm of grad L(W), [T, ...]."""
        return observables.frobenius_norm(self.problem.descent(self.weights))

    @cached_property
    def singular_values(self) -> Array:
        """[T, ..., min(n, m)]."""
        return observables.singular_values(self.weights)

    @property
    def nuclear_norms(self) -> Array:
        """[T, ...]."""
        return self.singular_values.sum(axis=-1)

    @property
    def frobenius_norms(self) -> Array:
        """[T, ...]."""
        return observables.frobenius_norm(self.weights)

    @property
    def effective_ranks(self) -> Array:
        """exp of the entropy of the singular values (Roy and Vetterli, 2007), [T, ...]."""
        return observables.effective_rank_of(self.singular_values)

    def schatten_norms(self, p: float) -> Array:
        """Schatten norms of the weights, [T, ...]: p = 1 the nuclear, 2 the Frobenius, inf the spectral one.

        Raises:
            ValueError: p is below 1.
        """
        if not p >= 1:
            raise ValueError(f"a Schatten norm has p of at least 1, got {p}")
        return np.linalg.norm(self.singular_values, ord=p, axis=-1)

    def invariants(self) -> dict[str, float]:
        """Largest absolute drift along the path of each conserved quantity, by name."""
        found = self.parametrisation.invariants(self.states)
        return {name: float(np.max(np.abs(value - value[:1]))) for name, value in found.items()}

    def limit(self, *, strict: bool = True) -> Array:
        """The effective weight at the end, [..., n, m].

        Raises:
            FlowError: `strict`, and the path has not converged, its loss has no minimiser, or (linear regression
                without decay) modes too slow to be seen still keep it off the fits.
        """
        if strict and GUARDED:
            self._check_limit()
        return self.weights[-1]

    def _check_limit(self) -> None:
        if not self.problem.attained:
            raise FlowError(
                "this loss has no minimiser: W grows without bound and only its direction has a limit; ask for "
                "limit(strict=False) to see where the path was stopped."
            )
        if not self.converged:
            why = "has not converged: it was stopped by stop_loss" if self.fitted else "has not converged"
            raise FlowError(
                f"the path {why} at time {self.times[-1]:.3g} (gradient norm "
                f"{np.max(self.gradient_norms[-1]):.2e}); integrate longer, or ask for limit(strict=False)."
            )
        if not isinstance(self.problem, LinearRegression) or np.any(self.parametrisation.penalty(self.states[-1]) > 0):
            return
        # A gradient that is not small is that of a limit the parametrisation allows, of low rank for example.
        at_zero = observables.frobenius_norm(self.problem.descent(np.zeros_like(self.weights[-1])))
        steepest = np.maximum(np.max(self.gradient_norms, axis=0), at_zero)
        small = self.gradient_norms[-1] <= SMALL_GRADIENT * steepest
        size = np.maximum(np.max(self.frobenius_norms, axis=0), 1e-300)
        off = float(np.max(np.where(small, self.problem.distance_to_fits(self.weights[-1]) / size, 0.0)))
        if off > FIT_DISTANCE:
            raise FlowError(
                f"the path is at rest, but {off:.1e} of its largest weight off the nearest least-squares fit: the "
                f"inputs' modes are too unequal in size; use a smaller stop_gradient, rescale or whiten X, or ask for "
                "limit(strict=False)."
            )
