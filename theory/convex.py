"""Convex programs whose solutions the flows are compared with.

`cvxpy` (with Clarabel, an interior-point solver) is imported where it is used; the rest needs numpy and scipy
only.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular
from scipy.optimize import linprog, nnls

from theory.arrays import Array, as_float
from theory.problems import MatrixSensing
from theory.separability import NOT_SEPARABLE, SMALLEST_MARGIN, check_separable


def _solve(program: Any, tolerance: float) -> None:
    """Solve with Clarabel to `tolerance`, or to the finest of 10 and 100 times that which it reaches.

    Warns where it reaches none of them.
    """
    for looser in (1, 10, 100):
        names = ("tol_gap_abs", "tol_gap_rel", "tol_feas")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "inaccurate" is what the status says, and is tried again
            program.solve(solver="CLARABEL", **dict.fromkeys(names, looser * tolerance))
        if program.status != "optimal_inaccurate":
            return
    warnings.warn(
        f"Clarabel solved the convex program to no tolerance up to {100 * tolerance:g}; its solution is inaccurate.",
        RuntimeWarning,
        stacklevel=3,
    )


def minimum_nuclear_norm(A: Array, y: Array, *, positive: bool = False, tolerance: float = 1e-8) -> tuple[Array, float]:
    """The matrix of least nuclear norm with `<A_i, W> = y_i`, and that norm.

    Args:
        A: [N, n, m]; y: [N]. positive: among symmetric positive semidefinite matrices (least trace).
    Raises:
        ValueError: no matrix satisfies the constraints.
    """
    import cvxpy as cp

    n, m = A.shape[1:]
    W = cp.Variable((n, n), PSD=True) if positive else cp.Variable((n, m))
    flat = A.transpose(0, 2, 1).reshape(len(A), -1)  # cvxpy's vec is column by column
    goal = cp.trace(W) if positive else cp.normNuc(W)
    program = cp.Problem(cp.Minimize(goal), [flat @ cp.vec(W, order="F") == y])
    _solve(program, tolerance)
    if W.value is None:
        raise ValueError(f"no matrix satisfies the {len(y)} measurements ({program.status}).")
    return np.asarray(W.value), float(program.value)


def least_group_norm(A: Array, y: Array, *, tolerance: float = 1e-8) -> tuple[Array, float]:
    """The matrix of least `sum_a ||row a||_2` with `<A_i, W> = y_i` (A [N, n, m], y [N]), and that sum."""
    import cvxpy as cp

    W = cp.Variable(A.shape[1:])
    flat = A.transpose(0, 2, 1).reshape(len(A), -1)
    program = cp.Problem(cp.Minimize(cp.sum(cp.norm(W, 2, axis=1))), [flat @ cp.vec(W, order="F") == y])
    _solve(program, tolerance)
    if W.value is None:
        raise ValueError(f"no matrix satisfies the {len(y)} measurements ({program.status}).")
    return np.asarray(W.value), float(program.value)


def penalised_gap(X: Array, Y: Array, weight: float, norm: str, W: Array) -> tuple[float, float]:
    """Duality gap of W in `min 1/2 ||Y - W^T X||^2 + weight * norm(W)`, over the objective, and the objective.

    The residual R, scaled so that `X R^T` lies in the dual norm's ball of size `weight`, gives the lower bound
    `<R, Y> - 1/2 ||R||^2`: a certificate that needs no solver.

    Args:
        X: [n, N]. Y: [m, N]. norm: "nuclear" or "rows" (group lasso over the rows of W [n, m]).
    Raises:
        ValueError: the norm is unknown.
    """
    residual = Y - W.T @ X
    slope = X @ residual.T
    if norm == "nuclear":
        size, dual = float(np.linalg.norm(W, "nuc")), float(np.linalg.norm(slope, 2))
    elif norm == "rows":
        size, dual = float(np.linalg.norm(W, axis=1).sum()), float(np.linalg.norm(slope, axis=1).max())
    else:
        raise ValueError(f'norm must be "nuclear" or "rows", got {norm!r}.')
    objective = 0.5 * float(np.sum(residual**2)) + weight * size
    scaled = residual * min(1.0, weight / max(dual, 1e-300))
    bound = float(np.sum(scaled * Y)) - 0.5 * float(np.sum(scaled**2))
    # An objective of 0 is the least there is.
    return (objective - bound) / objective if objective > 0 else 0.0, objective


def penalised_minimum(X: Array, Y: Array, weight: float, norm: str) -> float:
    """Minimum of `1/2 ||Y - W^T X||^2 + weight * norm(W)` by cvxpy; arguments as `penalised_gap`.

    Raises:
        ValueError: the program is not solved.
    """
    import cvxpy as cp

    W = cp.Variable((X.shape[0], Y.shape[0]))
    size = cp.normNuc(W) if norm == "nuclear" else cp.sum(cp.norm(W, 2, axis=1))
    program = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(Y - W.T @ X) + weight * size))
    _solve(program, 1e-8)
    if W.value is None:
        raise ValueError(f"the penalised regression was not solved ({program.status}); rescale the data or the weight.")
    return float(program.value)


def completion_as_sensing(shape: tuple[int, int], positions: Array, values: Array) -> MatrixSensing:
    """Observed entries (flat positions [N]) as a dense sensing problem."""
    A = np.zeros((len(values), shape[0] * shape[1]))
    A[np.arange(len(values)), positions.astype(int)] = 1
    return MatrixSensing(A.reshape(-1, *shape), values)


def excess(norm: ArrayLike, least: ArrayLike) -> Array:
    """How far a fit's `norm` lies above the `least` one that any fit has, relative to that; arrays broadcast.

    Raises:
        ValueError: it lies below by more than a solver's tolerance, so that something is no fit or no minimum.
    """
    found = np.asarray(norm, dtype=float) / np.asarray(least, dtype=float) - 1
    if not np.all(found > -1e-4):
        raise ValueError(
            f"a norm lies {-float(np.min(found)):.1e} below the least one of all fits: the flow has not fitted the "
            "data, or the convex program is not solved; lower stop_loss or the program's tolerance."
        )
    return found


def minimum_l1(X: Array, y: Array) -> tuple[Array, float]:
    """beta [n] of least l1 norm with `X^T beta = y` (X [n, N], y [N]), and that norm, by linear programming."""
    n = X.shape[0]
    found = linprog(np.ones(2 * n), A_eq=np.concatenate([X.T, -X.T], axis=1), b_eq=y, bounds=(0, None))
    if found.status != 0:
        raise ValueError(f"the equations X^T beta = y have no solution ({found.message}).")
    return found.x[:n] - found.x[n:], float(found.fun)


def hypentropy(beta: Array, alpha: float) -> Array:
    """`q_alpha(beta) = sum_j alpha^2 q(beta_j / alpha^2)`, `q(z) = 2 - sqrt(4 + z^2) + z arcsinh(z / 2)`."""
    z = beta / alpha**2
    return alpha**2 * np.sum(2 - np.sqrt(4 + z**2) + z * np.arcsinh(z / 2), axis=-1)


def minimum_hypentropy(X: Array, y: Array, alpha: float) -> Array:
    """beta [n] that minimises `q_alpha` subject to `X^T beta = y`.

    Raises:
        ValueError: alpha is not a positive number, the samples are linearly dependent, or Newton's method does not
            converge.
    """
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha must be a positive, finite number, got {alpha}.")
    # For tiny alpha, start from the minimiser for 10 alpha.
    nearby = None if alpha >= 0.1 else minimum_hypentropy(X, y, 10 * alpha)
    return bregman_projection(X, y, np.full(X.shape[0], 4 * alpha**2), np.zeros(X.shape[0]), nearby=nearby)


def bregman_projection(X: Array, y: Array, size: Array, start: Array, *, nearby: Array | None = None) -> Array:
    """beta [n] with `X^T beta = y` nearest to `start` [n] in the Bregman divergence of the hypentropy of sizes |c|.

    The potential's gradient is `arcsinh(2 beta_j / |c_j|)`, so `beta = |c|/2 sinh(z_0 + X nu)` with z_0 the gradient
    at `start` and nu [N] minimising the convex `sum |c|/2 cosh(z_0 + X nu) - y^T nu`: damped Newton on the dual.

    Args:
        size: |c| [n], positive. nearby: a beta to start from (default: the fit nearest to `start` in l2).
    Raises:
        ValueError: a size is not positive, the samples are linearly dependent, or Newton's method does not converge.
    """
    if not np.all(size > 0):
        raise ValueError(f"every size |c| must be positive (|w'_0j| != |mu_0j|), got {np.min(size):g}.")
    if np.linalg.matrix_rank(X) < X.shape[1]:
        raise ValueError(f"X {X.shape} has linearly dependent samples; drop the redundant ones.")
    scale = size / 2
    origin = np.arcsinh(start / scale)
    if nearby is None:
        nearby = start + np.linalg.pinv(X.T) @ (y - X.T @ start)
    nu = np.linalg.lstsq(X, np.arcsinh(nearby / scale) - origin, rcond=None)[0]
    # The size of what the equations add up, in whatever units; 0 where beta = 0 fits.
    tail = float(np.linalg.norm(y) + np.linalg.norm(X.T @ start))

    def value(candidate: Array) -> float:
        with np.errstate(over="ignore"):
            return float(scale @ np.cosh(origin + X @ candidate) - y @ candidate)

    for _ in range(500):
        z = origin + X @ nu
        residual = X.T @ (scale * np.sinh(z)) - y
        if np.linalg.norm(residual) <= 1e-14 * tail:
            break
        # The Hessian is A^T A; of its condition number, A has the root only. Large rows first keep QR stable.
        root = np.sqrt(scale * np.cosh(z))[:, None] * X
        factor = np.linalg.qr(root[np.argsort(-np.linalg.norm(root, axis=1))], mode="r")
        move = -solve_triangular(factor, solve_triangular(factor, residual, trans="T"))
        length, here, slope = 1.0, value(nu), float(residual @ move)
        # By so much rounding alone may raise the value, a difference of two sums.
        noise = 1e-15 * float(scale @ np.cosh(z) + np.abs(y) @ np.abs(nu))
        while length > 1e-12 and not value(nu + length * move) <= here + 1e-4 * length * slope + noise:
            length /= 2
        nu = nu + length * move
        if np.linalg.norm(length * move) <= 1e-15 * np.linalg.norm(nu):
            break
    beta = scale * np.sinh(origin + X @ nu)
    if np.linalg.norm(X.T @ beta - y) > 1e-9 * tail:
        raise ValueError(f"the hypentropy program did not converge for sizes from {np.min(size):g}.")
    return beta


def maximum_margin(signed: ArrayLike, norm: str) -> tuple[Array, float]:
    """The direction w [n] of unit `norm` ("l2" or "l1") with the largest smallest margin, and that margin.

    Args:
        signed: `y_i x_i` as columns, [n, N].
    Raises:
        ValueError: the norm is unknown, `signed` is no finite matrix, no hyperplane through the origin separates the
            data by a margin that `theory.separability` can see, or the linear program is not solved.
    """
    if norm not in ("l1", "l2"):
        raise ValueError(f'norm must be "l1" or "l2", got {norm!r}.')
    signed = as_float("signed", signed, 2)
    if signed.ndim != 2:
        raise ValueError(f"signed must be one matrix [n, N], one sample a column, got shape {signed.shape}.")
    n, count = signed.shape
    check_separable(signed)
    largest = float(np.max(np.linalg.norm(signed, axis=0)))
    signed = signed / largest  # in whatever units the features come
    if norm == "l1":
        # The shortest p - q with signed^T (p - q) >= 1: to maximise the margin at length 1 would lose margins of the
        # size of the solver's tolerance.
        upper = np.concatenate([-signed.T, signed.T], axis=1)
        found = linprog(np.ones(2 * n), A_ub=upper, b_ub=-np.ones(count), bounds=(0, None))
        if found.status != 0:
            raise ValueError(f"the linear program of the l1 margin was not solved ({found.message}).")
        return (found.x[:n] - found.x[n:]) / found.fun, largest / float(found.fun)
    # The shortest w with signed^T w >= 1, by Lawson and Hanson's least distance programming (1974, chapter 23): exact
    # up to rounding. Its margin at length 1 is 1 / ||w||.
    rows = np.concatenate([signed, np.ones((1, count))])
    weights, _ = nnls(rows, np.append(np.zeros(n), 1.0), maxiter=100 * (n + count))
    residual = rows @ weights - np.append(np.zeros(n), 1.0)
    direction = residual[:n] / max(float(np.linalg.norm(residual[:n])), 1e-300)
    margin = float(np.min(direction @ signed))
    if not margin > SMALLEST_MARGIN:  # the root of rounding
        raise ValueError(NOT_SEPARABLE)
    return direction, largest * margin
