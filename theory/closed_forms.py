"""Exact solutions the simulations are compared with."""

from __future__ import annotations

import numpy as np
from scipy.linalg import qr

from theory.arrays import Array
from theory.problems import LinearRegression


def standard_flow(problem: LinearRegression, W0: Array, times: Array) -> Array:
    """W(t) [T, n, m] of dW/dt = X (Y - W^T X)^T by the matrix exponential, in the eigenbasis of X X^T."""
    values, vectors = np.linalg.eigh(problem.X @ problem.X.T)
    start = vectors.T @ W0
    drive = vectors.T @ problem.X @ problem.Y.T
    z = np.asarray(times)[:, None] * np.maximum(values, 0)
    # (1 - e^{-v t}) / v, which is t for v = 0.
    gain = np.where(z > 0, -np.expm1(-z) / np.where(values > 0, values, 1.0), np.asarray(times)[:, None])
    return vectors @ (np.exp(-z)[..., None] * start + gain[..., None] * drive)


def standard_limit(problem: LinearRegression, W0: Array) -> Array:
    """`Pi W0 + (X^T)^+ Y^T` [n, m]: what the start has off the range of X stays; the rest is least squares."""
    return problem.null_projector @ W0 + problem.minimum_norm_solution


def balanced_grams(weight: Array, lam: float) -> tuple[Array, Array]:
    """`(M^T M, W'^T W')` of a lambda-balanced pair as functions of `weight` [..., n, m] alone.

    `M^T M = -lam/2 + (lam^2/4 + W W^T)^{1/2}` and `W'^T W' = P [lam/2 + (lam^2/4 + W^T W)^{1/2}] P`, where P projects
    on the row space of W if m > n (W' has no more than n rows), and is the identity otherwise.

    Raises:
        ValueError: lam > 0 and m < n, where no such pair exists; or lam > 0, m > n and W has a rank below n: the row
            space of W' is then larger than that of W, and W'^T W' no function of W.
    """
    n, m = weight.shape[-2:]
    if lam > 0 and m < n:
        raise ValueError(f"lambda > 0 needs at least as many outputs as inputs (W'W'^T has full rank), got {n}x{m}.")
    # From W's own SVD: the root of W W^T would lose half of the digits where W is singular.
    u, values, vt = np.linalg.svd(weight)
    v = vt.swapaxes(-1, -2)
    if lam > 0 and m > n and np.any(values[..., -1] <= 1e-12 * np.maximum(values[..., 0], 1e-300)):
        raise ValueError(f"for lambda > 0 and more outputs than inputs ({n}x{m}) W must have rank {n}, and has not.")

    def gram(basis: Array, size: int, shift: float) -> Array:
        padded = np.zeros((*values.shape[:-1], size))
        padded[..., : values.shape[-1]] = values
        return (basis * (np.sqrt(lam**2 / 4 + padded**2) + shift)[..., None, :]) @ basis.swapaxes(-1, -2)

    right = gram(v, m, lam / 2)
    if m > n:
        rows = v[..., :n] @ v[..., :n].swapaxes(-1, -2)
        right = rows @ right @ rows
    return gram(u, n, -lam / 2), right


def whitened_riccati(problem: LinearRegression, kernel0: Array, similarity0: Array, lam: float, times: Array) -> Array:
    """W(t) [T, n, m] of the factorised flow with whitened inputs from a lambda-balanced start.

    With `Phi = X Y^T`, `F = [[-lam/2, Phi], [Phi^T, lam/2]]`, `Z = [M, W']`, the Gram matrix `G = Z^T Z`
    obeys the Riccati equation `G' = F G + G F - G^2`, whose solution is
    `G(t) = e^{Ft} Z0^T [I + Z0 (int_0^t e^{2 F tau} d tau) Z0^T]^{-1} Z0 e^{Ft}`; W is its upper right block.

    Raises:
        ValueError: X X^T is not the identity.
    """
    if not problem.is_whitened:
        raise ValueError("the Riccati solution needs whitened inputs (X X^T = I); call problem.whitened() first.")
    n, m = problem.shape
    phi = problem.X @ problem.Y.T
    generator = np.block([[-lam / 2 * np.eye(n), phi], [phi.T, lam / 2 * np.eye(m)]])
    values, vectors = np.linalg.eigh(generator)
    z0 = np.concatenate([similarity0, kernel0], axis=1) @ vectors
    path = np.empty((len(times), n, m))
    for k, t in enumerate(times):
        if t == 0:
            path[k] = similarity0.T @ kernel0
            continue
        # In F's eigenbasis I + Z0 (int) Z0^T = N N^T with N = [I, Z0 diag(root)], and Z0 e^{Ft} = Z0 diag(root)
        # diag(ratio) with ratios of order one. With the QR decomposition N^T = Q R, G is made of Q's rows alone: no
        # inverse, and no digits lost to modes that have grown by e^{vt} to different sizes. Row-wise stability needs
        # the rows sorted by size and column pivoting (Cox and Higham 1998).
        rate = np.maximum(np.abs(values), 1e-300)
        share = np.where(np.abs(values) * t > 1e-12, -np.expm1(-2 * rate * t) / (2 * rate), t)
        root = np.exp(_within_range(np.maximum(values, 0) * t)) * np.sqrt(share)
        stacked = np.concatenate([np.eye(n), root[:, None] * z0.T])
        order = np.argsort(-np.max(np.abs(stacked), axis=1), kind="stable")
        basis = np.empty_like(stacked)
        basis[order] = qr(stacked[order], mode="economic", pivoting=True)[0]
        half = vectors @ ((np.exp(np.minimum(values, 0) * t) / np.sqrt(share))[:, None] * basis[n:])
        path[k] = (half @ half.T)[:n, n:]
    return path


#: Powers of e from here on are not formed: float64 ends at 709.
LARGEST_POWER = 600.0


def _within_range(powers: Array) -> Array:
    """`powers` [k] of e (at least 0) in the same order, none above LARGEST_POWER: the widest gaps are narrowed.

    What has grown by e^{gap} more than all else is saturated, so that a narrower gap, of at least LARGEST_POWER / k,
    leaves the solution as it is.
    """
    order = np.argsort(powers)
    gaps = np.diff(powers[order], prepend=0.0)
    while gaps.sum() > LARGEST_POWER:
        gaps = np.minimum(gaps, max(0.9 * gaps.max(), LARGEST_POWER / len(gaps)))
    found = np.empty_like(powers)
    found[order] = np.cumsum(gaps)
    return found


def saxe_mode(target: float, start: float, times: Array) -> Array:
    """sigma(t) of one balanced depth-2 mode with whitened inputs: `sigma' = 2 sigma (target - sigma)` (Saxe et al.)."""
    if target == 0 or start == 0:  # a mode that starts at 0 stays there
        return start / (1 + 2 * start * np.asarray(times))
    growth = np.exp(-2 * target * np.asarray(times))
    return target / (1 + (target / start - 1) * growth)


def depth_modes_rate(values: Array, slopes: Array, depth: int) -> Array:
    """`d sigma_r/dt = -N (sigma_r^2)^{1 - 1/N} <grad L, u_r v_r^T>` (Arora et al. 2019), `slopes` = -u^T grad v."""
    return depth * (values**2) ** (1 - 1 / depth) * slopes


def lambda_modes_rate(values: Array, slopes: Array, lam: float) -> Array:
    """`d sigma_r/dt = sqrt(lam^2 + 4 sigma_r^2) u_r^T S v_r` for a lambda-balanced pair."""
    return np.sqrt(lam**2 + 4 * values**2) * slopes
