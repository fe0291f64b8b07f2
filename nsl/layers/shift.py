"""A folded shift layer: shifted inputs and one 1x1 convolution (paper 3.4, "sparsity-one")."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.kernels.geometry import fitting_size
from nsl.layers.inputs import unbatched
from nsl.layers.similarity import random_state_kept


class ShiftConv2d(nn.Module):
    """The convolution whose kernel is zero off a few taps, as shifts of the input followed by a 1x1 convolution.

    A layer with the shift structure has one non-zero a row of M: kernel tap k reads input tap l(k). The folded kernel
    lives on the distinct l(k) only; with one of them left this is exactly a shift and a 1x1 convolution.

    Args:
        kernel: the folded kernel [F, C, kh, kw].
        bias: [F] or None.
        stride, padding, dilation: of the convolution it replaces (zero padding).

    Buffers and parameters:
        pointwise.weight [F, C * T, 1, 1], taps [T, 2] (row and column of each tap that is left).

    Shapes: [B, C, H, W] (or [C, H, W]) to [B, F, Ho, Wo].
    """

    taps: Tensor

    def __init__(
        self,
        kernel: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.kernel_size = (int(kernel.shape[2]), int(kernel.shape[3]))
        kernel = kernel.detach()
        taps = kernel.abs().amax((0, 1)).nonzero()
        if len(taps) == 0:
            taps = taps.new_zeros(1, 2)
        self.register_buffer("taps", taps)
        # Known as numbers too, so that no graph depends on a buffer's values.
        self._places = [(int(i), int(j)) for i, j in taps]
        filters, channels = kernel.shape[:2]
        with random_state_kept([kernel]):
            self.pointwise = nn.Conv2d(
                channels * len(taps), filters, 1, bias=bias is not None, device=kernel.device, dtype=kernel.dtype
            )
        with torch.no_grad():
            left = kernel[:, :, taps[:, 0], taps[:, 1]]  # [F, C, T]
            self.pointwise.weight.copy_(left.transpose(1, 2).reshape(filters, -1, 1, 1))
            if bias is not None and self.pointwise.bias is not None:
                self.pointwise.bias.copy_(bias.detach())

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Saved are the taps that the layer computes with, whatever has become of the buffer: averaging the buffers of
        several networks rounds whole numbers."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.taps.is_meta:
            destination[f"{prefix}taps"] = self.taps.new_tensor(self._places)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Loading brings other taps, also another number of them: the shifts and the 1x1 kernel's shape follow."""
        taps = state_dict.get(f"{prefix}taps")
        if taps is not None and not taps.is_meta:
            self._places = [(int(i), int(j)) for i, j in taps.tolist()]
            if len(taps) != len(self.taps):
                conv = self.pointwise
                conv.in_channels = conv.in_channels // len(self.taps) * len(taps)
                # The same parameter of another size, so that an optimiser that has it keeps it.
                conv.weight.data = conv.weight.new_empty(conv.out_channels, conv.in_channels, 1, 1)
                conv.weight.grad = None
                self.taps = self.taps.new_empty(taps.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        text = f"shifts={len(self._places)}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{text}, padding={self.padding}, dilation={self.dilation}"

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo]."""
        if unbatched(input, self.pointwise.in_channels // len(self._places)):
            return self(input.unsqueeze(0)).squeeze(0)
        fitting_size(input, self.kernel_size, self.stride, self.padding, self.dilation)
        padded = F.pad(input, (self.padding[1], self.padding[1], self.padding[0], self.padding[0]))
        # Not `tap_slices`, whose ends are rounded to the stride: sizes that a graph leaves open would be pinned down.
        span = [self.dilation[i] * (self.kernel_size[i] - 1) for i in (0, 1)]
        height, width = padded.shape[2] - span[0], padded.shape[3] - span[1]
        shifted = []
        for i, j in self._places:
            top, left = i * self.dilation[0], j * self.dilation[1]
            shifted.append(padded[:, :, top : top + height : self.stride[0], left : left + width : self.stride[1]])
        return self.pointwise(shifted[0] if len(shifted) == 1 else torch.cat(shifted, 1))
