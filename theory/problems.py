"""The learning problems whose gradient flows are studied (paper, section 5.1).

Every problem is a loss `L(W)` of one effective weight `W` [n, m]. A flow needs only `L` and the descent
direction `S = -grad L(W)`; how `W` is parametrised (as itself, as `M^T W'`, ...) is `theory.flows`' subject.
All arrays are float64; leading axes of `W`, and of the data, are batch axes (one random problem a member).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.arrays import Array, as_count, as_float, as_indices, check_batch
from theory.separability import check_separable


class Problem(ABC):
    """A loss of the effective weight `W` [..., n, m]."""

    shape: tuple[int, int]
    """(n, m): input and output dimension of `W`."""

    attained: bool = True
    """Whether the loss has a minimiser; without one, no flow has a finite limit."""

    @abstractmethod
    def loss(self, weight: Array) -> Array:
        """`L(W)` for `weight` [..., n, m]; returns [...]."""

    @abstractmethod
    def descent(self, weight: Array) -> Array:
        """`S = -grad L(W)` for `weight` [..., n, m]; same shape."""

    def members(self, chosen: np.ndarray) -> Problem:
        """The problem restricted to some members of its batch; itself, where all members share the data."""
        return self


def _check_one_axis(axes: int) -> None:
    """Raise ValueError where data have so many batch axes that a place among them is not one number."""
    if axes > 1:
        raise ValueError(
            f"the data have {axes} batch axes, of which no member can be picked by one number, as this method has to: "
            "reshape them, and the start, to one axis."
        )


class LinearRegression(Problem):
    """`L(W) = 1/2 sum_i ||y_i - W^T X_i||^2` (paper, section 5.1).

    Args:
        X: inputs [..., n, N], one sample a column.
        Y: targets [..., m, N] (or [N] for one output), one sample a column.
    Raises:
        ValueError: not finite, or X and Y disagree on the number of samples N or on their batch axes.
    """

    def __init__(self, X: ArrayLike, Y: ArrayLike) -> None:
        self.X = as_float("X", X, 2)
        targets = as_float("Y", Y, 1)
        self.Y = targets[None, :] if targets.ndim == 1 else targets
        if self.X.shape[-1] != self.Y.shape[-1]:
            raise ValueError(
                f"X has {self.X.shape[-1]} samples and Y has {self.Y.shape[-1]}: both hold one sample a "
                f"column (X [n, N], Y [m, N]), got shapes {self.X.shape} and {self.Y.shape}."
            )
        check_batch(X=self.X.shape[:-2], Y=self.Y.shape[:-2])
        self.shape = (self.X.shape[-2], self.Y.shape[-2])

    def members(self, chosen: np.ndarray) -> LinearRegression:
        _check_one_axis(max(self.X.ndim, self.Y.ndim) - 2)
        parts = (data[chosen] if data.ndim > 2 else data for data in (self.X, self.Y))
        return LinearRegression(*parts)

    def residual(self, weight: Array) -> Array:
        """`r = Y - W^T X`, [..., m, N]."""
        return self.Y - weight.swapaxes(-1, -2) @ self.X

    def loss(self, weight: Array) -> Array:
        return 0.5 * np.sum(self.residual(weight) ** 2, axis=(-1, -2))

    def descent(self, weight: Array) -> Array:
        return self.X @ self.residual(weight).swapaxes(-1, -2)

    @cached_property
    def _range(self) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Left singular vectors of X, its singular values, and which of them are not within rounding of zero."""
        u, s, _ = np.linalg.svd(self.X, full_matrices=False)
        return u, s, s > s.max(axis=-1, keepdims=True) * max(self.X.shape[-2:]) * np.finfo(float).eps

    @cached_property
    def null_projector(self) -> Array:
        """Pi [n, n], the orthogonal projector off the range of X (zero when the inputs span R^n)."""
        u, _, keep = self._range
        u = u * keep[..., None, :]
        return np.eye(self.shape[0]) - u @ u.swapaxes(-1, -2)

    @cached_property
    def minimum_norm_solution(self) -> Array:
        """`(X^T)^+ Y^T` [n, m], the least-squares solution that minimises every unitarily invariant norm."""
        return np.linalg.pinv(self.X.swapaxes(-1, -2)) @ self.Y.swapaxes(-1, -2)

    def distance_to_fits(self, weight: Array) -> Array:
        """Frobenius distance of `weight` [..., n, m] from the nearest least-squares solution, [...].

        That is the Newton step `(X X^T)^+ S`: what is left to go for a flow, in modes of any speed. Singular values of
        X within rounding of zero count as zero.
        """
        u, s, keep = self._range
        inverse = np.divide(1.0, s, out=np.zeros_like(s), where=keep)[..., None] ** 2
        step = inverse * (u.swapaxes(-1, -2) @ self.descent(weight))
        return np.sqrt(np.sum(step**2, axis=(-1, -2)))

    @property
    def is_whitened(self) -> bool:
        """Whether `X X^T = I` to rounding."""
        gram = self.X @ self.X.swapaxes(-1, -2)
        return bool(np.max(np.abs(gram - np.eye(self.shape[0]))) < 1e-12 * self.X.shape[-1])

    def whitened(self) -> LinearRegression:
        """The same targets on inputs `(X X^T)^{-1/2} X`.

        Raises:
            ValueError: X X^T is rank-deficient, so that no whitening exists.
        """
        values, vectors = np.linalg.eigh(self.X @ self.X.swapaxes(-1, -2))
        if np.any(values[..., 0] <= values[..., -1] * self.shape[0] * 1e-13):
            raise ValueError(
                f"X [{self.shape[0]}, {self.X.shape[-1]}] is rank-deficient and cannot be whitened; give at "
                f"least {self.shape[0]} linearly independent samples."
            )
        root = (vectors / np.sqrt(values)[..., None, :]) @ vectors.swapaxes(-1, -2)
        return LinearRegression(root @ self.X, self.Y)


class MatrixSensing(Problem):
    """`L(W) = 1/2 sum_i (y_i - <A_i, W>)^2`.

    Args:
        A: sensing matrices [..., N, n, m].
        y: measurements [..., N].
    Raises:
        ValueError: not finite, or A and y disagree on N or on their batch axes.
    """

    def __init__(self, A: ArrayLike, y: ArrayLike) -> None:
        self.A = as_float("A", A, 3)
        self.y = as_float("y", y, 1)
        if self.A.shape[-3] != self.y.shape[-1]:
            raise ValueError(
                f"A holds {self.A.shape[-3]} sensing matrices and y {self.y.shape[-1]} measurements; they must agree."
            )
        check_batch(A=self.A.shape[:-3], y=self.y.shape[:-1])
        self.shape = (self.A.shape[-2], self.A.shape[-1])
        self._rows = self.A.reshape(*self.A.shape[:-2], -1)

    def members(self, chosen: np.ndarray) -> MatrixSensing:
        _check_one_axis(max(self.A.ndim - 3, self.y.ndim - 1))
        return MatrixSensing(
            self.A[chosen] if self.A.ndim > 3 else self.A, self.y[chosen] if self.y.ndim > 1 else self.y
        )

    def loss(self, weight: Array) -> Array:
        return 0.5 * np.sum(self._residual(weight) ** 2, axis=-1)

    def _residual(self, weight: Array) -> Array:
        flat = weight.reshape(*weight.shape[:-2], -1, 1)
        return self.y - (self._rows @ flat)[..., 0]

    def descent(self, weight: Array) -> Array:
        flat = self._residual(weight)[..., None, :] @ self._rows
        return flat.reshape(weight.shape)


class MatrixCompletion(Problem):
    """`L(W) = 1/2 sum_{(a, b) observed} (y_ab - W_ab)^2`, times `2 / N` if `mean` (the mean squared error).

    Args:
        shape: (n, m) of W.
        rows, columns: observed positions, integers [..., N], no position twice.
        values: observed entries [..., N].
        mean: use the mean squared error, as the public code of Arora et al. (2019) does.
    Raises:
        ValueError: shape is not of two positive whole numbers, positions out of range or repeated, lengths differ, or
            values not finite.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        rows: ArrayLike,
        columns: ArrayLike,
        values: ArrayLike,
        *,
        mean: bool = False,
    ) -> None:
        if np.shape(shape) != (2,):
            raise ValueError(f"shape must be the two sizes (n, m) of W, got {shape}.")
        self.shape = (as_count("shape[0]", shape[0]), as_count("shape[1]", shape[1]))
        self.values = as_float("values", values, 1)
        row, column = as_indices("rows", rows), as_indices("columns", columns)
        if not row.shape == column.shape == self.values.shape:
            raise ValueError(
                f"rows, columns and values must have one shape, got {row.shape}, {column.shape} and "
                f"{self.values.shape}."
            )
        if row.min() < 0 or column.min() < 0 or row.max() >= self.shape[0] or column.max() >= self.shape[1]:
            raise ValueError(f"an observed position lies outside the {self.shape[0]}x{self.shape[1]} matrix.")
        self.positions = row * self.shape[1] + column
        ordered = np.sort(self.positions, axis=-1)
        if np.any(ordered[..., 1:] == ordered[..., :-1]):
            raise ValueError("a position is observed twice; give every observed entry once.")
        self.scale = 2.0 / self.values.shape[-1] if mean else 1.0

    def _with(self, positions: np.ndarray, values: Array) -> Self:
        part = object.__new__(type(self))
        part.shape, part.scale, part.positions, part.values = self.shape, self.scale, positions, values
        return part

    def scaled(self, factor: float) -> Self:
        """The same positions with all observed entries times `factor`."""
        return self._with(self.positions, self.values * factor)

    def members(self, chosen: np.ndarray) -> Self:
        _check_one_axis(self.positions.ndim - 1)
        return self._with(self.positions[chosen], self.values[chosen]) if self.positions.ndim == 2 else self

    def single(self, member: int) -> Self:
        """One problem of the batch, without batch axes."""
        return self._with(self.positions[member], self.values[member])

    def residual(self, weight: Array) -> Array:
        """Observed minus predicted entries, [..., N]."""
        flat = weight.reshape(*weight.shape[:-2], -1)
        if self.positions.ndim == 1:
            return self.values - flat[..., self.positions]
        return self.values - np.take_along_axis(*self._together(flat), axis=-1)

    def _together(self, flat: Array) -> tuple[Array, NDArray[np.int64]]:
        """Flattened weights [..., n m] and the positions [..., N] with the same leading axes."""
        leading = np.broadcast_shapes(flat.shape[:-1], self.positions.shape[:-1])
        positions = np.broadcast_to(self.positions, (*leading, self.positions.shape[-1]))
        return np.broadcast_to(flat, (*leading, flat.shape[-1])), positions

    def loss(self, weight: Array) -> Array:
        return (0.5 * self.scale) * np.sum(self.residual(weight) ** 2, axis=-1)

    def descent(self, weight: Array) -> Array:
        residual = self.scale * self.residual(weight)
        leading = residual.shape[:-1]
        flat = np.zeros((*leading, self.shape[0] * self.shape[1]))
        if self.positions.ndim == 1:
            flat[..., self.positions] = residual
        else:
            np.put_along_axis(flat, self._together(flat)[1], residual, axis=-1)
        return flat.reshape(*leading, *self.shape)


class SeparableClassification(Problem):
    """Binary classification by `sign(w^T x)`: `L(w) = sum_i l(y_i w^T x_i)`, w [n, 1].

    Args:
        X: inputs [n, N], one sample a column.
        labels: +1 or -1, [N].
        loss: "exponential" `l(z) = e^{-z}` or "logistic" `l(z) = log(1 + e^{-z})`.
    Raises:
        ValueError: labels are not +-1, shapes differ, or no hyperplane through the origin separates the data by a
            margin that `theory.separability` can see.
    """

    attained = False

    def __init__(self, X: ArrayLike, labels: ArrayLike, loss: str = "exponential") -> None:
        self.X = as_float("X", X, 2)
        if self.X.ndim != 2:
            raise ValueError(f"X must be one matrix [n, N], one sample a column, got shape {self.X.shape}.")
        self.labels = as_float("labels", labels, 1)
        if self.labels.shape != (self.X.shape[-1],):
            raise ValueError(f"X has {self.X.shape[-1]} samples but labels has shape {self.labels.shape}.")
        if not np.all(np.abs(self.labels) == 1):
            raise ValueError("labels must all be +1 or -1.")
        if loss not in ("exponential", "logistic"):
            raise ValueError(f'loss must be "exponential" or "logistic", got {loss!r}.')
        self.kind = loss
        self.signed = self.X * self.labels
        self.shape = (self.X.shape[0], 1)
        check_separable(self.signed)

    def margins(self, weight: Array) -> Array:
        """`y_i w^T x_i`, [..., N], for `weight` [..., n, 1]."""
        return weight[..., 0] @ self.signed

    def log_loss(self, weight: Array) -> Array:
        """`log L(w)`, finite even where `L` itself underflows."""
        return np.logaddexp.reduce(self._log_terms(self.margins(weight)), axis=-1)

    def _log_terms(self, margins: Array) -> Array:
        if self.kind == "exponential":
            return -margins
        # log(log(1 + e^{-z})); for z > 36 the inner log equals e^{-z} to rounding, so the outer is -z.
        return np.where(margins > 36, -margins, np.log(np.logaddexp(0, -np.minimum(margins, 36))))

    def loss(self, weight: Array) -> Array:
        return np.exp(self.log_loss(weight))

    def log_descent(self, weight: Array) -> Array:
        """`-grad log L(w)`, [..., n, 1]."""
        margins = self.margins(weight)
        slope = -margins if self.kind == "exponential" else -np.logaddexp(0, margins)
        share = np.exp(slope - self.log_loss(weight)[..., None])
        return (share @ self.signed.T)[..., None]

    def descent(self, weight: Array) -> Array:
        return self.log_descent(weight) * self.loss(weight)[..., None, None]


class RescaledByLoss(Problem):
    """`log L` of a classification problem: its gradient flow is that of `L` with time rescaled by `1/L`.

    The path is the same. Margins that the flow of W itself reaches in time `e^T` it then reaches in time of order `T`;
    factors, which grow with their margins, reach them sooner still.
    """

    attained = False

    def __init__(self, problem: SeparableClassification) -> None:
        self.problem = problem
        self.shape = problem.shape

    def loss(self, weight: Array) -> Array:
        return self.problem.log_loss(weight)

    def descent(self, weight: Array) -> Array:
        return self.problem.log_descent(weight)


def random_completion(
    size: int, rank: int, observed: int, seeds: list[int], *, mean: bool = False
) -> tuple[MatrixCompletion, Array]:
    """Completion problems in the style of Arora et al. (2019), one a seed, and their targets [B, size, size].

    The target is a product of Gaussian factors scaled to Frobenius norm `size` (entries of unit mean square);
    `observed` positions are drawn without replacement.
    """
    targets, rows, columns, values = [], [], [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        target = rng.standard_normal((size, rank)) @ rng.standard_normal((rank, size))
        target *= size / np.linalg.norm(target)
        chosen = np.sort(rng.choice(size * size, observed, replace=False))
        targets.append(target)
        rows.append(chosen // size)
        columns.append(chosen % size)
        values.append(target.reshape(-1)[chosen])
    problem = MatrixCompletion((size, size), np.stack(rows), np.stack(columns), np.stack(values), mean=mean)
    return problem, np.stack(targets)
