"""What an integrator returns: the path of a flow, or the iterates of an algorithm, with what is measured on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from theory import observables
from theory.arrays import Array
from theory.flows import Parametrisation
from theory.problems import Problem


class FlowError(ValueError):
    """A flow or an iteration left the range of floating point, or did not reach its limit."""


@dataclass
class Trajectory:
    """A path of the flow (or the iterates of an algorithm).

    Attributes:
        times: [T] time (for iterations: step size times step number).
        states: [T, ..., D] parameters.
        dissipated: [T] the integral of `||d(state)/dt||^2` up to each time, summed over the batch; equal to
            the loss lost so far for an exact gradient flow. NaN for discrete iterations.
        converged: whether the end is a limit: the velocity has come to rest where the gradient in W is small or no
            direction leads further down (never for a loss without a minimiser).
        methods: the solver used in each time segment.
        evaluations: number of evaluations of the flow.
    """

    problem: Problem
    parametrisation: Parametrisation
    times: Array
    states: Array
    dissipated: Array
    converged: bool
    methods: list[str] = field(default_factory=list)
    evaluations: int = 0

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

    def schatten(self, p: float) -> Array:
        """`sum_r sigma_r^p` (no root), what a balanced product of depth 2/p pays for W, [T, ...]."""
        return np.sum(self.singular_values**p, axis=-1)

    @property
    def effective_ranks(self) -> Array:
        """[T, ...]."""
        return observables.effective_rank(self.weights)

    def invariants(self) -> dict[str, float]:
        """Largest absolute drift along the path of each conserved quantity, by name."""
        found = self.parametrisation.invariants(self.states)
        return {name: float(np.max(np.abs(value - value[:1]))) for name, value in found.items()}

    def limit(self, *, strict: bool = True) -> Array:
        """The effective weight at the end, [..., n, m].

        Raises:
            FlowError: `strict`, and the path has not converged or its loss has no minimiser.
        """
        if strict and not self.problem.attained:
            raise FlowError(
                "this loss has no minimiser: W grows without bound and only its direction has a limit; ask for "
                "limit(strict=False) to see where the path was stopped."
            )
        if strict and not self.converged:
            raise FlowError(
                f"the path has not converged at time {self.times[-1]:.3g} (gradient norm "
                f"{np.max(self.gradient_norms[-1]):.2e}); integrate longer, or ask for limit(strict=False)."
            )
        return self.weights[-1]
