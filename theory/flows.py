"""Parametrisations of the effective weight `W` and the gradient flow that each induces (paper, equation (6)).

With `S = -grad L(W)`, gradient flow on the parameters `theta` of `W(theta)` is `theta' = (dW/dtheta)^* S`.
A state is one flat float64 vector [..., D] of all parameters; leading axes are batch axes.
"""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from theory.arrays import Array, as_float
from theory.arrays import transpose as _t


class Parametrisation(ABC):
    """How `W` [n, m] is made of parameters, with the initial value of the parameters.

    Attributes:
        block_shapes: the shape of every parameter block, in the order in which they lie in the state.
        shape: (n, m) of W.
        initial: the initial state [..., D].
        degree: the number of blocks that are multiplied to make W, so that W is homogeneous of this degree.
    """

    block_names: tuple[str, ...]
    degree: int = 2

    def __init__(self, blocks: list[Array], shape: tuple[int, int]) -> None:
        self.block_shapes = tuple(block.shape[-2:] for block in blocks)
        self.shape = shape
        self.initial = self.pack(*blocks)

    def started(self, state: ArrayLike) -> Self:
        """The same parametrisation from another initial state [..., D]; this object is not changed.

        Raises:
            ValueError: the state has another number of parameters.
        """
        start = as_float("state", state, 1)
        if start.shape[-1] != self.initial.shape[-1]:
            raise ValueError(f"state must have {self.initial.shape[-1]} entries, got shape {start.shape}.")
        twin = copy.copy(self)
        twin.initial = start
        return twin

    @staticmethod
    def pack(*blocks: Array) -> Array:
        """Blocks [..., a, b] as one state [..., D]; batch axes broadcast."""
        batch = np.broadcast_shapes(*(block.shape[:-2] for block in blocks))
        flat = [np.broadcast_to(b, batch + b.shape[-2:]).reshape(*batch, -1) for b in blocks]
        return np.concatenate(flat, axis=-1)

    def blocks(self, state: Array) -> tuple[Array, ...]:
        """The parameter blocks of `state` [..., D] as views [..., a, b]."""
        views, start = [], 0
        for rows, columns in self.block_shapes:
            size = rows * columns
            views.append(state[..., start : start + size].reshape(*state.shape[:-1], rows, columns))
            start += size
        return tuple(views)

    @abstractmethod
    def weight(self, state: Array) -> Array:
        """The effective weight W [..., n, m] of `state` [..., D]."""

    @abstractmethod
    def velocity(self, state: Array, descent: Array) -> Array:
        """d(state)/dt [..., D] under gradient flow, given `descent` = S [..., n, m]."""

    @abstractmethod
    def weight_velocity(self, state: Array, descent: Array) -> Array:
        """dW/dt [..., n, m]: the right-hand side of the flow of W, written in the parameters."""

    def penalty(self, state: Array) -> Array:
        """What the objective adds to the loss, [...]: zero but for weight decay."""
        return np.zeros(state.shape[:-1])

    def invariants(self, state: Array) -> dict[str, Array]:
        """Quantities which every gradient flow of this parametrisation conserves, whatever the loss."""
        return {}


class Standard(Parametrisation):
    """`W` itself: dW/dt = S. `W0` [..., n, m]."""

    block_names = ("W",)
    degree = 1

    def __init__(self, W0: ArrayLike) -> None:
        start = as_float("W0", W0, 2)
        super().__init__([start], start.shape[-2:])

    def weight(self, state: Array) -> Array:
        return self.blocks(state)[0]

    def velocity(self, state: Array, descent: Array) -> Array:
        return self.pack(descent)

    def weight_velocity(self, state: Array, descent: Array) -> Array:
        return descent


class Factorised(Parametrisation):
    """Static NSL: `W = M^T W'`, with unconstrained M (paper, equation (6)).

        dW'/dt = M S,    dM/dt = W' S^T,    dW/dt = M^T M S + S W'^T W'.

    Args:
        W_prime0: [..., n, m].
        M0: [..., n, n].
    """

    block_names = ("W'", "M")

    def __init__(self, W_prime0: ArrayLike, M0: ArrayLike) -> None:
        kernel, similarity = as_float("W_prime0", W_prime0, 2), as_float("M0", M0, 2)
        n = kernel.shape[-2]
        if similarity.shape[-2:] != (n, n):
            raise ValueError(f"M0 must be [{n}, {n}] to multiply W_prime0 {kernel.shape}, got {similarity.shape}.")
        super().__init__([kernel, similarity], (n, kernel.shape[-1]))

    def weight(self, state: Array) -> Array:
        kernel, similarity = self.blocks(state)
        return _t(similarity) @ kernel

    def velocity(self, state: Array, descent: Array) -> Array:
        kernel, similarity = self.blocks(state)
        return self.pack(similarity @ descent, kernel @ _t(descent))

    def weight_velocity(self, state: Array, descent: Array) -> Array:
        kernel, similarity = self.blocks(state)
        return _t(similarity) @ similarity @ descent + descent @ _t(kernel) @ kernel

    def other_order(self, state: Array, descent: Array) -> Array:
        """The right-hand side with `M M^T` in place of `M^T M`: not the flow (claim 1 shows by how much)."""
        kernel, similarity = self.blocks(state)
        return similarity @ _t(similarity) @ descent + descent @ _t(kernel) @ kernel

    def invariants(self, state: Array) -> dict[str, Array]:
        kernel, similarity = self.blocks(state)
        return {"W'W'^T - M M^T": kernel @ _t(kernel) - similarity @ _t(similarity)}


class DiagonalSimilarity(Parametrisation):
    """DNS: `W = diag(mu) W'`; dW'/dt = diag(mu) S, dmu_a/dt = sum_b W'_ab S_ab.

    Args:
        W_prime0: [..., n, m].
        mu0: the diagonal of M, [..., n].
    """

    block_names = ("W'", "mu")

    def __init__(self, W_prime0: ArrayLike, mu0: ArrayLike) -> None:
        kernel, mask = as_float("W_prime0", W_prime0, 2), as_float("mu0", mu0, 1)
        if mask.shape[-1] != kernel.shape[-2]:
            raise ValueError(f"mu0 must have {kernel.shape[-2]} entries, one a row of W_prime0, got {mask.shape}.")
        if mask.shape[:-1] != kernel.shape[:-2]:
            raise ValueError(
                f"mu0 {mask.shape} must be the diagonal of M alone, with the batch axes of W_prime0 {kernel.shape}; "
                "of a matrix M, give np.diagonal(M)."
            )
        super().__init__([kernel, mask[..., None]], kernel.shape[-2:])

    def weight(self, state: Array) -> Array:
        kernel, mask = self.blocks(state)
        return mask * kernel

    def velocity(self, state: Array, descent: Array) -> Array:
        kernel, mask = self.blocks(state)
        return self.pack(mask * descent, np.sum(kernel * descent, axis=-1, keepdims=True))

    def weight_velocity(self, state: Array, descent: Array) -> Array:
        kernel, mask = self.blocks(state)
        return mask**2 * descent + kernel * np.sum(kernel * descent, axis=-1, keepdims=True)

    def invariants(self, state: Array) -> dict[str, Array]:
        kernel, mask = self.blocks(state)
        return {"w'^2 - mu^2": np.sum(kernel**2, axis=-1) - mask[..., 0] ** 2}


class Tied(Parametrisation):
    """Symmetric positive semidefinite `W = U^T U` (tied factors): dU/dt = U (S + S^T). `U0` [..., k, n]."""

    block_names = ("U",)

    def __init__(self, U0: ArrayLike) -> None:
        factor = as_float("U0", U0, 2)
        super().__init__([factor], (factor.shape[-1], factor.shape[-1]))

    def weight(self, state: Array) -> Array:
        factor = self.blocks(state)[0]
        return _t(factor) @ factor

    def velocity(self, state: Array, descent: Array) -> Array:
        return self.pack(self.blocks(state)[0] @ (descent + _t(descent)))

    def weight_velocity(self, state: Array, descent: Array) -> Array:
        weight, both = self.weight(state), descent + _t(descent)
        return both @ weight + weight @ both


class Product(Parametrisation):
    """Deep linear network: `W = F_1 F_2 ... F_N`; dF_j/dt = (F_1..F_{j-1})^T S (F_{j+1}..F_N)^T.

    Conserved: `F_j^T F_j - F_{j+1} F_{j+1}^T` for every j (Arora, Cohen and Hazan 2018). Depth 2 with a
    square F_1 is `Factorised` with M = F_1^T.

    Args:
        factors: matrices [..., a_j, a_{j+1}].
    """

    def __init__(self, factors: list[ArrayLike]) -> None:
        if len(factors) < 1:
            raise ValueError("factors must hold at least one matrix.")
        checked = [as_float(f"factors[{j}]", factor, 2) for j, factor in enumerate(factors)]
        for j, (left, right) in enumerate(itertools.pairwise(checked)):
            if left.shape[-1] != right.shape[-2]:
                raise ValueError(f"factors[{j}] {left.shape} and factors[{j + 1}] {right.shape} cannot be multiplied.")
        self.block_names = tuple(f"F{j + 1}" for j in range(len(checked)))
        self.degree = len(checked)
        super().__init__(checked, (checked[0].shape[-2], checked[-1].shape[-1]))

    def weight(self, state: Array) -> Array:
        blocks = self.blocks(state)
        product = blocks[0]
        for block in blocks[1:]:
            product = product @ block
        return product

    def velocity(self, state: Array, descent: Array) -> Array:
        blocks = self.blocks(state)
        out = np.empty(np.broadcast_shapes(state.shape[:-1], descent.shape[:-2]) + state.shape[-1:])
        slots = self.blocks(out)
        # left[j] = (F_1 .. F_j)^T S; then the velocity of F_{j+1} is left[j] (F_{j+2} .. F_N)^T.
        left = [descent]
        for block in blocks[:-1]:
            left.append(_t(block) @ left[-1])
        slots[-1][...] = left[-1]
        suffix: Array | None = None
        for j in range(len(blocks) - 2, -1, -1):
            suffix = blocks[j + 1] if suffix is None else blocks[j + 1] @ suffix
            slots[j][...] = left[j] @ _t(suffix)
        return out

    def weight_velocity(self, state: Array, descent: Array) -> Array:
        velocity = self.blocks(self.velocity(state, descent))
        blocks = self.blocks(state)
        total = np.zeros(descent.shape)
        for j in range(len(blocks)):
            term = velocity[j]
            for block in reversed(blocks[:j]):
                term = block @ term
            for block in blocks[j + 1 :]:
                term = term @ block
            total = total + term
        return total

    def invariants(self, state: Array) -> dict[str, Array]:
        blocks = self.blocks(state)
        return {
            f"F{j + 1}^T F{j + 1} - F{j + 2} F{j + 2}^T": _t(a) @ a - b @ _t(b)
            for j, (a, b) in enumerate(itertools.pairwise(blocks))
        }


class Decayed(Parametrisation):
    """Another parametrisation with l2 weight decay: the objective is `L + 1/2 sum_j rates_j ||block_j||^2`.

    Args:
        inner: the parametrisation, which may be decayed itself. rates: decay of each of its blocks, at least 0.
    Raises:
        ValueError: not one finite rate of at least 0 for every block.
    """

    def __init__(self, inner: Parametrisation, rates: Sequence[float]) -> None:
        if len(rates) != len(inner.block_shapes) or not all(0 <= rate < np.inf for rate in rates):
            raise ValueError(
                f"rates must be {len(inner.block_shapes)} finite numbers of at least 0, got {list(rates)}."
            )
        self.inner, self.rates = inner, tuple(float(rate) for rate in rates)
        self.block_names, self.degree = inner.block_names, inner.degree
        self.block_shapes, self.shape, self.initial = inner.block_shapes, inner.shape, inner.initial
        sizes = [rows * columns for rows, columns in self.block_shapes]
        self._decay = np.repeat(self.rates, sizes)

    def weight(self, state: Array) -> Array:
        return self.inner.weight(state)

    def velocity(self, state: Array, descent: Array) -> Array:
        return self.inner.velocity(state, descent) - self._decay * state

    def weight_velocity(self, state: Array, descent: Array) -> Array:
        # W is linear in every factor; a tied factor counts twice.
        times = self.degree / len(self.rates)
        return self.inner.weight_velocity(state, descent) - sum(self.rates) * times * self.weight(state)

    def penalty(self, state: Array) -> Array:
        return self.inner.penalty(state) + 0.5 * np.sum(self._decay * state**2, axis=-1)

    def invariants(self, state: Array) -> dict[str, Array]:
        """Those of the inner parametrisation where no rate is above 0. Decay conserves nothing: equal rates r let every
        difference of Gram matrices die away like `e^{-2 r t}`."""
        return {} if any(self.rates) else self.inner.invariants(state)


def balanced_factors(weight: ArrayLike, depth: int) -> list[Array]:
    """`depth` factors [n, n] whose product is `weight` [n, n], with `F_j^T F_j = F_{j+1} F_{j+1}^T`."""
    matrix = as_float("weight", weight, 2)
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}.")
    if depth == 1:
        return [matrix]
    if matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"balanced factors are made for square weights, got {matrix.shape}.")
    u, s, vt = np.linalg.svd(matrix)
    root = s ** (1.0 / depth)
    middle = root[..., None] * np.eye(s.shape[-1])
    return [u * root[..., None, :], *([middle] * (depth - 2)), root[..., :, None] * vt]


def lambda_balanced(weight: ArrayLike, lam: float, rng: np.random.Generator) -> Factorised:
    """`(W', M)` with `M^T W' = weight` and `W'W'^T - M M^T = lam I`.

    From the SVD `weight = U diag(sigma) V^T`: `M = O diag(a) U^T`, `W' = O diag(b) V^T` with a random
    orthogonal O, `a b = sigma` and `b^2 - a^2 = lam`.

    Args:
        weight: one matrix [n, m]. `lam > 0` needs m >= n, because W'W'^T = lam I + M M^T then has rank n.
    Raises:
        ValueError: weight has batch axes, lam is not finite, or the shape admits no such pair.
    """
    matrix = as_float("weight", weight, 2)
    if matrix.ndim != 2:
        raise ValueError(f"weight must be one matrix [n, m], got shape {matrix.shape}; make the pairs one by one.")
    if not np.isfinite(lam):
        raise ValueError(f"lam must be a finite number, got {lam}.")
    n, m = matrix.shape
    if lam > 0 and m < n:
        raise ValueError(f"lambda > 0 needs at least as many outputs as inputs (W'W'^T has full rank), got {n}x{m}.")
    u, s, vt = np.linalg.svd(matrix)
    sigma = np.zeros(n)
    sigma[: len(s)] = s
    # The larger root first and the other from their product: as a difference it would lose the digits of small sigma.
    larger = np.sqrt(abs(lam) / 2 + np.hypot(lam / 2, sigma))
    smaller = np.divide(sigma, larger, out=np.zeros(n), where=larger > 0)
    b, a = (larger, smaller) if lam >= 0 else (smaller, larger)
    turn = np.linalg.qr(rng.standard_normal((n, n)))[0]
    count = min(n, m)
    kernel = (turn[:, :count] * b[:count]) @ vt[:count]
    return Factorised(kernel, (turn * a) @ u.T)
