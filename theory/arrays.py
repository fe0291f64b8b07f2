"""Arrays as this package takes them in: real, finite, of the stated number of axes, and never the caller's own."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]


def as_float(name: str, value: ArrayLike, ndim: int) -> Array:
    """A float64 copy of `value` with at least `ndim` axes.

    Raises:
        ValueError: not real numbers, too few axes, empty, or not finite; the sentence names `name`.
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of real numbers: {error}.") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be an array of real numbers, got entries of type {array.dtype}.")
    array = array.astype(np.float64)
    if array.ndim < ndim:
        raise ValueError(f"{name} must have at least {ndim} axes, got shape {array.shape}.")
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}); give at least one number.")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} holds NaN or infinite entries; remove or replace them.")
    return array


def as_indices(name: str, value: ArrayLike) -> NDArray[np.int64]:
    """A copy of `value` as whole numbers.

    Raises:
        ValueError: the entries are not of an integer type (1.7 would silently become 1).
    """
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.size == 0:
        raise ValueError(f"{name} must be a non-empty array of integers, got {array.size} entries of {array.dtype}.")
    return array.astype(np.int64)


def as_count(name: str, value: Any, lowest: int = 1) -> int:
    """`value` as an int of at least `lowest`.

    Raises:
        ValueError: it is of no integer type (10.0 neither), or smaller.
    """
    try:
        count = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number (an int), got {value!r}.") from None
    if count < lowest:
        raise ValueError(f"{name} must be a whole number of at least {lowest}, got {count}.")
    return count


def check_batch(**axes: tuple[int, ...]) -> None:
    """Whether data with these batch axes, by name, belong together: equal, or none, which all members then share.

    Raises:
        ValueError: not.
    """
    if len({batch for batch in axes.values() if batch}) > 1:
        told = " and ".join(f"{name} {batch}" for name, batch in axes.items())
        raise ValueError(f"batch axes must be equal or left out, got {told}.")


def transpose(matrix: Array) -> Array:
    """The last two axes exchanged."""
    return matrix.swapaxes(-1, -2)
