"""The spread over seeds that methods trained alike show together, which lets few seeds decide.

Three differences estimate their own spread with two degrees of freedom. Among the 21 pairs of Table 4 their mean
would then have to be twelve times that estimate before a t test, with Holm's procedure, finds it. But methods that are
trained alike scatter about alike, so they estimate one spread together, as in the analysis of variance of a randomised
block design: a value is its method's mean, plus what its seed does to all methods, plus a residual, fitted by least
squares to all runs that there are.

The standard deviation of a gain is the *largest* of three estimates: that of the gains themselves, that of the two
methods' residuals, and that of all residuals. The first two keep a method that scatters more than the others from being
judged by their calm. Its degrees of freedom are two thirds of what all methods together would have with the seeds of
the pair: the rest pays for methods that do not scatter quite alike.

By simulation (``tests/reproduce/test_spread.py``): in a table as large as Table 4, on two data sets and without any
difference, the chance that it shows one is 1 % where all methods scatter alike, 2 % where one does twice as much, 4 %
at three times, 7 % at five times. In smaller tables it is up to 6 % where the method that all others are compared with
scatters three times as much as they. A difference of four standard deviations of a method's values, which three seeds
find in 6 of 100 such tables by the spread of their own gains alone, is found in 44; one of six in 87, before in 12.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot, sqrt

#: The part of the degrees of freedom that is made use of.
TRUSTED = 2 / 3


@dataclass(frozen=True)
class Pool:
    """What the residuals of methods on one data set say.

    Attributes:
        residual: standard deviation of one value, by the residuals of all methods.
        own: the same by each method's own residuals, of those that have any.
        freedom: degrees of freedom of ``residual``.
    """

    residual: float
    own: Mapping[str, float]
    freedom: int

    def gain(self, better: str, worse: str) -> float:
        """The standard deviation of a gain of one method over another with the same seed."""
        return max(hypot(self.own[better], self.own[worse]), sqrt(2) * self.residual)

    def trusted(self, seeds: int) -> float:
        """The degrees of freedom of the spread of gains over so many seeds; those of two methods alone at least.

        More seeds of other methods do not count: they would make a pair that decides by its own spread too sure.
        """
        return max(seeds - 1, TRUSTED * min(self.freedom, (len(self.own) - 1) * (seeds - 1)))


def pool(values: Mapping[str, Mapping[int, float]]) -> Pool | None:
    """The spread that methods show together; None where no seed has two of them, or no method two seeds.

    Args:
        values: of each method, its value by seed. Methods may have different seeds.
    """
    import numpy as np

    methods, seeds = sorted(values), sorted(set().union(*values.values()))
    cells = [(method, seed) for method in methods for seed in sorted(values[method])]
    if not cells:
        return None
    design = np.zeros((len(cells), len(methods) + len(seeds)))
    for row, (method, seed) in enumerate(cells):
        design[row, methods.index(method)] = design[row, len(methods) + seeds.index(seed)] = 1
    left, singular, _ = np.linalg.svd(design, full_matrices=False)
    basis = left[:, singular > 1e-9 * singular.max()]
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
        if share > 1e-9:
            own[method] = sqrt(float(squares[mine].sum()) / share)
    return Pool(sqrt(float(squares.sum()) / freedom), own, freedom)
