"""The similarity applied to patches, and the gradients of that: all of the dynamic convolution but its products.

    u[p,k,c] = m[p][k] x[c, p + offset(k)]                diagonal
    u[p,k,c] = sum_l M[p][k,l] x[c, p + offset(l)]        unconstrained

`Patches` has the two operations in plain PyTorch, which run on every device, and calls the compiled ones of
`kernels.cpp` where those can be had. Letters as in `nsl.kernels.convolution`; everything here is channels last:
x [n, H, W, C], u [n, Ho, Wo, K, C], m [n, Ho, Wo, K] or [n, Ho, Wo, K, K].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nsl.kernels import compiled
from nsl.kernels.geometry import tap_slices
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
        for k, (rows, columns) in enumerate(tap_slices(self.kernel, self.stride, self.dilation, self.out)):
            scattered[:, rows, columns] += dtaps[:, :, :, k]
        (height, width), (top, left) = self.size, self.padding
        new_dx = scattered[:, top : top + height, left : left + width].to(x.dtype)
        if dm is None or dx is None:
            return u, new_dm, new_dx
        return u, dm.copy_(new_dm), dx.copy_(new_dx)
