"""What both kinds of kernels share: the sizes, which rows a tap reads, and the product of two tiles.

A tensor of a map is read as rows of channels: position p = (n Ho + h) Wo + w of the output, q = (n H + h) W + w of the
input. Where a tap of p lies in the padding there is no q, and the tile has zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class Maps(NamedTuple):
    """Sizes that a kernel takes as numbers."""

    height: int
    width: int
    channels: int
    filters: int
    out_height: int
    out_width: int


class Window(NamedTuple):
    """Kernel size, stride, padding and dilation, which a kernel is compiled for."""

    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    padding_h: int
    padding_w: int
    dilation_h: int
    dilation_w: int


@triton.jit
def touch(x):
    """Write one number: what tells whether kernels can be built and launched."""
    tl.store(x, 1.0)


@triton.jit
def product(a, b, total, PRODUCTS: tl.constexpr):
    """total + a b, added up in float32.

    PRODUCTS is "ieee" or "tf32" (which float32 operands ask for), or "interpreted": Triton's interpreter takes
    bfloat16's bits for integers, so that it is given float32. A product of two bfloat16 is exact there.
    """
    if PRODUCTS == "interpreted":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    return tl.dot(a, b, total, input_precision=PRODUCTS)


@triton.jit
def rows_read(p, live, k, maps, window: tl.constexpr):
    """The rows of the input that tap k of the output positions p reads, and whether there is one."""
    image = p // (maps.out_height * maps.out_width)
    place = p % (maps.out_height * maps.out_width)
    h = place // maps.out_width * window.stride_h - window.padding_h + k // window.kernel_w * window.dilation_h
    w = place % maps.out_width * window.stride_w - window.padding_w + k % window.kernel_w * window.dilation_w
    inside = live & (h >= 0) & (h < maps.height) & (w >= 0) & (w < maps.width)
    return ((image * maps.height + h) * maps.width + w).to(tl.int64), inside


@triton.jit
def rows_reading(q, live, k, maps, window: tl.constexpr):
    """The output position whose tap k reads row q of the input, and whether there is one; there are no two."""
    image = q // (maps.height * maps.width)
    place = q % (maps.height * maps.width)
    h = place // maps.width + window.padding_h - k // window.kernel_w * window.dilation_h
    w = place % maps.width + window.padding_w - k % window.kernel_w * window.dilation_w
    up, left = h // window.stride_h, w // window.stride_w
    inside = live & (h >= 0) & (w >= 0) & (up * window.stride_h == h) & (left * window.stride_w == w)
    inside = inside & (up < maps.out_height) & (left < maps.out_width)
    return ((image * maps.out_height + up) * maps.out_width + left).to(tl.int64), inside


@triton.jit
def tile(pointer, rows, rows_ok, columns, width):
    """Elements [rows, columns] of a matrix whose rows are `width` long, zeros outside."""
    inside = rows_ok[:, None] & (columns < width)[None, :]
    return tl.load(pointer + rows[:, None] * width + columns[None, :], mask=inside, other=0.0)
