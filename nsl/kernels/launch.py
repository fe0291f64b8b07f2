"""From tensors to grids of programs. Shapes as in `nsl.kernels.operators`, all tensors contiguous."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from nsl.kernels import diagonal, taps, tiles, unconstrained
from nsl.kernels.precision import float32_products
from nsl.kernels.taps import Maps, Window

#: Triton's interpreter runs the kernels as NumPy on the CPU; it is chosen when they are imported.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def run(kernel: Any, grid: tuple[int, ...], *arguments: Any, tile: tiles.Tile, **constants: Any) -> None:
    """One launch, on the tensors' own device and its present stream."""
    device = arguments[0].device
    sides = {"ROWS": tile.rows, "CHANNELS": tile.channels, "FILTERS": tile.filters}
    constants |= {name: value for name, value in sides.items() if name in kernel.arg_names}
    options = {} if INTERPRETED else {"num_warps": tile.warps, "num_stages": tile.stages}
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*arguments, **constants, **options)


def touch(device: torch.device) -> None:
    """Build and launch a small kernel on the device, outside of all dispatch modes; raises what Triton raises."""
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes(), torch.no_grad(), torch.cuda.device(device):
        taps.touch[(1,)](torch.zeros(1, device=device))


def _products(dtype: torch.dtype) -> str:
    if INTERPRETED:
        return "interpreted"
    return float32_products()["matmul"] if dtype == torch.float32 else "ieee"


def _maps(x: Tensor, w: Tensor, m: Tensor) -> Maps:
    return Maps(x.shape[1], x.shape[2], w.shape[1], w.shape[2], m.shape[1], m.shape[2])


def blocks(value: int, side: int) -> int:
    return -(-value // side)


def _positions(tensor: Tensor) -> int:
    return tensor.shape[0] * tensor.shape[1] * tensor.shape[2]


def forward(x: Tensor, w: Tensor, m: Tensor, window: Window) -> Tensor:
    """y."""
    channels, filters = w.shape[1:]
    y = x.new_empty(*m.shape[:3], filters)
    choose = tiles.diagonal_forward if m.dim() == 4 else tiles.unconstrained_forward
    tile = choose(channels, filters, x.element_size())
    grid = (blocks(_positions(m), tile.rows), blocks(filters, tile.filters))
    constants: dict[str, Any] = {"tile": tile, "PRODUCTS": _products(x.dtype)}
    arguments = (x, m, w, y, _positions(m), _maps(x, w, m), window)
    if m.dim() == 4:
        run(diagonal.forward, grid, *arguments, BLOCKS=blocks(channels, tile.channels), **constants)
    else:
        run(unconstrained.forward, grid, *arguments, **constants)
    return y


def input_gradients(dy: Tensor, x: Tensor, w: Tensor, m: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """dx and dm."""
    channels, filters = w.shape[1:]
    positions, places, maps = _positions(m), _positions(x), _maps(x, w, m)
    dx = torch.empty_like(x)
    choose = tiles.diagonal_inputs if m.dim() == 4 else tiles.unconstrained_slopes
    tile = choose(channels, filters, x.element_size())
    parts = blocks(channels, tile.channels)
    # Several blocks of channels: each writes what it gives to dm, and they are added up in float32.
    shape, dtype = (parts, *m.shape), m.dtype if parts == 1 else torch.float32
    constants: dict[str, Any] = {"BLOCKS": blocks(filters, tile.filters), "PRODUCTS": _products(x.dtype)}
    if m.dim() == 4:
        dm = x.new_zeros(shape, dtype=dtype)
        grid = (blocks(places, tile.rows), parts)
        arguments = (x, m, w, dy, dx, dm, positions, places, maps, window)
        run(diagonal.inputs, grid, *arguments, tile=tile, **constants)
    else:
        dm = x.new_empty(shape, dtype=dtype)
        t = x.new_empty(*m.shape[:4], channels)
        grid = (blocks(positions, tile.rows), parts)
        run(unconstrained.slopes, grid, x, m, w, dy, t, dm, positions, maps, window, tile=tile, **constants)
        tile = tiles.rows_of_channels(channels)
        grid = (blocks(places, tile.rows), blocks(channels, tile.channels))
        run(unconstrained.gather, grid, t, dx, places, maps, window, tile=tile)
    return dx, dm[0] if parts == 1 else dm.sum(0).to(m.dtype)


def weight_gradient(dy: Tensor, x: Tensor, w: Tensor, m: Tensor, window: Window) -> Tensor:
    """dw."""
    taps, channels, filters = w.shape
    positions = _positions(m)
    choose = tiles.diagonal_weight if m.dim() == 4 else tiles.unconstrained_weight
    tile = choose(channels, filters, x.element_size())
    across, down = taps * blocks(channels, tile.channels), blocks(filters, tile.filters)
    stretch = tiles.stretch(positions, across * down, tile.rows)
    splits = blocks(positions, stretch)
    parts = x.new_empty(splits, *w.shape, dtype=torch.float32)
    kernel = diagonal.weight if m.dim() == 4 else unconstrained.weight
    arguments = (x, m, dy, parts, positions, stretch, _maps(x, w, m), window)
    run(kernel, (across, down, splits), *arguments, tile=tile, PRODUCTS=_products(x.dtype))
    return parts.sum(0).to(w.dtype)
