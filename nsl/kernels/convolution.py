"""The one hot path: a convolution whose similarity differs from position to position (paper 3.3).

    y[f,p] = sum_c sum_{k,l} W[f,c,k] * M[p][k,l] * x[c, p + offset(l)]      unconstrained (UNS)
    y[f,p] = sum_c sum_k     W[f,c,k] * m[p][k]   * x[c, p + offset(k)]      diagonal (DNS)

Index letters, here and in all docstrings: B batch, C input channels, F filters, H x W map, Ho x Wo output
map, K = kernel_height * kernel_width taps, k kernel tap, l input tap, p output position, q input position.

Three implementations of the same definition:

* `by_patches` builds all patches and multiplies them: plain differentiable tensor operations, any geometry and
  any groups, K times the input's memory.
* `_SimilarityConv` walks the batch in chunks that stay in the cache, writes the patches with their similarity
  applied into one reused buffer (`nsl.kernels.patches`, compiled where there is a compiler), calls one matrix product
  a chunk. Nothing of size K * C is kept for the backward pass, it is rebuilt there. One group, which is every
  layer of the paper.
* `_fused` hands one group to the GPU's kernels (`nsl.kernels`), which take the patches from the input as they are
  multiplied: nothing of size K * C is ever written, but the unconstrained similarity's gradient of the patches.

`neural_similarity_conv2d` chooses; users never need to.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsl.kernels import compiled, operators
from nsl.kernels.definition import gradients_by_definition
from nsl.kernels.geometry import fitting_size, tap_slices
from nsl.kernels.layouts import as_laid_out, nhwc
from nsl.kernels.patches import Patches, chunk_bounds
from nsl.kernels.paths import UNCONSTRAINED_TAPS, path
from nsl.kernels.precision import wide_type

# Without the compiled kernels: with fewer channels than this and all patches fitting the cache (elements), unfolding is
# the faster, 3.4 against 8.8 ms at 8 channels, 16x16, batch 32 on one core; 144 against 109 ms at 32x32, batch 128.
_UNFOLD_CHANNELS, _UNFOLD_ELEMENTS = 16, 1 << 20


def pair(value: Any, name: str = "size") -> tuple[int, int]:
    """One number, of whatever integer type, or one or two in a sequence, as a pair; `name` is the argument's.

    Raises:
        ValueError: it is something else, as 1.5 is.
    """
    found = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if len(found) not in (1, 2) or not all(_is_whole(number) for number in found):
        raise ValueError(f"{name} must be an integer or a pair of integers, got {value!r}")
    return (_whole(found[0]), _whole(found[-1]))


def _is_whole(number: Any) -> bool:
    return isinstance(number, torch.SymInt) or hasattr(number, "__index__")


def _whole(number: Any) -> Any:
    return number if isinstance(number, torch.SymInt) else operator.index(number)


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
    """Convolve with one similarity matrix a position, shared by all channels and filters (paper 3.1, eq. 2).

    Args:
        input: [B, C, H, W].
        weight: [F, C / groups, kh, kw]; K = kh * kw taps in row-major order.
        similarity: [B, K, Ho, Wo] (diagonal: a mask a position) or [B, K, K, Ho, Wo] (unconstrained; the first
            K is the kernel tap k, the second the input tap l); of any type, brought to the input's.
        bias: [F] or None.
        stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`; integers or pairs.

    Returns:
        [B, F, Ho, Wo]. With an all-ones mask, or the identity at every position, this is
        `torch.nn.functional.conv2d(input, weight, bias, stride, padding, dilation, groups)`.

    Raises:
        ValueError: a shape does not fit, or a step is impossible; the sentence names the argument and what it can be.
    """
    stride, padding, dilation = pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation")
    if min(stride) < 1 or min(dilation) < 1 or min(padding) < 0:
        raise ValueError(
            f"stride and dilation must be at least 1 and padding at least 0, got {stride}, {dilation} and {padding}"
        )
    if not torch.compiler.is_exporting():  # where sizes are symbols, which a comparison would pin down
        _check_shapes(input, weight, similarity, bias, stride, padding, dilation, groups)
    device = input.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if autocast and input.dtype != torch.float64:  # which autocast leaves alone
        dtype = torch.get_autocast_dtype(device)
        input, weight, similarity = input.to(dtype), weight.to(dtype), similarity.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    similarity = similarity.to(input.dtype)  # a mask may be Boolean, a predictor may compute in another precision
    if path(input) == "triton" and _fusible(input, weight, similarity, groups):
        output = _fused(input, weight, similarity, stride, padding, dilation)
    elif groups == 1 and not _by_definition(input, weight, similarity):
        output = _SimilarityConv.apply(input, weight, similarity, stride, padding, dilation)
    else:
        output = by_patches(input, weight, similarity, stride, padding, dilation, groups)
    output = output if bias is None else output + bias.view(1, -1, 1, 1)
    return as_laid_out(output, input)


def _by_definition(input: Tensor, weight: Tensor, similarity: Tensor) -> bool:
    """Whether plain tensor operations are asked for, or the faster."""
    # Transforms of torch.func (vmap, jvp, ...), exported and traced graphs. First, since sizes may be symbols there.
    if compiled.in_transform() or torch.compiler.is_exporting():
        return True
    if not all(compiled.has_memory(tensor) for tensor in (input, weight, similarity)) or input.numel() == 0:
        return True
    patches = input.shape[0] * similarity.shape[-2] * similarity.shape[-1] * weight[0].numel()
    return input.shape[1] < _UNFOLD_CHANNELS and patches < _UNFOLD_ELEMENTS and path(input) == "plain"


def _check_shapes(
    input: Tensor,
    weight: Tensor,
    similarity: Tensor,
    bias: Tensor | None,
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
    if bias is not None and list(bias.shape) != [weight.shape[0]]:
        raise ValueError(f"bias must be [{weight.shape[0]}], one number a filter, got {list(bias.shape)}")
    kernel = (weight.shape[2], weight.shape[3])
    taps = kernel[0] * kernel[1]
    out = fitting_size(input, kernel, stride, padding, dilation)
    expected = [input.shape[0], taps, *out]
    if list(similarity.shape) not in (expected, [input.shape[0], taps, taps, *out]):
        raise ValueError(
            f"similarity must be {expected} (diagonal) or {[input.shape[0], taps, taps, *out]} (unconstrained), "
            f"got {list(similarity.shape)}"
        )


def by_patches(
    input: Tensor,
    weight: Tensor,
    similarity: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """The definition by patches: unfold, apply the similarity, multiply. Any stride and groups.

    Shapes as of `neural_similarity_conv2d`, which checks them; here all tensors have one type.
    """
    batch, channels = input.shape[:2]
    filters, _, kh, kw = weight.shape
    taps, out = kh * kw, similarity.shape[-2:]
    padded = F.pad(input, (padding[1], padding[1], padding[0], padding[0]))
    # Slices and not F.unfold: every tool that reads a graph knows them.
    slices = [
        padded[:, :, rows, columns] for rows, columns in tap_slices((kh, kw), stride, dilation, out)
    ]
    patches = torch.stack(slices, 2).flatten(3)
    places = out[0] * out[1]  # not -1, which an empty batch leaves open
    if similarity.dim() == 4:
        patches = patches * similarity.reshape(batch, 1, taps, places)
    else:
        patches = torch.einsum("bklp,bclp->bckp", similarity.reshape(batch, taps, taps, places), patches)
    columns = patches.reshape(batch, groups, channels // groups * taps, places)
    rows = weight.reshape(1, groups, filters // groups, -1)
    return (rows @ columns).reshape(batch, filters, *out)


def _similarity_last(similarity: Tensor) -> Tensor:
    """[B, K, Ho, Wo] or [B, K, K, Ho, Wo] to a contiguous [B, Ho, Wo, K] or [B, Ho, Wo, K, K]."""
    order = (0, 2, 3, 1) if similarity.dim() == 4 else (0, 3, 4, 1, 2)
    return similarity.permute(order).contiguous()


def _fusible(input: Tensor, weight: Tensor, similarity: Tensor, groups: int) -> bool:
    """Whether the GPU's kernels are for this call."""
    few = similarity.dim() == 4 or similarity.shape[1] <= UNCONSTRAINED_TAPS
    same = input.dtype == weight.dtype == similarity.dtype and input.device == weight.device == similarity.device
    return groups == 1 and few and same and input.numel() > 0 and weight.numel() > 0


def _fused(
    input: Tensor,
    weight: Tensor,
    similarity: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """One group by the operators of `nsl.kernels`; the layouts are changed outside them, where a compiler sees it."""
    filters, channels, kh, kw = weight.shape
    w = weight.permute(2, 3, 1, 0).reshape(kh * kw, channels, filters).contiguous()
    window = [kh, kw, *stride, *padding, *dilation]
    y = operators.similarity_conv(nhwc(input), w, _similarity_last(similarity), window)
    return y.permute(0, 3, 1, 2)


def _differentiable_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The three gradients as differentiable functions of everything they depend on, by way of the definition."""
    input, weight, similarity = ctx.saved_tensors
    stride, padding, dilation = ctx.geometry

    def definition(input: Tensor, weight: Tensor, similarity: Tensor) -> Tensor:
        return by_patches(input, weight, similarity, stride, padding, dilation, 1)

    tensors = (input, weight, similarity)
    return gradients_by_definition(definition, tensors, ctx.needs_input_grad[:3], [gradient])


class _SimilarityConv(torch.autograd.Function):
    """One group, chunk by chunk: U = similarity applied to the patches (`nsl.kernels.patches`), y = U W.

    Backward, three products as for a convolution: V = dy W^T is dL/dU; from V come dm and dx, and U itself is
    made again in V's place; dW = U^T dy.
    """

    @staticmethod
    def forward(
        input: Tensor,
        weight: Tensor,
        similarity: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        filters, channels, kh, kw = weight.shape
        taps = kh * kw
        x, m = nhwc(input), _similarity_last(similarity)
        batch, ho, wo = m.shape[:3]
        patches = Patches((x.shape[1], x.shape[2]), (ho, wo), (kh, kw), stride, padding, dilation)
        matrix = weight.permute(2, 3, 1, 0).reshape(taps * channels, filters)
        if torch.compiler.is_compiling():  # the compiler cuts its own loops
            y = patches.apply(x, m).reshape(-1, taps * channels) @ matrix
            return y.view(batch, ho, wo, filters).permute(0, 3, 1, 2)
        output = torch.empty(
            (batch, filters, ho, wo), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
        )
        y = output.permute(0, 2, 3, 1)  # the output itself is no view, so that users may change it in place
        n, chunks = chunk_bounds(batch, ho * wo * taps * channels * x.element_size(), x.device)
        buffer = x.new_empty(n, ho, wo, taps, channels)
        for start, stop in chunks:
            u = patches.apply(x[start:stop], m[start:stop], buffer[: stop - start])
            torch.mm(u.view(-1, taps * channels), matrix, out=y[start:stop].view(-1, filters))
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, similarity, *ctx.geometry = inputs
        ctx.save_for_backward(input, weight, similarity)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        input, weight, similarity = ctx.saved_tensors
        compiling = torch.compiler.is_compiling()
        # create_graph=True: a second derivative is wanted, or many first ones at once.
        if (torch.is_grad_enabled() and not compiling) or compiled.batched(*grad_outputs):
            return (*_differentiable_backward(ctx, grad_outputs[0]), None, None, None)
        filters, channels, kh, kw = weight.shape
        taps = kh * kw
        x, m, dy = nhwc(input), _similarity_last(similarity), nhwc(grad_outputs[0])
        batch, ho, wo = m.shape[:3]
        patches = Patches((x.shape[1], x.shape[2]), (ho, wo), (kh, kw), *ctx.geometry)
        matrix = weight.permute(0, 2, 3, 1).reshape(filters, taps * channels)
        if compiling:
            rows = dy.view(-1, filters)
            u, dm, dx = patches.gradients((rows @ matrix).view(batch, ho, wo, taps, channels), x, m)
            dw = u.reshape(-1, taps * channels).t() @ rows
        else:
            dx, dm = torch.empty_like(x), torch.empty_like(m)
            # The chunks' weight gradients are added up in at least float32.
            wide = wide_type(x)
            dw = x.new_zeros(taps * channels, filters, dtype=wide)
            n, chunks = chunk_bounds(batch, ho * wo * taps * channels * x.element_size(), x.device)
            buffer = x.new_empty(n, ho, wo, taps, channels)
            for start, stop in chunks:
                v, rows = buffer[: stop - start], dy[start:stop].view(-1, filters)
                torch.mm(rows, matrix, out=v.view(-1, taps * channels))
                u, _, _ = patches.gradients(v, x[start:stop], m[start:stop], dm[start:stop], dx[start:stop])
                if ctx.needs_input_grad[1]:
                    columns = u.view(-1, taps * channels).t()  # a tenth faster than its transpose at 32 filters
                    if x.dtype == wide:
                        dw.addmm_(columns, rows)
                    else:
                        dw += columns @ rows
        return (
            dx.permute(0, 3, 1, 2),
            dw.view(kh, kw, channels, filters).permute(3, 2, 0, 1).to(weight.dtype),
            dm.permute((0, 3, 1, 2) if m.dim() == 4 else (0, 3, 4, 1, 2)),
            None,
            None,
            None,
        )
