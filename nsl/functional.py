"""The one hot path: a convolution whose similarity differs from position to position (paper 3.3).

    y[f,p] = sum_c sum_{k,l} W[f,c,k] * M[p][k,l] * x[c, p + offset(l)]      unconstrained (UNS)
    y[f,p] = sum_c sum_k     W[f,c,k] * m[p][k]   * x[c, p + offset(k)]      diagonal (DNS)

Index letters, here and in all docstrings: B batch, C input channels, F filters, H x W map, Ho x Wo output
map, K = kernel_height * kernel_width taps, k kernel tap, l input tap, p output position, q input position.

Two implementations of the same definition:

* `_unfolded` builds all patches and multiplies them: plain differentiable tensor operations, any stride and
  any groups, K times the input's memory.
* `_DiagonalConv` and `_UnconstrainedConv` walk the batch in chunks that stay in the cache, multiply the taps by
  their similarity into one reused buffer and call one matrix product a chunk. Nothing of size K * C is kept for
  the backward pass, it is rebuilt there. Stride 1 and one group, which is every layer of the paper. Few channels
  on a small map are left to `_unfolded`, whose inner loops run over positions and not over channels.

`neural_similarity_conv2d` chooses; users never need to.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of the reused buffer of one chunk. Measured on 2 cores with 1 MiB of L2 each and 32 MiB of L3:
# anything between 1 and 4 million is within a few percent, smaller loses to call overhead, larger to the cache.
_CHUNK_ELEMENTS = 1 << 21
# With fewer channels than this and all patches fitting the cache (elements), unfolding is the faster: 3.4 against
# 8.8 ms at 8 channels, 16x16, batch 32 on one core; 144 against 109 ms at 32x32, batch 128.
_UNFOLD_CHANNELS, _UNFOLD_ELEMENTS = 16, 1 << 20


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


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


def neural_similarity_conv2d(
    input: Tensor,
    weight: Tensor,
    similarity: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve with one similarity matrix a position, shared by all channels and filters (paper 3.3, eq. 2).

    Args:
        input: [B, C, H, W].
        weight: [F, C / groups, kh, kw]; K = kh * kw taps in row-major order.
        similarity: [B, K, Ho, Wo] (diagonal: a mask a position) or [B, K, K, Ho, Wo] (unconstrained; the first
            K is the kernel tap k, the second the input tap l).
        bias: [F] or None.
        stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`; integers or pairs.

    Returns:
        [B, F, Ho, Wo]. With an all-ones mask, or the identity at every position, this is
        `torch.nn.functional.conv2d(input, weight, bias, stride, padding, dilation, groups)`.

    Raises:
        ValueError: a shape does not fit; the sentence names the argument and the expected shape.
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    _check_shapes(input, weight, similarity, stride, padding, dilation, groups)
    if torch.is_autocast_enabled(input.device.type):
        dtype = torch.get_autocast_dtype(input.device.type)
        input, weight, similarity = input.to(dtype), weight.to(dtype), similarity.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    kernel = (weight.shape[2], weight.shape[3])
    # The chunked backward pass gathers from the output map padded by reach - padding, which must not be negative.
    gathers = all(padding[i] <= dilation[i] * (kernel[i] - 1) for i in (0, 1))
    patches = input.shape[0] * similarity.shape[-2] * similarity.shape[-1] * weight[0].numel()
    small = input.shape[1] < _UNFOLD_CHANNELS and patches < _UNFOLD_ELEMENTS
    if stride == (1, 1) and groups == 1 and gathers and not small and input.numel() > 0:
        function: Any = _DiagonalConv if similarity.dim() == 4 else _UnconstrainedConv
        output = function.apply(input, weight, similarity, padding, dilation)
    else:
        output = _unfolded(input, weight, similarity, stride, padding, dilation, groups)
    return output if bias is None else output + bias.view(1, -1, 1, 1)


def _check_shapes(
    input: Tensor,
    weight: Tensor,
    similarity: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    if input.dim() != 4:
        raise ValueError(f"input must be [B, C, H, W], got {list(input.shape)}")
    if weight.dim() != 4 or weight.shape[1] * groups != input.shape[1] or weight.shape[0] % groups:
        raise ValueError(
            f"weight must be [F, C / groups, kh, kw] with C = {input.shape[1]} and groups = {groups}, "
            f"got {list(weight.shape)}"
        )
    kernel = (weight.shape[2], weight.shape[3])
    taps = kernel[0] * kernel[1]
    out = output_size((input.shape[2], input.shape[3]), kernel, stride, padding, dilation)
    if min(out) < 1:
        raise ValueError(
            f"input of {input.shape[2]}x{input.shape[3]} is smaller than the kernel {kernel} with "
            f"dilation {dilation} and padding {padding}"
        )
    expected = [input.shape[0], taps, *out]
    if list(similarity.shape) not in (expected, [input.shape[0], taps, taps, *out]):
        raise ValueError(
            f"similarity must be {expected} (diagonal) or {[input.shape[0], taps, taps, *out]} (unconstrained), "
            f"got {list(similarity.shape)}"
        )


def _unfolded(
    input: Tensor,
    weight: Tensor,
    similarity: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """The definition by patches: unfold, apply the similarity, multiply. Any stride and groups."""
    batch, channels = input.shape[:2]
    filters, _, kh, kw = weight.shape
    taps, out = kh * kw, similarity.shape[-2:]
    patches = F.unfold(input, (kh, kw), dilation, padding, stride).view(batch, channels, taps, -1)
    if similarity.dim() == 4:
        patches = patches * similarity.reshape(batch, 1, taps, -1)
    else:
        patches = torch.einsum("bklp,bclp->bckp", similarity.reshape(batch, taps, taps, -1), patches)
    columns = patches.reshape(batch, groups, channels // groups * taps, -1)
    rows = weight.reshape(1, groups, filters // groups, -1)
    return (rows @ columns).reshape(batch, filters, *out)


def _nhwc(tensor: Tensor) -> Tensor:
    """[B, C, H, W] to a contiguous [B, H, W, C]; free for channels_last tensors."""
    return tensor.permute(0, 2, 3, 1).contiguous()


class _Chunk:
    """A zero-bordered buffer of n maps and its overlapping view of all taps.

    Args:
        n: maps in the buffer.
        maps: [B, H, W, D] contiguous, where the maps come from.
        margin: rows and columns of zeros on each side.
        kernel, dilation: geometry of the taps.
        shear: with shear, tap (i, j) of the view reads element i * kw + j of the last axis, D = K: the
            similarity that belongs to the tap's own position. Without, a tap sees all D elements.
    """

    def __init__(
        self,
        n: int,
        maps: Tensor,
        margin: tuple[int, int],
        kernel: tuple[int, int],
        dilation: tuple[int, int],
        shear: bool = False,
    ) -> None:
        _, height, width, depth = maps.shape
        (kh, kw), (dh, dw) = kernel, dilation
        self.maps, self.n = maps, n
        rows, columns = height + 2 * margin[0], width + 2 * margin[1]
        self.padded = maps.new_zeros(n, rows, columns, depth)
        self.inner = self.padded[:, margin[0] : margin[0] + height, margin[1] : margin[1] + width]
        out = (rows - dh * (kh - 1), columns - dw * (kw - 1))
        s = self.padded.stride()
        if shear:
            size: tuple[int, ...] = (n, *out, kh, kw)
            strides: tuple[int, ...] = (s[0], s[1], s[2], s[1] * dh + kw, s[2] * dw + 1)
        else:
            size = (n, *out, kh, kw, depth)
            strides = (s[0], s[1], s[2], s[1] * dh, s[2] * dw, 1)
        self.taps = self.padded.as_strided(size, strides)

    def fill(self, start: int, stop: int) -> Tensor:
        """Copy maps start..stop in; returns the view of their taps [stop - start, Ho, Wo, kh, kw(, D)]."""
        self.inner[: stop - start].copy_(self.maps[start:stop])
        return self.taps[: stop - start]


def _chunks(batch: int, elements_per_image: int) -> tuple[int, list[tuple[int, int]]]:
    n = max(1, min(batch, _CHUNK_ELEMENTS // max(1, elements_per_image)))
    return n, [(start, min(start + n, batch)) for start in range(0, batch, n)]


class _DiagonalConv(torch.autograd.Function):
    """DNS, stride 1, one group.

    Forward: U[p,k,c] = m[p,k] x[p+k,c], y = U W.
    Backward, with G[q,k,f] = m[q-k,k] dy[q-k,f] (the transposed gather, so nothing is scattered):
    dx = G W', dW = G^T x, dm[p,k] = sum_c (dy W^T)[p,k,c] x[p+k,c].
    """

    @staticmethod
    def forward(
        input: Tensor, weight: Tensor, similarity: Tensor, padding: tuple[int, int], dilation: tuple[int, int]
    ) -> Tensor:
        filters, channels, kh, kw = weight.shape
        taps = kh * kw
        x, m = _nhwc(input), _nhwc(similarity)
        batch, ho, wo, _ = m.shape
        matrix = weight.permute(2, 3, 1, 0).reshape(taps * channels, filters)
        y = x.new_empty(batch, ho, wo, filters)
        n, chunks = _chunks(batch, ho * wo * taps * channels)
        patches = _Chunk(n, x, padding, (kh, kw), dilation)
        buffer = x.new_empty(n, ho, wo, kh, kw, channels)
        for start, stop in chunks:
            u = buffer[: stop - start]
            mask = m[start:stop].view(stop - start, ho, wo, kh, kw, 1)
            torch.mul(patches.fill(start, stop), mask, out=u)
            torch.mm(u.view(-1, taps * channels), matrix, out=y[start:stop].view(-1, filters))
        return y.permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, similarity, ctx.padding, ctx.dilation = inputs
        ctx.save_for_backward(input, weight, similarity)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        input, weight, similarity = ctx.saved_tensors
        padding, dilation = ctx.padding, ctx.dilation
        filters, channels, kh, kw = weight.shape
        taps, kernel = kh * kw, (kh, kw)
        need_x, need_w, need_m = ctx.needs_input_grad[:3]
        x, m, dy = _nhwc(input), _nhwc(similarity), _nhwc(grad_outputs[0])
        batch, height, width, _ = x.shape
        ho, wo = m.shape[1:3]
        dx = torch.empty_like(x) if need_x else None
        dm = torch.empty_like(m) if need_m else None
        dw = x.new_zeros(taps * filters, channels, dtype=_accumulate_dtype(x.dtype)) if need_w else None
        n, chunks = _chunks(batch, max(ho * wo * channels, height * width * filters) * taps)
        if need_x or need_w:
            reach = (dilation[0] * (kh - 1) - padding[0], dilation[1] * (kw - 1) - padding[1])
            gradients = _Chunk(n, dy, reach, kernel, dilation)
            masks = _Chunk(n, m.flip(-1), reach, kernel, dilation, shear=True)
            matrix_x = weight.flip(2, 3).permute(2, 3, 0, 1).reshape(taps * filters, channels)
            buffer_x = x.new_empty(n, height, width, kh, kw, filters)
        if need_m:
            patches = _Chunk(n, x, padding, kernel, dilation)
            matrix_m = weight.permute(0, 2, 3, 1).reshape(filters, taps * channels)
            buffer_m = x.new_empty(n, ho, wo, kh, kw, channels)
        for start, stop in chunks:
            if need_x or need_w:
                g = buffer_x[: stop - start]
                torch.mul(gradients.fill(start, stop), masks.fill(start, stop).unsqueeze(-1), out=g)
                rows = g.view(-1, taps * filters)
                if dx is not None:
                    torch.mm(rows, matrix_x, out=dx[start:stop].view(-1, channels))
                if dw is not None:
                    dw += rows.t() @ x[start:stop].view(-1, channels)
            if dm is not None:
                v = buffer_m[: stop - start]
                torch.mm(dy[start:stop].view(-1, filters), matrix_m, out=v.view(-1, taps * channels))
                v.mul_(patches.fill(start, stop))
                torch.sum(v.view(-1, taps, channels), -1, out=dm[start:stop].view(-1, taps))
        grad_weight = None
        if dw is not None:
            grad_weight = dw.view(kh, kw, filters, channels).permute(2, 3, 0, 1).flip(2, 3).to(weight.dtype)
        return (
            None if dx is None else dx.permute(0, 3, 1, 2),
            grad_weight,
            None if dm is None else dm.permute(0, 3, 1, 2),
            None,
            None,
        )


class _UnconstrainedConv(torch.autograd.Function):
    """UNS, stride 1, one group: U[p,k,c] = sum_l M[p][k,l] x[p+l,c] by one small product a position, y = U W."""

    @staticmethod
    def forward(
        input: Tensor, weight: Tensor, similarity: Tensor, padding: tuple[int, int], dilation: tuple[int, int]
    ) -> Tensor:
        filters, channels, kh, kw = weight.shape
        taps = kh * kw
        x = _nhwc(input)
        m = similarity.permute(0, 3, 4, 1, 2).contiguous()
        batch, ho, wo = m.shape[:3]
        matrix = weight.permute(2, 3, 1, 0).reshape(taps * channels, filters)
        y = x.new_empty(batch, ho, wo, filters)
        n, chunks = _chunks(batch, ho * wo * taps * channels)
        patches = _Chunk(n, x, padding, (kh, kw), dilation)
        for start, stop in chunks:
            columns = patches.fill(start, stop).reshape(-1, taps, channels)
            u = torch.bmm(m[start:stop].view(-1, taps, taps), columns)
            torch.mm(u.view(-1, taps * channels), matrix, out=y[start:stop].view(-1, filters))
        return y.permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, similarity, ctx.padding, ctx.dilation = inputs
        ctx.save_for_backward(input, weight, similarity)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        input, weight, similarity = ctx.saved_tensors
        padding, dilation = ctx.padding, ctx.dilation
        filters, channels, kh, kw = weight.shape
        taps, kernel = kh * kw, (kh, kw)
        need_x, need_w, need_m = ctx.needs_input_grad[:3]
        x, dy = _nhwc(input), _nhwc(grad_outputs[0])
        m = similarity.permute(0, 3, 4, 1, 2).contiguous()
        batch, ho, wo = m.shape[:3]
        dx = torch.empty_like(x) if need_x else None
        dm = torch.empty_like(m) if need_m else None
        dw = x.new_zeros(filters, taps * channels, dtype=_accumulate_dtype(x.dtype)) if need_w else None
        n, chunks = _chunks(batch, ho * wo * taps * channels)
        patches = _Chunk(n, x, padding, kernel, dilation)
        scatter = _Chunk(n, x, padding, kernel, dilation)
        matrix = weight.permute(0, 2, 3, 1).reshape(filters, taps * channels)
        for start, stop in chunks:
            rows = dy[start:stop].view(-1, filters)
            similarities = m[start:stop].view(-1, taps, taps)
            if need_w or need_m:
                columns = patches.fill(start, stop).reshape(-1, taps, channels)
            if dw is not None:
                dw += rows.t() @ torch.bmm(similarities, columns).view(-1, taps * channels)
            if not (need_x or need_m):
                continue
            du = (rows @ matrix).view(-1, taps, channels)
            if dm is not None:
                torch.bmm(du, columns.transpose(1, 2), out=dm[start:stop].view(-1, taps, taps))
            if dx is not None:
                dcolumns = torch.bmm(similarities.transpose(1, 2), du).view(-1, ho, wo, kh, kw, channels)
                scatter.padded.zero_()
                for i in range(kh):
                    for j in range(kw):
                        top, left = i * dilation[0], j * dilation[1]
                        target = scatter.padded[: stop - start, top : top + ho, left : left + wo]
                        target += dcolumns[:, :, :, i, j]
                dx[start:stop] = scatter.inner[: stop - start]
        grad_weight = None
        if dw is not None:
            grad_weight = dw.view(filters, kh, kw, channels).permute(0, 3, 1, 2).to(weight.dtype)
        return (
            None if dx is None else dx.permute(0, 3, 1, 2),
            grad_weight,
            None if dm is None else dm.permute(0, 3, 4, 1, 2),
            None,
            None,
        )


def _accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """Weight gradients of the chunks are added up in at least float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
