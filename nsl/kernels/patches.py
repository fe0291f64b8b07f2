"""The similarity applied to patches, and the gradients of that: all of the dynamic convolution but its products.

    u[p,k,c] = m[p][k] x[c, p + offset(k)]                diagonal
    u[p,k,c] = sum_l M[p][k,l] x[c, p + offset(l)]        unconstrained

`Patches` has the two operations in plain PyTorch, which run on every device, and calls the compiled ones of
`kernels.cpp` where those can be had. Letters as in `nsl.kernels.convolution`; everything here is channels last:
x [n, H, W, C], u [n, Ho, Wo, K, C], m [n, Ho, Wo, K] or [n, Ho, Wo, K, K].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsl.kernels import compiled
from nsl.kernels.definition import gradients_by_definition
from nsl.kernels.paths import path

# Bytes of the reused buffer of one chunk. Measured on 2 cores with 1 MiB of L2 each and 32 MiB of L3: half and double
# are within a few percent, smaller loses to call overhead, larger to the cache.
_CHUNK_BYTES = 1 << 22
#: On other devices chunks only limit memory: one chunk, unless the buffer would be larger than this.
_DEVICE_CHUNK_BYTES = 1 << 30


def chunk_bounds(
    batch: int, bytes_per_image: int, device: torch.device | None = None
) -> tuple[int, list[tuple[int, int]]]:
    """Images a chunk and the chunks' bounds; on the CPU a multiple of the threads where there are enough images."""
    if device is not None and device.type != "cpu":
        n = max(1, min(batch, _DEVICE_CHUNK_BYTES // max(1, bytes_per_image)))
        return n, [(start, min(start + n, batch)) for start in range(0, batch, n)]
    n = max(1, min(batch, _CHUNK_BYTES // max(1, bytes_per_image)))
    threads = torch.get_num_threads()
    if threads < n < batch:
        n -= n % threads
    return n, [(start, min(start + n, batch)) for start in range(0, batch, n)]


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


#: One a thread: trainings may run side by side.
_kept: ContextVar[bool] = ContextVar("layouts_kept", default=False)


@contextmanager
def layouts_kept() -> Iterator[None]:
    """Inside, maps stay as they were computed, channels innermost: for networks that are known not to mind, which then
    copy nothing between two layers."""
    before = _kept.set(True)
    try:
        yield
    finally:
        _kept.reset(before)


def as_laid_out(output: Tensor, input: Tensor) -> Tensor:
    """A map in the memory format of the input where that is PyTorch's usual one, as a convolution gives it.

    What is computed with channels innermost comes out in channels_last, on which a later `view` fails.
    """
    if not isinstance(output, Tensor) or torch.compiler.is_exporting() or compiled.in_transform():
        return output
    if not torch.compiler.is_compiling() and _kept.get():  # nothing that a compiler has to read
        return output
    usual = input.is_contiguous() and not input.is_contiguous(memory_format=torch.channels_last)
    return output.contiguous() if usual else output


def wide_type(x: Tensor) -> torch.dtype:
    """Type of sums over x: at least float32.

    Raises:
        ValueError: x is complex, whose norms and places are not defined here.
    """
    if x.dtype.is_complex:
        raise ValueError(f"input must be real, got {x.dtype}: norms of patches and places of taps are real numbers")
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class Patches:
    """The two operations for one geometry.

    Args:
        size: height and width of the input.
        out: height and width of the output map.
        kernel, stride, padding, dilation: of the convolution, (vertical, horizontal).
    """

    def __init__(
        self,
        size: tuple[int, int],
        out: tuple[int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> None:
        self.size, self.out, self.kernel = size, out, kernel
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def _geometry(self, x: Tensor) -> compiled.Geometry:
        images, height, width, channels = x.shape
        pairs = (*self.out, *self.kernel, *self.stride, *self.padding, *self.dilation)
        return compiled.Geometry(images, height, width, channels, *pairs, torch.get_num_threads())

    def _view(self, padded: Tensor) -> Tensor:
        """The overlapping view [n, Ho, Wo, kh, kw, C] of all taps of a padded input."""
        n, _, _, channels = padded.shape
        s, (dh, dw) = padded.stride(), self.dilation
        strides = (s[0], s[1] * self.stride[0], s[2] * self.stride[1], s[1] * dh, s[2] * dw, s[3])
        return padded.as_strided((n, *self.out, *self.kernel, channels), strides)

    def _masks(self, m: Tensor) -> Tensor:
        """[n, Ho, Wo, K] to [n, Ho, Wo, kh, kw, 1], to be multiplied with the view of all taps."""
        return m.unflatten(-1, self.kernel).unsqueeze(-1)

    def _pad(self, x: Tensor) -> Tensor:
        top, left = self.padding
        return F.pad(x, (0, 0, left, left, top, top)) if top or left else x

    def apply(self, x: Tensor, m: Tensor, u: Tensor | None = None) -> Tensor:
        """The patches with their similarity applied, u; written into the given tensor if there is one."""
        diagonal = m.dim() == 4
        if path(x) == "native":
            assert x.dtype == m.dtype  # the kernel reads both as the first one's type
            u = x.new_empty(*m.shape[:3], m.shape[3], x.shape[3]) if u is None else u
            compiled.call("diagonal_apply" if diagonal else "unconstrained_apply", self._geometry(x), x, m, u)
            return u
        taps = self._view(self._pad(x))
        if diagonal:
            target = None if u is None else u.unflatten(-2, self.kernel)
            return torch.mul(taps, self._masks(m), out=target).flatten(3, 4)
        return torch.matmul(m, taps.flatten(3, 4), out=u)

    def gradients(
        self, v: Tensor, x: Tensor, m: Tensor, dm: Tensor | None = None, dx: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Backward of `apply`.

        Args:
            v: dL/du; may be overwritten.
            x, m: what `apply` was given.
            dm, dx: tensors to write into, both or neither.

        Returns:
            u once more, which the weight's gradient needs next, dm and dx.
        """
        diagonal = m.dim() == 4
        if path(x) == "native":
            assert v.dtype == x.dtype == m.dtype
            dm, dx = torch.empty_like(m) if dm is None else dm, torch.empty_like(x) if dx is None else dx
            name = "diagonal_gradients" if diagonal else "unconstrained_gradients"
            compiled.call(name, self._geometry(x), v, x, m, dm, dx)
            return v, dm, dx
        padded = self._pad(x)
        taps = self._view(padded)
        if diagonal:
            masks, slopes = self._masks(m), v.unflatten(-2, self.kernel)
            new_dm, dtaps = (slopes * taps).sum(-1).flatten(-2), (slopes * masks).flatten(3, 4)
            u = torch.mul(taps, masks, out=None if torch.compiler.is_compiling() else slopes).flatten(3, 4)
        else:
            taps = taps.flatten(3, 4)
            new_dm, dtaps, u = v @ taps.transpose(-1, -2), m.transpose(-1, -2) @ v, m @ taps
        # A place receives up to K summands: added up in at least float32.
        scattered = torch.zeros_like(padded, dtype=torch.promote_types(padded.dtype, torch.float32))
        (ho, wo), (sh, sw), (dh, dw) = self.out, self.stride, self.dilation
        for k in range(self.kernel[0] * self.kernel[1]):
            top, left = k // self.kernel[1] * dh, k % self.kernel[1] * dw
            places = slice(top, top + (ho - 1) * sh + 1, sh), slice(left, left + (wo - 1) * sw + 1, sw)
            scattered[:, places[0], places[1]] += dtaps[:, :, :, k]
        (height, width), (top, left) = self.size, self.padding
        new_dx = scattered[:, top : top + height, left : left + width].to(x.dtype)
        if dm is None or dx is None:
            return u, new_dm, new_dx
        return u, dm.copy_(new_dm), dx.copy_(new_dx)


def scale_positions(x: Tensor, scale: Tensor) -> Tensor:
    """`x * scale`, one number a position: [B, C, H, W] times [B, 1, H, W] (SphereNet's division by the patch norm).

    PyTorch's own product broadcasts channel by channel; on channels-last tensors a 1x1 similarity does the same
    several times faster.
    """
    if path(x) == "native" and x.is_contiguous(memory_format=torch.channels_last) and compiled.has_memory(scale):
        fits = x.dtype == scale.dtype and x.shape[2:] == scale.shape[2:] and x.shape[0] == scale.shape[0]
        if fits and x.numel():
            return _Scale.apply(x, scale)
    return x * scale


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        size = (x.shape[2], x.shape[3])
        rows, masks = x.permute(0, 2, 3, 1), scale.permute(0, 2, 3, 1).contiguous()
        scaled = torch.empty_like(x)  # channels last, as x
        target = scaled.permute(0, 2, 3, 1).unsqueeze(-2)
        Patches(size, size, (1, 1), (1, 1), (0, 0), (1, 1)).apply(rows, masks, target)
        return scaled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,), (x, scale) = gradients, ctx.saved_tensors
        return (
            scale_positions(gradient, scale) if ctx.needs_input_grad[0] else None,
            (gradient * x).sum(1, keepdim=True) if ctx.needs_input_grad[1] else None,
        )


def channel_energy(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum of the channels' squares, [B, C, H, W] to [B, 1, H, W], added up in `dtype`."""
    return _Energy.apply(x, dtype) if path(x) == "native" else _plain_energy(x, dtype)


def _plain_energy(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`channel_energy` in plain tensor operations."""
    wide = x.to(dtype)  # squared in `dtype` too: a square rounded to bfloat16 has 8 bits
    return (wide * wide).sum(1, keepdim=True)


class _Energy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x)
        return _row_energy(x, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return scale_positions(x, (2 * gradients[0]).to(x.dtype)), None


class Windows:
    """Sums over the windows of a convolution, of maps of one channel: [B, 1, H, W] to [B, 1, Ho, Wo], and back.

    Args:
        size: H and W.
        kernel, stride, padding, dilation: of the convolution, (vertical, horizontal).
    """

    def __init__(
        self,
        size: tuple[int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> None:
        self.size, self.pairs = size, (kernel, stride, padding, dilation)
        self.out = output_size(size, kernel, stride, padding, dilation)

    def _geometry(self, images: int) -> compiled.Geometry:
        pairs = [side for pair in self.pairs for side in pair]
        return compiled.Geometry(images, *self.size, 1, *self.out, *pairs, torch.get_num_threads())

    def sums(self, energy: Tensor) -> Tensor:
        """Forward; compiled kernels only (`nsl.layers.spherical.patch_norm` has the same in plain PyTorch)."""
        found = torch.empty(len(energy), 1, *self.out, dtype=energy.dtype, device=energy.device)
        compiled.call("window_sum", self._geometry(len(energy)), energy, found)
        return found

    def spread(self, slopes: Tensor) -> Tensor:
        """Backward: slopes of the sums to slopes of the energy."""
        found = torch.empty(len(slopes), 1, *self.size, dtype=slopes.dtype, device=slopes.device)
        compiled.call("window_spread", self._geometry(len(slopes)), slopes.contiguous(), found)
        return found


def inverse_norm_slopes(gradient: Tensor, inverse: Tensor) -> Tensor:
    """dL/d window sum from dL/d inverse: inverse = (sum + epsilon)^(-1/2)."""
    return gradient * inverse.pow(3).mul_(-0.5)


class ProductAndNorm(torch.autograd.Function):
    """A convolution and the inverse norms of the patches it sees: conv(x, weight), (sum of squares + epsilon)^(-1/2).

    x [B, C, H, W], weight [F, C, kh, kw] to [B, F, Ho, Wo] and, in at least float32, [B, 1, Ho, Wo]. Both gradients
    of x are written into one map. Compiled kernels only; second derivatives go by the definition.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        epsilon: float,
    ) -> tuple[Tensor, Tensor]:
        kernel = (weight.shape[2], weight.shape[3])
        ctx.windows = Windows((x.shape[2], x.shape[3]), kernel, stride, padding, dilation)
        inverse = ctx.windows.sums(_row_energy(x, wide_type(x))).add_(epsilon).rsqrt_()
        ctx.geometry, ctx.epsilon = (stride, padding, dilation), epsilon
        ctx.save_for_backward(x, weight, inverse)
        return F.conv2d(x, weight, None, *ctx.geometry), inverse

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        needed, rest = ctx.needs_input_grad[:2], (None,) * 4
        stride, padding, dilation = ctx.geometry
        if torch.is_grad_enabled() or compiled.batched(*gradients):  # a second derivative is wanted, or many first

            def definition(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
                kernel = (weight.shape[2], weight.shape[3])
                inverse = inverse_window_norm(x, kernel, stride, padding, dilation, ctx.epsilon)
                return F.conv2d(x, weight, None, stride, padding, dilation), inverse

            return (*gradients_by_definition(definition, (x, weight), needed, gradients), *rest)
        dx, dweight, _ = torch.ops.aten.convolution_backward(
            gradients[0], x, weight, None, stride, padding, dilation, False, [0, 0], 1, [*needed, False]
        )
        if dx is not None:
            slopes = ctx.windows.spread(inverse_norm_slopes(gradients[1], inverse))
            rows, target = x.permute(0, 2, 3, 1), dx.permute(0, 2, 3, 1)
            if rows.is_contiguous() and target.is_contiguous():
                shape = compiled.Rows(slopes.numel(), x.shape[1], torch.get_num_threads())
                compiled.call("row_energy_gradient", shape, target, rows, slopes)
            else:
                dx = dx + x * slopes.mul_(2).to(x.dtype)
        return (dx, dweight, *rest)


def inverse_window_norm(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    epsilon: float,
) -> Tensor:
    """(sum of a patch's squares + epsilon)^(-1/2), [B, C, H, W] to [B, 1, Ho, Wo], in differentiable tensor operations:
    the definition of what the compiled kernels do."""
    energy = _plain_energy(x, wide_type(x))
    window = F.conv2d(energy, energy.new_ones(1, 1, *kernel), None, stride, padding, dilation)
    return (window + epsilon).rsqrt()


def _row_energy(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`channel_energy` without a gradient."""
    rows = x.permute(0, 2, 3, 1)
    if not rows.is_contiguous() or dtype != wide_type(x):
        return _plain_energy(x, dtype)
    energy = torch.empty(x.shape[0], 1, *x.shape[2:], dtype=dtype, device=x.device)
    shape = compiled.Rows(energy.numel(), x.shape[1], torch.get_num_threads())
    compiled.call("row_energy", shape, rows, energy)
    return energy
