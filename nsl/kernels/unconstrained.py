"""Triton kernels of the unconstrained similarity (UNS). Letters as in `nsl.kernels.convolution`, all channels last:

x [B, H, W, C], m [B, Ho, Wo, K, K], w [K, C, F], y and dy [B, Ho, Wo, F].

    forward    y[p,f] = sum_k (u_k . w_k)[f],   u_k = sum_l m[p,k,l] x[p+o(l)]
    slopes     with V_k = dy[p] . w_k^T:   t[p,l,c] = sum_k m[p,k,l] V_k[c],   dm[p,k,l] = <V_k, x[p+o(l)]>
    gather     dx[q,c] = sum_l t[p(q,l),l,c], p(q,l) being the one output position whose tap l reads q
    weight     dw_k = sum_p u_k^T dy[p], a stretch of positions a program

The K tiles of a patch, or the K tiles V_k, lie in registers and are mixed there: nothing of K channels is written but
t, in the type of x. No atomics: every sum has one order, and repeats are equal bit for bit. Sums are in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nsl.kernels.taps import product, rows_read, rows_reading, tile


@triton.jit
def _patch(x, p, live, c, maps, window: tl.constexpr):
    """The K tiles [p, c] that the taps read, as a tuple."""
    K: tl.constexpr = window.kernel_h * window.kernel_w
    tiles = ()
    for l in tl.static_range(K):
        q, ok = rows_read(p, live, l, maps, window)
        tiles = tiles + (tile(x, q, ok, c, maps.channels),)
    return tiles


@triton.jit
def _mixed(tiles, m, own, live, k, K: tl.constexpr):
    """u_k, float32."""
    total = tl.zeros(tiles[0].shape, tl.float32)
    for l in tl.static_range(K):
        mix = tl.load(m + (own * K + k) * K + l, mask=live, other=0.0).to(tl.float32)
        total += mix[:, None] * tiles[l].to(tl.float32)
    return total


@triton.jit
def forward(
    x, m, w, y, positions, maps, window: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, FILTERS: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """Tile [ROWS, FILTERS] of y."""
    K: tl.constexpr = window.kernel_h * window.kernel_w
    p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    f = tl.program_id(1) * FILTERS + tl.arange(0, FILTERS)
    live = p < positions
    own = p.to(tl.int64)
    total = tl.zeros((ROWS, FILTERS), tl.float32)
    for start in range(0, maps.channels, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        tiles = _patch(x, p, live, c, maps, window)
        for k in range(K):
            kernel = tile(w, k * maps.channels + c, c < maps.channels, f, maps.filters)
            total = product(_mixed(tiles, m, own, live, k, K).to(kernel.dtype), kernel, total, PRODUCTS)
    inside = live[:, None] & (f < maps.filters)[None, :]
    tl.store(y + own[:, None] * maps.filters + f[None, :], total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def slopes(
    x, m, w, dy, t, dm, positions, maps, window: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, FILTERS: tl.constexpr, BLOCKS: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """Tiles [ROWS, CHANNELS] of t for all taps, and what these channels give to dm [channel block, p, K, K].

    BLOCKS: blocks of FILTERS.
    """
    K: tl.constexpr = window.kernel_h * window.kernel_w
    p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    live = p < positions
    own = p.to(tl.int64)
    inside = live[:, None] & (c < maps.channels)[None, :]
    v = ()
    for k in tl.static_range(K):
        part = tl.zeros((ROWS, CHANNELS), tl.float32)
        for block in range(BLOCKS):  # unrolled, it would spill and compile for a minute at 512 filters
            f = block * FILTERS + tl.arange(0, FILTERS)
            kernel = tile(w, k * maps.channels + c, c < maps.channels, f, maps.filters)
            part = product(tile(dy, own, live, f, maps.filters), tl.trans(kernel), part, PRODUCTS)
        v = v + (part,)
    base = tl.program_id(1).to(tl.int64) * positions
    for l in range(K):
        q, ok = rows_read(p, live, l, maps, window)
        patch = tile(x, q, ok, c, maps.channels).to(tl.float32)
        total = tl.zeros((ROWS, CHANNELS), tl.float32)
        for k in tl.static_range(K):
            mix = tl.load(m + (own * K + k) * K + l, mask=live, other=0.0).to(tl.float32)
            total += mix[:, None] * v[k]
            slope = tl.sum(v[k] * patch, 1)
            tl.store(dm + ((base + own) * K + k) * K + l, slope.to(dm.dtype.element_ty), mask=live)
        target = t + (own[:, None] * K + l) * maps.channels + c[None, :]
        tl.store(target, total.to(t.dtype.element_ty), mask=inside)


@triton.jit
def gather(t, dx, places, maps, window: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Tile [ROWS, CHANNELS] of dx: the transpose of taking patches."""
    K: tl.constexpr = window.kernel_h * window.kernel_w
    q = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    live = q < places
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for l in range(K):
        p, ok = rows_reading(q, live, l, maps, window)
        total += tile(t, p * K + l, ok, c, maps.channels).to(tl.float32)
    inside = live[:, None] & (c < maps.channels)[None, :]
    target = dx + q.to(tl.int64)[:, None] * maps.channels + c[None, :]
    tl.store(target, total.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def weight(
    x, m, dy, dw, positions, stretch, maps, window: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, FILTERS: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """Tile [CHANNELS, FILTERS] of one tap of dw [split, K, C, F], float32: the sum over one stretch of positions.

    One tap k a program, whose patches are then read K times: K tiles of dw and K of the patch spill the registers.
    """
    K: tl.constexpr = window.kernel_h * window.kernel_w
    k = tl.program_id(0) % K
    c = tl.program_id(0) // K * CHANNELS + tl.arange(0, CHANNELS)
    f = tl.program_id(1) * FILTERS + tl.arange(0, FILTERS)
    split = tl.program_id(2)
    total = tl.zeros((CHANNELS, FILTERS), tl.float32)
    for start in range(0, stretch, ROWS):
        p = split * stretch + start + tl.arange(0, ROWS)
        live = p < positions
        own = p.to(tl.int64)
        tiles = _patch(x, p, live, c, maps, window)
        gradient = tile(dy, own, live, f, maps.filters)
        u = _mixed(tiles, m, own, live, k, K).to(gradient.dtype)
        total = product(tl.trans(u), gradient, total, PRODUCTS)
    rows = (split * K + k).to(tl.int64) * maps.channels + c
    inside = (c < maps.channels)[:, None] & (f < maps.filters)[None, :]
    tl.store(dw + rows[:, None] * maps.filters + f[None, :], total, mask=inside)
