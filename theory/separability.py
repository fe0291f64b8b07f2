"""Whether data can be separated by a hyperplane through the origin, as the claims about margins presume."""

from __future__ import annotations

import numpy as np

from theory.arrays import Array


def is_separable(signed: Array) -> bool:
    """Whether some w has `w^T x_i >= 1` for every column of `signed` [n, N]."""
    # Here, so that problems can be made without scipy.
    from scipy.optimize import linprog

    largest = float(np.max(np.linalg.norm(signed, axis=0), initial=0.0))
    if largest > 0:  # in whatever units they come
        signed = signed / largest
    found = linprog(np.zeros(signed.shape[0]), A_ub=-signed.T, b_ub=-np.ones(signed.shape[1]), bounds=(None, None))
    return bool(found.status == 0)
