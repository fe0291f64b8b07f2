"""Whether data can be separated by a hyperplane through the origin, as the claims about margins presume."""

from __future__ import annotations

import numpy as np

from theory.arrays import Array

#: Where the largest margin is below this part of the largest sample, it may not be found: the linear program drops
#: entries of 1e-9, and the l2 program loses margins of the size of the root of rounding.
SMALLEST_MARGIN = 1e-8
NOT_SEPARABLE = (
    f"the data are not linearly separable through the origin, or by a margin below about {SMALLEST_MARGIN:g} of the "
    "largest sample; change the labels, or add a feature."
)


def check_separable(signed: Array) -> None:
    """Whether some w has `w^T x_i >= 1` for every column of `signed` [n, N].

    Raises:
        ValueError: none has, or only with a margin too small for the linear program; or the program was not solved.
    """
    # Here, so that problems can be made without scipy.
    from scipy.optimize import linprog

    largest = float(np.max(np.linalg.norm(signed, axis=0), initial=0.0))
    if largest > 0:  # in whatever units they come
        signed = signed / largest
    found = linprog(np.zeros(signed.shape[0]), A_ub=-signed.T, b_ub=-np.ones(signed.shape[1]), bounds=(None, None))
    if found.status == 2:
        raise ValueError(NOT_SEPARABLE)
    if found.status != 0:
        said = " ".join(str(found.message).split()).rstrip(".")
        raise ValueError(f"whether the data are linearly separable was not decided ({said}); rescale the features.")
