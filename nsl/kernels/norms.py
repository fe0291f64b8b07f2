"""Triton kernels of the patch norm, sqrt(sum of the squares that a window sees + epsilon), and of its gradient.

x [B, H, W, C], norm and its slope [B, Ho, Wo] float32. The channels are summed first, so that the input is read once:

    energy      e[q] = sum_c x[q,c]^2                         float32
    window      norm[p] = sqrt(sum_k e[p+o(k)] + epsilon)
    gradient    dx[q,c] = x[q,c] sum_k (slope / norm)[p(q,k)], p(q,k) being the output position whose tap k reads q
"""

from __future__ import annotations

import triton
import triton.language as tl

from nsl.kernels.taps import rows_read, rows_reading, tile


@triton.jit
def energy(x, e, places, maps, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """ROWS entries of e."""
    q = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = q < places
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, maps.channels, CHANNELS):
        values = tile(x, q.to(tl.int64), live, start + tl.arange(0, CHANNELS), maps.channels).to(tl.float32)
        total += tl.sum(values * values, 1)
    tl.store(e + q, total, mask=live)


@triton.jit
def window_norm(e, norm, positions, epsilon, maps, window: tl.constexpr, ROWS: tl.constexpr):
    """ROWS entries of norm."""
    p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = p < positions
    total = tl.zeros((ROWS,), tl.float32)
    for k in range(window.kernel_h * window.kernel_w):
        q, ok = rows_read(p, live, k, maps, window)
        total += tl.load(e + q, mask=ok, other=0.0)
    tl.store(norm + p, tl.sqrt(total + epsilon), mask=live)


@triton.jit
def gradient(slope, x, norm, dx, places, maps, window: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """ROWS rows of dx."""
    q = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = q < places
    scale = tl.zeros((ROWS,), tl.float32)
    for k in range(window.kernel_h * window.kernel_w):
        p, ok = rows_reading(q, live, k, maps, window)
        scale += tl.load(slope + p, mask=ok, other=0.0) / tl.load(norm + p, mask=ok, other=1.0)
    own = q.to(tl.int64)
    for start in range(0, maps.channels, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        values = scale[:, None] * tile(x, own, live, c, maps.channels).to(tl.float32)
        inside = live[:, None] & (c < maps.channels)[None, :]
        tl.store(dx + own[:, None] * maps.channels + c[None, :], values.to(dx.dtype.element_ty), mask=inside)
