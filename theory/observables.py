"""Norms, ranks and distances recorded along a trajectory. All take `weight` [..., n, m] and return [...]."""

from __future__ import annotations

import numpy as np

from theory.arrays import Array


def singular_values(weight: Array) -> Array:
    """Singular values, largest first, [..., min(n, m)]."""
    return np.linalg.svd(weight, compute_uv=False)


def nuclear_norm(weight: Array) -> Array:
    """Sum of the singular values."""
    return singular_values(weight).sum(axis=-1)


def frobenius_norm(weight: Array) -> Array:
    """Root of the sum of squared entries."""
    return np.sqrt(np.sum(weight**2, axis=(-1, -2)))


def effective_rank(weight: Array) -> Array:
    """exp of the entropy of the normalised singular values (Roy and Vetterli 2007); 0 for the zero matrix."""
    return effective_rank_of(singular_values(weight))


def effective_rank_of(values: Array) -> Array:
    """The same of singular values [..., K]."""
    total = values.sum(axis=-1, keepdims=True)
    share = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=-1)
    return np.where(total[..., 0] > 0, np.exp(entropy), 0.0)


def relative_error(weight: Array, target: Array) -> Array:
    """`||W - W*||_F / ||W*||_F`."""
    return frobenius_norm(weight - target) / frobenius_norm(target)
