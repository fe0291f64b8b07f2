"""Gradient flows of a factorised weight, their closed forms, and a ledger of checked claims (paper, section
5).

Your own problem, both flows of equation (6), their invariants and their limit:

>>> import numpy as np
>>> from theory import Factorised, LinearRegression, Standard, integrate
>>> rng = np.random.default_rng(0)
>>> X, Y = rng.standard_normal((4, 3)), rng.standard_normal((2, 3))    # one sample a column
>>> problem = LinearRegression(X, Y)
>>> W_prime0, M0 = 0.3 * rng.standard_normal((4, 2)), np.eye(4)
>>> nsl = integrate(problem, Factorised(W_prime0, M0))                 # W = M^T W'
>>> plain = integrate(problem, Standard(M0.T @ W_prime0))
>>> print(nsl.converged, plain.converged, sorted(nsl.invariants()))
True True ["W'W'^T - M M^T"]
>>> print(max(nsl.invariants().values()) < 1e-9, nsl.limit().shape)    # drift of the conserved quantity
True (4, 2)

`python -m theory --help` runs the ledger, the notebooks and the speed comparison. Names are imported on first
use, so that `import theory` itself stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theory.batched import adaptive_flow as adaptive_flow
    from theory.flows import (
        DiagonalSimilarity as DiagonalSimilarity,
    )
    from theory.flows import (
        Factorised as Factorised,
    )
    from theory.flows import (
        Product as Product,
    )
    from theory.flows import (
        Standard as Standard,
    )
    from theory.flows import (
        Tied as Tied,
    )
    from theory.integrators import FlowError as FlowError
    from theory.integrators import Trajectory as Trajectory
    from theory.integrators import gradient_descent as gradient_descent
    from theory.integrators import implicit_midpoint as implicit_midpoint
    from theory.integrators import integrate as integrate
    from theory.problems import (
        LinearRegression as LinearRegression,
    )
    from theory.problems import (
        MatrixCompletion as MatrixCompletion,
    )
    from theory.problems import (
        MatrixSensing as MatrixSensing,
    )
    from theory.problems import (
        SeparableClassification as SeparableClassification,
    )

_HOME = {
    "problems": ("LinearRegression", "MatrixCompletion", "MatrixSensing", "SeparableClassification"),
    "flows": ("DiagonalSimilarity", "Factorised", "Product", "Standard", "Tied"),
    "integrators": ("FlowError", "Trajectory", "gradient_descent", "implicit_midpoint", "integrate"),
    "batched": ("adaptive_flow",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'theory' has no attribute {name!r}")
    value = getattr(import_module(f"theory.{_MODULE[name]}"), name)
    globals()[name] = value
    return value
