"""The spread over seeds that the methods of a table show together on one data set, which lets few seeds decide.

Three differences estimate their own spread with two degrees of freedom. Among the twenty pairs of Table 4 a difference
would then have to be twelve times that estimate before a t test, with Holm's procedure, finds it. The methods of a
table are trained alike, though, and their errors scatter about alike, so they estimate one spread together, as in the
analysis of variance of a randomised block design: a value is its method's mean, plus what its seed does to all methods,
plus a residual, fitted by least squares to all runs that there are.

The spread of a gain is the *largest* of three estimates: that of the gains themselves, that of the two methods'
residuals, and that of all residuals, whose degrees of freedom it has. The first two keep a method that scatters more
than the others from being judged by their calm. By simulation (``tests/reproduce/test_spread.py``), in a table as
large as Table 4 without any difference, at most one table in twenty shows one while the methods' spreads differ up to
threefold, about two while one method's is five times that of the others; and a difference of four spreads, which three
seeds found in 6 tables of 100 by the spread of their own gains, is found in half of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot, sqrt


@dataclass(frozen=True)
class Pool:
    """What the residuals of a table's methods on one data set say.

    Attributes:
        residual: standard deviation of one value, by the residuals of all methods.
        own: the same by each method's own residuals; 0 of a method that has too few runs to tell.
        freedom: degrees of freedom of ``residual``.
    """

    residual: float
    own: Mapping[str, float]
    freedom: int

    def gain(self, better: str, worse: str) -> float:
        """The standard deviation of a gain of one method over another with the same seed."""
        return max(hypot(self.own[better], self.own[worse]), sqrt(2) * self.residual)


def pool(values: Mapping[str, Mapping[int, float]]) -> Pool | None:
    """The spread that methods show together; None where no seed has two of them.

    Args:
        values: of each method, its value by seed. Methods may have different seeds.
    """
    import numpy as np

    methods, seeds = sorted(values), sorted(set().union(*values.values()))
    cells = [(method, seed) for method in methods for seed in sorted(values[method])]
    design = np.zeros((len(cells), len(methods) + len(seeds)))
    for row, (method, seed) in enumerate(cells):
        design[row, methods.index(method)] = design[row, len(methods) + seeds.index(seed)] = 1
    left, singular, _ = np.linalg.svd(design, full_matrices=False)
    basis = left[:, singular > 1e-9 * singular.max()] if len(cells) else left
    freedom = len(cells) - basis.shape[1]
    if freedom < 1:
        return None
    measured = np.array([values[method][seed] for method, seed in cells])
    measured -= measured.mean()  # the constant is in the basis; without it nothing is lost to rounding
    squares = (measured - basis @ (basis.T @ measured)) ** 2
    # What a residual's square is expected to be, in units of the variance: 1 less its leverage.
    expected = 1 - (basis**2).sum(1)
    own = {}
    for method in methods:
        mine = [row for row, cell in enumerate(cells) if cell[0] == method]
        share = float(expected[mine].sum())
        own[method] = sqrt(float(squares[mine].sum()) / share) if share > 1e-9 else 0.0
    return Pool(sqrt(float(squares.sum()) / freedom), own, freedom)
