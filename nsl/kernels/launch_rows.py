"""From tensors to grids of programs, for the kernels of `nsl.kernels.rows`. All tensors contiguous."""

from __future__ import annotations

import torch
from torch import Tensor

from nsl.kernels import rows, tiles
from nsl.kernels.launch import Window, blocks, run
from nsl.kernels.taps import Maps


def _grid(count: int, tile: tiles.Tile) -> tuple[int]:
    return (blocks(count, tile.rows),)


def energy(x: Tensor) -> Tensor:
    """x [..., C] to [...]."""
    e, tile = x.new_empty(x.shape[:-1], dtype=torch.float32), tiles.rows_of_channels(x.shape[-1])
    run(rows.energy, _grid(e.numel(), tile), x, e, e.numel(), x.shape[-1], tile=tile)
    return e


def energy_gradient(de: Tensor, x: Tensor) -> Tensor:
    dx, tile = torch.empty_like(x), tiles.rows_of_channels(x.shape[-1])
    run(rows.energy_gradient, _grid(de.numel(), tile), de, x, dx, de.numel(), x.shape[-1], tile=tile)
    return dx


def windows(e: Tensor, out: list[int], window: Window, epsilon: float) -> Tensor:
    """e [B, H, W] to [B, Ho, Wo]."""
    inverse, tile = e.new_empty(e.shape[0], *out), tiles.rows_alone()
    maps = Maps(e.shape[1], e.shape[2], 1, 1, out[0], out[1])
    count = inverse.numel()
    run(rows.windows, _grid(count, tile), e, inverse, count, epsilon, maps, window, tile=tile)
    return inverse


def windows_gradient(slope: Tensor, inverse: Tensor, size: list[int], window: Window) -> Tensor:
    de, tile = slope.new_empty(slope.shape[0], *size), tiles.rows_alone()
    maps = Maps(size[0], size[1], 1, 1, inverse.shape[1], inverse.shape[2])
    run(rows.windows_gradient, _grid(de.numel(), tile), slope, inverse, de, de.numel(), maps, window, tile=tile)
    return de


def scale(x: Tensor, s: Tensor, activation: str, columns: int, with_energy: bool) -> tuple[Tensor, Tensor]:
    """x [..., C] and s [...] to y [..., columns] and its energy [...], or [0]."""
    y, tile = x.new_empty(*s.shape, columns), tiles.rows_of_channels(columns)
    e = x.new_empty(s.shape if with_energy else 0, dtype=torch.float32)
    arguments = (x, s, y, e, s.numel(), x.shape[-1], columns)
    run(rows.scale, _grid(s.numel(), tile), *arguments, tile=tile, ACTIVATION=activation, ENERGY=with_energy)
    return y, e


def scale_gradient(dy: Tensor, de: Tensor, x: Tensor, s: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """dx and ds; a de of no elements means that the energy was not asked for."""
    dx, ds, tile = torch.empty_like(x), torch.empty_like(s), tiles.rows_of_channels(x.shape[-1])
    arguments = (dy, de, x, s, dx, ds, s.numel(), x.shape[-1], dy.shape[-1])
    chosen = {"ACTIVATION": activation, "ENERGY": de.numel() > 0}
    run(rows.scale_gradient, _grid(s.numel(), tile), *arguments, tile=tile, **chosen)
    return dx, ds


def unit(w: Tensor, count: int, dtype: torch.dtype, epsilon: float) -> Tensor:
    """w [F, ...] to [count, ...]."""
    y = w.new_empty(count, *w.shape[1:], dtype=dtype)
    run(rows.unit, (count,), w, y, w.shape[0], w[0].numel(), epsilon, tile=tiles.whole_row())
    return y


def unit_gradient(dy: Tensor, w: Tensor, epsilon: float) -> Tensor:
    dw = torch.empty_like(w)
    run(rows.unit_gradient, (w.shape[0],), dy, w, dw, w[0].numel(), epsilon, tile=tiles.whole_row())
    return dw
