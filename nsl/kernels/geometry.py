"""Where a convolution reads and writes: sizes of output maps, and what each tap of a kernel sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def output_size(
    size: tuple[int, int],
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """Height and width of a convolution's output map, as `torch.nn.Conv2d` defines them."""
    height, width = (
        (size[i] + 2 * padding[i] - dilation[i] * (kernel_size[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    return height, width


def fitting_size(
    input: Tensor,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """`output_size` for maps [.., H, W].

    Raises:
        ValueError: they are smaller than the kernel. Not while exporting and tracing, where sizes are symbols, which a
            comparison would pin down.
    """
    size = (input.shape[-2], input.shape[-1])
    out = output_size(size, kernel_size, stride, padding, dilation)
    if isinstance(input, Tensor) and not torch.compiler.is_exporting() and min(out) < 1:
        raise ValueError(
            f"input of {size[0]}x{size[1]} is smaller than the kernel {kernel_size} with dilation {dilation} and "
            f"padding {padding}"
        )
    return out


def tap_slices(
    kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int], out: Sequence[int]
) -> list[tuple[slice, slice]]:
    """For each of the K taps, row by row, the rows and columns of the padded input that it reads for an output map of
    height and width `out`."""

    def along(axis: int) -> list[slice]:
        step, extent = stride[axis], (out[axis] - 1) * stride[axis] + 1
        starts = [tap * dilation[axis] for tap in range(kernel_size[axis])]
        return [slice(start, start + extent, step) for start in starts]

    down, across = along(0), along(1)
    return [(rows, columns) for rows in down for columns in across]
