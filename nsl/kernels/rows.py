"""Triton kernels of the hyperspherical predictor: everything between its convolutions, each map read once a pass.

Rows are positions, x [rows, C]; e, s and their slopes are float32, one number a row.

    energy      e = sum_c x^2
    windows     inverse[p] = (sum_k e[p+o(k)] + epsilon)^(-1/2), the inverse norms of the patches
    scale       y = f(x s), f being the identity, ReLU or a clamp to [-1, 1]; and, where asked for, y's energy
    unit        every row of a matrix divided by sqrt(sum of its squares + epsilon)

and their gradients. Rows may be longer in x than in y, and `unit` may append rows of zeros: a convolution of 9 filters
then is one of 16, which suits the tensor cores, at no cost here.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nsl.kernels.taps import rows_read, rows_reading, tile


@triton.jit
def energy(x, e, rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """ROWS entries of e."""
    q = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = q < rows
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, channels, CHANNELS):
        values = tile(x, q.to(tl.int64), live, start + tl.arange(0, CHANNELS), channels).to(tl.float32)
        total += tl.sum(values * values, 1)
    tl.store(e + q, total, mask=live)


@triton.jit
def energy_gradient(de, x, dx, rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """ROWS rows of dx = 2 x de."""
    q = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = q < rows
    own = q.to(tl.int64)
    slope = 2.0 * tl.load(de + q, mask=live, other=0.0)
    for start in range(0, channels, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        values = slope[:, None] * tile(x, own, live, c, channels).to(tl.float32)
        inside = live[:, None] & (c < channels)[None, :]
        tl.store(dx + own[:, None] * channels + c[None, :], values.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def windows(e, inverse, positions, epsilon, maps, window: tl.constexpr, ROWS: tl.constexpr):
    """ROWS entries of inverse."""
    p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = p < positions
    total = tl.zeros((ROWS,), tl.float32)
    for k in range(window.kernel_h * window.kernel_w):
        q, ok = rows_read(p, live, k, maps, window)
        total += tl.load(e + q, mask=ok, other=0.0)
    tl.store(inverse + p, 1.0 / tl.sqrt(total + epsilon), mask=live)


@triton.jit
def windows_gradient(slope, inverse, de, places, maps, window: tl.constexpr, ROWS: tl.constexpr):
    """ROWS entries of de[q] = sum_k (-slope inverse^3 / 2)[p(q,k)]."""
    q = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = q < places
    total = tl.zeros((ROWS,), tl.float32)
    for k in range(window.kernel_h * window.kernel_w):
        p, ok = rows_reading(q, live, k, maps, window)
        factor = tl.load(inverse + p, mask=ok, other=0.0)
        total += tl.load(slope + p, mask=ok, other=0.0) * (factor * factor * factor)
    tl.store(de + q, -0.5 * total, mask=live)


@triton.jit
def _activated(value, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        return tl.where(value > 0, value, tl.where(value != value, value, 0.0))  # as PyTorch's: NaN stays
    if ACTIVATION == "clamp":
        return tl.where(value > 1, 1.0, tl.where(value < -1, -1.0, value))
    return value


@triton.jit
def scale(
    x, s, y, e, rows, channels, columns,
    ACTIVATION: tl.constexpr, ENERGY: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """ROWS rows of y and entries of e; the first `columns` of the `channels` of x."""
    q = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = q < rows
    own = q.to(tl.int64)
    factor = tl.load(s + q, mask=live, other=0.0)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, columns, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        value = factor[:, None] * tile(x, own, live, c, channels).to(tl.float32)
        result = _activated(value, ACTIVATION).to(y.dtype.element_ty)
        inside = live[:, None] & (c < columns)[None, :]
        if ENERGY:  # of what is stored, rounded as it is
            kept = tl.where(inside, result.to(tl.float32), 0.0)
            total += tl.sum(kept * kept, 1)
        tl.store(y + own[:, None] * columns + c[None, :], result, mask=inside)
    if ENERGY:
        tl.store(e + q, total, mask=live)


@triton.jit
def scale_gradient(
    dy, de, x, s, dx, ds, rows, channels, columns,
    ACTIVATION: tl.constexpr, ENERGY: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """ROWS rows of dx, zero from `columns` on, and entries of ds."""
    q = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = q < rows
    own = q.to(tl.int64)
    factor = tl.load(s + q, mask=live, other=0.0)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, channels, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        here = tile(x, own, live, c, channels).to(tl.float32)
        value = factor[:, None] * here
        inside = live[:, None] & (c < columns)[None, :]
        slope = tl.load(dy + own[:, None] * columns + c[None, :], mask=inside, other=0.0).to(tl.float32)
        if ENERGY:
            kept = _activated(value, ACTIVATION).to(dy.dtype.element_ty).to(tl.float32)
            slope += tl.where(inside, 2.0 * kept * tl.load(de + q, mask=live, other=0.0)[:, None], 0.0)
        if ACTIVATION == "relu":
            slope = tl.where(value > 0, slope, 0.0)
        if ACTIVATION == "clamp":
            slope = tl.where((value >= -1) & (value <= 1), slope, 0.0)
        total += tl.sum(slope * here, 1)
        whole = live[:, None] & (c < channels)[None, :]
        result = (slope * factor[:, None]).to(dx.dtype.element_ty)
        tl.store(dx + own[:, None] * channels + c[None, :], result, mask=whole)
    tl.store(ds + q, total, mask=live)


@triton.jit
def unit(w, y, rows, length, epsilon, CHANNELS: tl.constexpr):
    """One row of y: w's divided by its norm, or zeros where w has no such row."""
    row = tl.program_id(0)
    squares = tl.zeros((CHANNELS,), tl.float32)
    for start in range(0, length, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        value = tl.load(w + row * length + c, mask=(c < length) & (row < rows), other=0.0).to(tl.float32)
        squares += value * value
    inverse = 1.0 / tl.sqrt(tl.sum(squares, 0) + epsilon)
    for start in range(0, length, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        value = tl.load(w + row * length + c, mask=(c < length) & (row < rows), other=0.0).to(tl.float32)
        tl.store(y + row * length + c, (value * inverse).to(y.dtype.element_ty), mask=c < length)


@triton.jit
def unit_gradient(dy, w, dw, length, epsilon, CHANNELS: tl.constexpr):
    """One row of dw = dy / n - w <dy, w> / n^3."""
    row = tl.program_id(0)
    squares = tl.zeros((CHANNELS,), tl.float32)
    products = tl.zeros((CHANNELS,), tl.float32)
    for start in range(0, length, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        value = tl.load(w + row * length + c, mask=c < length, other=0.0).to(tl.float32)
        squares += value * value
        products += value * tl.load(dy + row * length + c, mask=c < length, other=0.0).to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(squares, 0) + epsilon)
    along = tl.sum(products, 0) * inverse * inverse
    for start in range(0, length, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        value = tl.load(w + row * length + c, mask=c < length, other=0.0).to(tl.float32)
        slope = tl.load(dy + row * length + c, mask=c < length, other=0.0).to(tl.float32)
        tl.store(dw + row * length + c, ((slope - value * along) * inverse).to(dw.dtype.element_ty), mask=c < length)
