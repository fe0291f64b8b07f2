"""How large a program's tiles are, by channels, filters and the bytes of an element: a table, not a search.

A search on the card would make the order of sums, and so the last bits of a result, depend on a measurement. The table
is chosen by building for sm_90 and sm_80 (`tests/nsl/test_gpu_builds.py`): shared memory within the 99 KiB that the
smallest cards from compute capability 8.0 on have, and for sm_90 with tensor cores no spilled registers at 32, 64 and
128 channels. IEEE float32 has no tensor cores and spills up to 48 bytes a thread, 1.6 KB in the unconstrained
similarity's slopes at 128 filters. Nothing here has been tuned by timing yet.
"""

from __future__ import annotations

from typing import NamedTuple

#: Programs that the positions are split among for a weight's gradient, about four a multiprocessor of an H100. A
#: constant and not read off the card, so that a result does not depend on the card's size.
WEIGHT_PROGRAMS = 512


class Tile(NamedTuple):
    """One program: rows (positions), channels, filters; its warps and the stages of its pipeline."""

    rows: int
    channels: int
    filters: int
    warps: int = 4
    stages: int = 3


def _power(value: int, most: int) -> int:
    """The smallest power of two from 16 (least side of a tensor core's tile) to `most` that holds `value`."""
    return min(most, max(16, 1 << (value - 1).bit_length()))


def _summed(value: int, element: int) -> int:
    """Side of the axis that a product sums over: at most one line of 128 bytes."""
    return _power(value, 128 // element)


def diagonal_forward(channels: int, filters: int, element: int) -> Tile:
    return Tile(128, _summed(channels, element), _power(filters, 64))


def diagonal_inputs(channels: int, filters: int, element: int) -> Tile:
    wide = _power(channels, 128)
    return Tile(64 if wide > 64 else 128, wide, _summed(filters, element), 4 if wide <= 32 else 8, 2)


def diagonal_weight(channels: int, filters: int, element: int) -> Tile:
    return Tile(128 // element, _power(channels, 64), _power(filters, 64))


def unconstrained_forward(channels: int, filters: int, element: int) -> Tile:
    # Rows that are not aligned spill 440 bytes with 32 channels. Half of them never does, for sm_80 at any number, but
    # has no loads of 128 bits where rows are aligned.
    aligned = channels * element % 16 == 0
    return Tile(64, _power(channels, 32 if aligned or element == 4 else 16), _power(filters, 64), 8, 1)


def unconstrained_slopes(channels: int, filters: int, element: int) -> Tile:
    rows, warps = (16, 4) if element == 4 else (64, 8)
    return Tile(rows, _power(channels, 32), _summed(filters, element), warps, 1)


def unconstrained_weight(channels: int, filters: int, element: int) -> Tile:
    return Tile(32, _power(channels, 32 if element == 4 else 64), _power(filters, 64), 4, 2)


def rows_of_channels(channels: int) -> Tile:
    """For kernels that go through rows and multiply nothing."""
    return Tile(64, _power(channels, 64), 16, 4, 1)


def rows_alone() -> Tile:
    """For kernels of one number a row."""
    return Tile(256, 16, 16, 4, 1)


def whole_row() -> Tile:
    """For kernels that go along one row a program."""
    return Tile(1, 1024, 16, 4, 1)


def stretch(positions: int, programs: int, rows: int) -> int:
    """Positions of one split of a weight's gradient, a multiple of `rows`, where a split is `programs` programs."""
    splits = max(1, min(WEIGHT_PROGRAMS // programs, -(-positions // (4 * rows))))
    return -(-positions // (splits * rows)) * rows
