"""Operators of the hyperspherical predictor, as `nsl.kernels.operators` are those of the convolution.

Shapes, all contiguous: x [B, H, W, C], e and s [B, H, W] float32, inverse [B, Ho, Wo] float32, w [F, ...].

    nsl::row_energy        e = sum of the squares of a row of x
    nsl::inverse_norms     inverse = (sum of e in the window + epsilon)^(-1/2)
    nsl::scale_rows        y = f(x s), and y's energy
    nsl::unit_rows         w / sqrt(sum of the squares of a row + epsilon), with rows of zeros appended

Each has a `_gradient`, whose own derivatives go by way of the definition.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsl.kernels.operators import again, taps


def energy_definition(x: Tensor) -> Tensor:
    return x.float().square().sum(-1)


def inverse_definition(e: Tensor, out: list[int], window: list[int], epsilon: float) -> Tensor:
    return (torch.stack(taps(e.unsqueeze(-1), out, window)).sum(0).squeeze(-1) + epsilon).rsqrt()


def scale_definition(
    x: Tensor, s: Tensor, activation: str, columns: int, with_energy: bool
) -> Tensor | tuple[Tensor, Tensor]:
    value = x[..., :columns] * s.unsqueeze(-1)
    y = (F.relu(value) if activation == "relu" else value.clamp(-1, 1) if activation == "clamp" else value).to(x.dtype)
    return (y, energy_definition(y)) if with_energy else y


def unit_definition(w: Tensor, count: int, dtype: torch.dtype, epsilon: float) -> Tensor:
    rows = w.flatten(1)
    unit = rows / (rows.square().sum(1, keepdim=True) + epsilon).sqrt()
    return F.pad(unit, (0, 0, 0, count - len(w))).view(count, *w.shape[1:]).to(dtype)


@torch.library.custom_op("nsl::row_energy", mutates_args=())
def row_energy(x: Tensor) -> Tensor:
    """[..., C] to [...]."""
    from nsl.kernels import launch_rows

    return launch_rows.energy(x)


@torch.library.custom_op("nsl::row_energy_gradient", mutates_args=())
def row_energy_gradient(de: Tensor, x: Tensor) -> Tensor:
    from nsl.kernels import launch_rows

    return launch_rows.energy_gradient(de, x)


@torch.library.custom_op("nsl::inverse_norms", mutates_args=())
def inverse_norms(e: Tensor, out: list[int], window: list[int], epsilon: float) -> Tensor:
    """[B, H, W] to [B, Ho, Wo]; `out` is Ho and Wo."""
    from nsl.kernels import launch_rows

    return launch_rows.windows(e, out, launch_rows.Window(*window), epsilon)


@torch.library.custom_op("nsl::inverse_norms_gradient", mutates_args=())
def inverse_norms_gradient(
    slope: Tensor, e: Tensor, inverse: Tensor, window: list[int], epsilon: float
) -> Tensor:
    """de; `inverse` must be e's, and is no variable of its own where this is differentiated."""
    from nsl.kernels import launch_rows

    return launch_rows.windows_gradient(slope, inverse, list(e.shape[1:]), launch_rows.Window(*window))


@torch.library.custom_op("nsl::scale_rows", mutates_args=())
def scale_rows(
    x: Tensor, s: Tensor, activation: str, columns: int, with_energy: bool
) -> tuple[Tensor, Tensor]:
    """y [..., columns] and its energy [...] ([0] where that is not asked for); f: "none", "relu" or "clamp"."""
    from nsl.kernels import launch_rows

    return launch_rows.scale(x, s, activation, columns, with_energy)


@torch.library.custom_op("nsl::scale_rows_gradient", mutates_args=())
def scale_rows_gradient(dy: Tensor, de: Tensor, x: Tensor, s: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """dx and ds; de [0] where the energy was not asked for."""
    from nsl.kernels import launch_rows

    return launch_rows.scale_gradient(dy, de, x, s, activation)


@torch.library.custom_op("nsl::unit_rows", mutates_args=())
def unit_rows(w: Tensor, count: int, dtype: torch.dtype, epsilon: float) -> Tensor:
    """[F, ...] to [count, ...] of the given type; from F on zeros."""
    from nsl.kernels import launch_rows

    return launch_rows.unit(w, count, dtype, epsilon)


@torch.library.custom_op("nsl::unit_rows_gradient", mutates_args=())
def unit_rows_gradient(dy: Tensor, w: Tensor, epsilon: float) -> Tensor:
    from nsl.kernels import launch_rows

    return launch_rows.unit_gradient(dy, w, epsilon)


@row_energy.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:-1], dtype=torch.float32)


@row_energy_gradient.register_fake
def _(de: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x)


@inverse_norms.register_fake
def _(e: Tensor, out: list[int], window: list[int], epsilon: float) -> Tensor:
    return e.new_empty(e.shape[0], *out)


@inverse_norms_gradient.register_fake
def _(slope: Tensor, e: Tensor, inverse: Tensor, window: list[int], epsilon: float) -> Tensor:
    return torch.empty_like(e)


@scale_rows.register_fake
def _(x: Tensor, s: Tensor, activation: str, columns: int, with_energy: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(*s.shape, columns), x.new_empty(s.shape if with_energy else (0,), dtype=torch.float32)


@scale_rows_gradient.register_fake
def _(dy: Tensor, de: Tensor, x: Tensor, s: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(s)


@unit_rows.register_fake
def _(w: Tensor, count: int, dtype: torch.dtype, epsilon: float) -> Tensor:
    return w.new_empty(count, *w.shape[1:], dtype=dtype)


@unit_rows_gradient.register_fake
def _(dy: Tensor, w: Tensor, epsilon: float) -> Tensor:
    return torch.empty_like(w)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Tensors first, the rest as `ctx.rest`."""
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    ctx.rest = inputs[len(tensors) :]
    ctx.save_for_backward(*tensors)


def _keep_output(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    e, *ctx.rest = inputs
    ctx.save_for_backward(e, output)


def _of_energy(ctx: Any, de: Tensor) -> Tensor:
    return row_energy_gradient(de.contiguous(), *ctx.saved_tensors)


def _of_energy_gradient(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    de, x = ctx.saved_tensors
    return again(energy_definition, [de], [x], [0], [slope])


def _of_inverse(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    _, window, epsilon = ctx.rest
    return inverse_norms_gradient(slope.contiguous(), *ctx.saved_tensors, window, epsilon), None, None, None


def _of_inverse_gradient(ctx: Any, further: Tensor) -> tuple[Tensor | None, ...]:
    slope, e, inverse = ctx.saved_tensors
    function = partial(inverse_definition, out=list(inverse.shape[1:]), window=ctx.rest[0], epsilon=ctx.rest[1])
    return (*again(function, [slope], [e], [0], [further]), None, None, None)


def _of_scale(ctx: Any, dy: Tensor, de: Tensor) -> tuple[Tensor | None, ...]:
    activation, _, with_energy = ctx.rest
    de = de.contiguous() if with_energy else dy.new_empty(0, dtype=torch.float32)
    return (*scale_rows_gradient(dy.contiguous(), de, *ctx.saved_tensors, activation), None, None, None)


def _of_scale_gradient(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
    dy, de, x, s = ctx.saved_tensors
    with_energy = de.numel() > 0
    function = partial(
        scale_definition, activation=ctx.rest[0], columns=dy.shape[-1], with_energy=with_energy
    )
    found = again(function, [dy, de] if with_energy else [dy], [x, s], [0, 1], slopes)
    return (*(found if with_energy else (found[0], None, *found[1:])), None)


def _of_unit(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return unit_rows_gradient(dy.contiguous(), *ctx.saved_tensors, ctx.rest[2]), None, None, None


def _of_unit_gradient(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    dy, w = ctx.saved_tensors
    function = partial(unit_definition, count=len(dy), dtype=dy.dtype, epsilon=ctx.rest[0])
    return (*again(function, [dy], [w], [0], [slope]), None)


row_energy.register_autograd(_of_energy, setup_context=_keep)
row_energy_gradient.register_autograd(_of_energy_gradient, setup_context=_keep)
inverse_norms.register_autograd(_of_inverse, setup_context=_keep_output)
inverse_norms_gradient.register_autograd(_of_inverse_gradient, setup_context=_keep)
scale_rows.register_autograd(_of_scale, setup_context=_keep)
scale_rows_gradient.register_autograd(_of_scale_gradient, setup_context=_keep)
unit_rows.register_autograd(_of_unit, setup_context=_keep)
unit_rows_gradient.register_autograd(_of_unit_gradient, setup_context=_keep)
