"""Triton kernels of the diagonal similarity (DNS). Letters as in `nsl.kernels.convolution`, everything channels last:

x [B, H, W, C], m [B, Ho, Wo, K], w [K, C, F], y and dy [B, Ho, Wo, F].

    forward    y[p,f]  = sum_k m[p,k] (x[p+o(k)] . w_k)[f]
    inputs     dx[q,c] = sum_k m[p,k] V[c],  dm[p,k] = <V, x[q]>,  where V = dy[p] . w_k^T and p = p(q,k) is
               the one output position whose tap k reads q: dm has one writer an entry, and one product serves both
    weight     dw_k    = sum_p (m[p,k] x[p+o(k)])^T dy[p], a stretch of positions a program

No atomics: every sum has one order, and repeats are equal bit for bit. Sums are in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nsl.kernels.taps import product, rows_read, rows_reading, tile


@triton.jit
def forward(
    x, m, w, y, positions, maps, window: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, FILTERS: tl.constexpr, BLOCKS: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """Tile [ROWS, FILTERS] of y. BLOCKS: blocks of CHANNELS that the input has."""
    K: tl.constexpr = window.kernel_h * window.kernel_w
    p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    f = tl.program_id(1) * FILTERS + tl.arange(0, FILTERS)
    live = p < positions
    own = p.to(tl.int64)
    total = tl.zeros((ROWS, FILTERS), tl.float32)
    for step in range(K * BLOCKS):  # one loop and not two, so that the next tiles are on their way across taps too
        k = step // BLOCKS
        c = step % BLOCKS * CHANNELS + tl.arange(0, CHANNELS)
        q, ok = rows_read(p, live, k, maps, window)
        kernel = tile(w, k * maps.channels + c, c < maps.channels, f, maps.filters)
        part = product(tile(x, q, ok, c, maps.channels), kernel, tl.zeros((ROWS, FILTERS), tl.float32), PRODUCTS)
        # Scaled after the product and not before it: the mask is not rounded to the operands' type.
        mask = tl.load(m + own * K + k, mask=live, other=0.0).to(tl.float32)
        total += mask[:, None] * part
    inside = live[:, None] & (f < maps.filters)[None, :]
    tl.store(y + own[:, None] * maps.filters + f[None, :], total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def inputs(
    x, m, w, dy, dx, dm, positions, places, maps, window: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, FILTERS: tl.constexpr, BLOCKS: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """Tile [ROWS, CHANNELS] of dx, and what these channels give to dm [channel block, p, K].

    dm must be zero before: an entry whose tap lies in the padding has no writer. BLOCKS: blocks of FILTERS.
    """
    K: tl.constexpr = window.kernel_h * window.kernel_w
    q = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    live = q < places
    own = q.to(tl.int64)
    here = tile(x, own, live, c, maps.channels).to(tl.float32)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    slope = tl.zeros((ROWS,), tl.float32)
    base = tl.program_id(1).to(tl.int64) * positions
    for step in range(K * BLOCKS):
        k = step // BLOCKS
        f = step % BLOCKS * FILTERS + tl.arange(0, FILTERS)
        p, ok = rows_reading(q, live, k, maps, window)
        kernel = tile(w, k * maps.channels + c, c < maps.channels, f, maps.filters)
        part = tl.zeros((ROWS, CHANNELS), tl.float32)
        part = product(tile(dy, p, ok, f, maps.filters), tl.trans(kernel), part, PRODUCTS)
        mask = tl.load(m + p * K + k, mask=ok, other=0.0).to(tl.float32)
        total += mask[:, None] * part
        slope += tl.sum(part * here, 1)
        if step % BLOCKS == BLOCKS - 1:
            tl.store(dm + (base + p) * K + k, slope.to(dm.dtype.element_ty), mask=ok)
            slope = tl.zeros((ROWS,), tl.float32)
    inside = live[:, None] & (c < maps.channels)[None, :]
    tl.store(dx + own[:, None] * maps.channels + c[None, :], total.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def weight(
    x, m, dy, dw, positions, stretch, maps, window: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, FILTERS: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """Tile [CHANNELS, FILTERS] of one tap of dw [split, K, C, F], float32: the sum over one stretch of positions."""
    K: tl.constexpr = window.kernel_h * window.kernel_w
    k = tl.program_id(0) % K
    c = tl.program_id(0) // K * CHANNELS + tl.arange(0, CHANNELS)
    f = tl.program_id(1) * FILTERS + tl.arange(0, FILTERS)
    split = tl.program_id(2)
    total = tl.zeros((CHANNELS, FILTERS), tl.float32)
    for start in range(0, stretch, ROWS):
        p = split * stretch + start + tl.arange(0, ROWS)
        live = p < positions
        q, ok = rows_read(p, live, k, maps, window)
        own = p.to(tl.int64)
        mask = tl.load(m + own * K + k, mask=live, other=0.0).to(tl.float32)
        patches = tile(x, q, ok, c, maps.channels)
        patches = (patches.to(tl.float32) * mask[:, None]).to(patches.dtype)
        total = product(tl.trans(patches), tile(dy, own, ok, f, maps.filters), total, PRODUCTS)
    rows = (split * K + k).to(tl.int64) * maps.channels + c
    inside = (c < maps.channels)[:, None] & (f < maps.filters)[None, :]
    tl.store(dw + rows[:, None] * maps.filters + f[None, :], total, mask=inside)
