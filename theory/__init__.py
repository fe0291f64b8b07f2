"""Gradient flows of a factorised weight, their closed forms, and a ledger of checked claims (paper, section 5).

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

A loss of your own is a subclass of `Problem` (`shape`, `loss`, `descent`), a factorisation of your own one of
`Parametrisation` (`weight`, `velocity`, `weight_velocity`, and `invariants` where there are any), and a claim of your
own a function under the decorator `claim`, checked by `check` and printed by `ledger_text` in the ledger's format.

`python -m theory --help` runs the ledger and the speed comparison. Names are imported on first use, so that
`import theory` itself stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theory.batched import adaptive_flow as adaptive_flow
    from theory.claims.ledger import Finding as Finding
    from theory.claims.ledger import Settings as Settings
    from theory.claims.ledger import check as check
    from theory.claims.ledger import claim as claim
    from theory.claims.ledger import ledger_text as ledger_text
    from theory.claims.ledger import verdict_of as verdict_of
    from theory.flows import DiagonalSimilarity as DiagonalSimilarity
    from theory.flows import Factorised as Factorised
    from theory.flows import Parametrisation as Parametrisation
    from theory.flows import Product as Product
    from theory.flows import Standard as Standard
    from theory.flows import Tied as Tied
    from theory.integrators import integrate as integrate
    from theory.problems import LinearRegression as LinearRegression
    from theory.problems import MatrixCompletion as MatrixCompletion
    from theory.problems import MatrixSensing as MatrixSensing
    from theory.problems import Problem as Problem
    from theory.problems import SeparableClassification as SeparableClassification
    from theory.steps import gradient_descent as gradient_descent
    from theory.steps import implicit_midpoint as implicit_midpoint
    from theory.trajectory import FlowError as FlowError
    from theory.trajectory import Trajectory as Trajectory

_HOME = {
    "problems": ("LinearRegression", "MatrixCompletion", "MatrixSensing", "Problem", "SeparableClassification"),
    "flows": ("DiagonalSimilarity", "Factorised", "Parametrisation", "Product", "Standard", "Tied"),
    "integrators": ("integrate",),
    "steps": ("gradient_descent", "implicit_midpoint"),
    "trajectory": ("FlowError", "Trajectory"),
    "batched": ("adaptive_flow",),
    "claims.ledger": ("Finding", "Settings", "check", "claim", "ledger_text", "verdict_of"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE)


def missing(error: ModuleNotFoundError) -> str:
    """What to do where scipy or cvxpy, which the layers do without, are not installed; one sentence."""
    package = (error.name or "a package").split(".")[0]
    advice = "run `make env`, or `pip install 'neural-similarity-learning[theory]'`"
    return f"The theory needs {package}, which is not installed; {advice}."


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'theory' has no attribute {name!r}")
    try:
        value = getattr(import_module(f"theory.{_MODULE[name]}"), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(missing(error), name=error.name) from None
    globals()[name] = value
    return value
