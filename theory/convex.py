"""Convex programs whose solutions the flows are compared with.

`cvxpy` (with Clarabel, an interior-point solver) is imported where it is used; the rest needs numpy and scipy
only.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog, minimize

from theory.arrays import Array
from theory.problems import MatrixSensing


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
    program.solve(solver=cp.CLARABEL, tol_gap_abs=tolerance, tol_gap_rel=tolerance, tol_feas=tolerance)
    if W.value is None:
        raise ValueError(f"no matrix satisfies the {len(y)} measurements ({program.status}).")
    return np.asarray(W.value), float(program.value)


def completion_as_sensing(shape: tuple[int, int], positions: Array, values: Array) -> MatrixSensing:
    """Observed entries (flat positions [N]) as a dense sensing problem."""
    A = np.zeros((len(values), shape[0] * shape[1]))
    A[np.arange(len(values)), positions.astype(int)] = 1
    return MatrixSensing(A.reshape(-1, *shape), values)


def minimum_l1(X: Array, y: Array) -> tuple[Array, float]:
    """beta [n] of least l1 norm with `X^T beta = y` (X [n, N], y [N]), and that norm, by linear
    programming.
    """
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
    """beta [n] that minimises `q_alpha` subject to `X^T beta = y`, by damped Newton on the dual.

    The gradient of q_alpha is `arcsinh(beta / (2 alpha^2))`, so the minimiser is `beta = 2 alpha^2 sinh(X
    nu)` with nu [N] minimising the convex `2 alpha^2 sum cosh(X nu) - y^T nu`.

    Raises:
        ValueError: the samples are linearly dependent, or Newton's method does not converge.
    """
    if np.linalg.matrix_rank(X) < X.shape[1]:
        raise ValueError(f"X {X.shape} has linearly dependent samples; drop the redundant ones.")
    scale = 2 * alpha**2
    # Start from the dual point nearest to that of the minimum l2-norm solution.
    nu = np.linalg.lstsq(X, np.arcsinh(np.linalg.pinv(X.T) @ y / scale), rcond=None)[0]
    tail = float(np.linalg.norm(y))

    def value(candidate: Array) -> float:
        with np.errstate(over="ignore"):
            return float(scale * np.sum(np.cosh(X @ candidate)) - y @ candidate)

    for _ in range(500):
        z = X @ nu
        residual = scale * (X.T @ np.sinh(z)) - y
        if np.linalg.norm(residual) < 1e-14 * max(1.0, tail):
            break
        hessian = scale * (X.T * np.cosh(z)) @ X
        move = -np.linalg.solve(hessian, residual)
        length, here, slope = 1.0, value(nu), float(residual @ move)
        while length > 1e-12 and not value(nu + length * move) <= here + 1e-4 * length * slope + 1e-15 * abs(here):
            length /= 2
        nu = nu + length * move
        if np.linalg.norm(length * move) < 1e-15 * (1 + np.linalg.norm(nu)):
            break
    z = X @ nu
    if np.linalg.norm(scale * (X.T @ np.sinh(z)) - y) > 1e-9 * max(1.0, tail):
        raise ValueError(f"the hypentropy program did not converge for alpha = {alpha:g}.")
    return scale * np.sinh(z)


def is_separable(signed: Array) -> bool:
    """Whether some w has `w^T x_i >= 1` for every column of `signed` [n, N]."""
    found = linprog(np.zeros(signed.shape[0]), A_ub=-signed.T, b_ub=-np.ones(signed.shape[1]), bounds=(None, None))
    return bool(found.status == 0)


def maximum_margin(signed: Array, norm: str) -> tuple[Array, float]:
    """The direction w [n] of unit `norm` ("l2" or "l1") with the largest smallest margin, and that margin.

    Args:
        signed: `y_i x_i` as columns, [n, N].
    """
    n, count = signed.shape
    if norm == "l1":
        # maximise gamma subject to signed^T (p - q) >= gamma, sum(p + q) <= 1
        cost = np.append(np.zeros(2 * n), -1.0)
        upper = np.concatenate([-signed.T, signed.T, np.ones((count, 1))], axis=1)
        upper = np.concatenate([upper, np.append(np.ones(2 * n), 0.0)[None]])
        found = linprog(
            cost,
            A_ub=upper,
            b_ub=np.append(np.zeros(count), 1.0),
            bounds=[(0, None)] * (2 * n) + [(None, None)],
        )
        return found.x[:n] - found.x[n : 2 * n], float(found.x[-1])
    if norm != "l2":
        raise ValueError(f'norm must be "l1" or "l2", got {norm!r}.')
    # Dual: the point of least norm in the convex hull of the columns; its norm is the margin.
    gram = signed.T @ signed
    found = minimize(
        lambda a: 0.5 * a @ gram @ a,
        np.full(count, 1 / count),
        jac=lambda a: gram @ a,
        bounds=[(0, None)] * count,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": lambda a: np.ones(count)},
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 1000},
    )
    point = signed @ found.x
    direction = point / np.linalg.norm(point)
    return direction, float(np.min(direction @ signed))
