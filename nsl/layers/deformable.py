"""Deformable and active convolution: taps that move, with the input or for good (paper 2, refs. 13, 25).

Sources: Dai et al., Deformable Convolutional Networks, ICCV 2017; the modulation is that of Zhu et al., Deformable
ConvNets v2, CVPR 2019. Active convolution: Jeon, Kim, Active Convolution, CVPR 2017. Sampling is
`torch.nn.functional.grid_sample`, so that no other library is needed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.kernels.maps import Pair
from nsl.kernels.precision import exactly, wide_type
from nsl.layers.inputs import check_maps
from nsl.layers.window import Window

#: Learning rate of what moves the taps, relative to the network's; v2's.
OFFSET_RATE = 0.1


class Places(nn.Module):
    """Learned offsets of the taps of an active convolution; a module, so that they can have a rate of their own.

    Parameters:
        shift [K, 2], down and right in pixels.
    """

    def __init__(self, taps: int, **made: Any) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(taps, 2, **made))


def moved_patches(input: Tensor, offsets: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """What every tap reads at every position from the place that it was moved to, between the pixels by interpolation.

    Args:
        input: [B, C, H, W].
        offsets: d [B, K, 2, Ho, Wo], down and right, in pixels.
        kernel, stride, padding, dilation: of the convolution.

    Returns:
        [B, C, K, Ho, Wo] in at least float32.
    """
    size, wide = offsets.shape[3:], wide_type(input)

    def axis(number: int) -> Tensor:
        outputs = torch.arange(size[number], device=input.device, dtype=wide) * stride[number]
        taps = torch.arange(kernel[number], device=input.device, dtype=wide)
        return outputs - padding[number] + dilation[number] * taps[:, None]  # [taps, outputs]

    # Places in bfloat16 would be whole pixels apart.
    with exactly(input):
        down = axis(0)[:, None, :, None].expand(*kernel, *size)
        right = axis(1)[None, :, None, :].expand(*kernel, *size)
        places = torch.stack([down, right], 2).flatten(0, 1) + offsets.to(wide)
        # Filled on the device: a number put into it would be a copy from the host, which no graph can capture.
        extent = torch.stack([places.new_full((), side) for side in input.shape[2:]])
        # grid_sample's coordinates: -1 and 1 are the outer edges of the first and last pixel; x before y.
        unit = (2 * places + 1) / extent[:, None, None] - 1
        grid = unit.flip(2).movedim(2, -1).flatten(1, 2)  # [B, K Ho, Wo, 2]
        found = F.grid_sample(input.to(wide), grid, "bilinear", "zeros", align_corners=False)
    return found.unflatten(2, (kernel[0] * kernel[1], size[0]))


torch.fx.wrap("moved_patches")  # a leaf of the graphs that torch.fx traces


class DeformConv2d(Window):
    """A convolution whose every tap is read at a place of its own, between the pixels by bilinear interpolation.

        y[f,p] = sum_{c,k} W[f,c,k] m[k](p) x[c, p + offset(k) + d[k](p)] + b[f]

    d is predicted by a plain convolution of the same window, which starts at zero, and m, with `modulated`, is
    2 sigmoid of another one, so that the layer starts as the plain convolution. With d = 0 the mask m is a dynamic
    diagonal similarity (DNS); a learned kernel shape D (3.5) chooses among fixed places instead. Outside of the map
    x is zero. With `predicted` off d is a learned number a tap, the same at every position: active convolution.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias, device, dtype: as in
            `torch.nn.Conv2d`; zero padding, one group.
        rate: learning rate of offset and modulation relative to the other layers' (`nsl.training`).
        predicted: whether the input moves the taps.
        modulated: multiply the taps (v2). v2 has a plain sigmoid; the factor 2 makes 1 the neutral start.

    Parameters:
        weight [F, C, kh, kw], bias [F], offset.weight [2 K, C, kh, kw], offset.bias [2 K] or places.shift [K, 2], with
        modulated modulation.weight [K, C, kh, kw], modulation.bias [K].

    Shapes: input [B, C, H, W], output [B, F, Ho, Wo]; offsets in pixels of the input, (down, right) for every tap.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        *,
        modulated: bool = False,
        rate: float = OFFSET_RATE,
        predicted: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        window: tuple[Any, ...] = (self.kernel_size, *self.geometry)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size, **made))
        self.offset = nn.Conv2d(in_channels, 2 * self.taps, *window, **made) if predicted else None
        self.places = None if predicted else Places(self.taps, **made)
        self.modulation = nn.Conv2d(in_channels, self.taps, *window, **made) if modulated else None
        for part in (self.offset, self.places, self.modulation):
            if part is not None:
                part.rate = rate  # type: ignore[assignment]
        self.rate_of_offsets = rate
        self.add_bias(bias, **made)
        self.reset_parameters()

    def extra_repr(self) -> str:
        usual = self.rate_of_offsets == OFFSET_RATE
        return super().extra_repr() + ("" if usual else f", rate={self.rate_of_offsets:g}")

    def reset_parameters(self) -> None:
        """He initialisation of the kernel; everything that moves or scales taps starts at zero."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        for layer in (self.offset, self.modulation):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if self.places is not None:
            nn.init.zeros_(self.places.shift)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def offsets(self, input: Tensor) -> Tensor:
        """d [B, K, 2, Ho, Wo] of [B, C, H, W]: how far every tap moves down and right, in pixels."""
        check_maps(input, self.in_channels, batched=True)
        if self.offset is None:
            assert self.places is not None
            return self.places.shift[None, :, :, None, None].expand(input.shape[0], -1, -1, *self.map_size(input))
        return self.offset(input).unflatten(1, (self.taps, 2))

    def masks(self, input: Tensor) -> Tensor | None:
        """m [B, K, Ho, Wo] in (0, 2) of [B, C, H, W], or None without modulation."""
        return None if self.modulation is None else 2 * torch.sigmoid(self.modulation(input))

    def sample(self, input: Tensor, offsets: Tensor) -> Tensor:
        """The moved patches [B, C, K, Ho, Wo] of [B, C, H, W], given d [B, K, 2, Ho, Wo]; in at least float32."""
        return moved_patches(input, offsets, self.kernel_size, *self.geometry)

    def multiply_adds(self, input: Tensor, output: Tensor) -> int:
        """Of one image, without those of its parts: four products a sampled value, and the kernel's."""
        places = output.shape[-2] * output.shape[-1]
        return places * (4 * self.in_channels * self.taps + self.weight.numel())

    def observed(self, input: Tensor) -> dict[str, Tensor]:
        """Mean and spread over images and positions of the offsets, [K, 2], and the first image's, [K, 2, Ho, Wo]."""
        offsets = self.offsets(input)
        return {"mean": offsets.mean((0, 3, 4)), "std": offsets.std((0, 3, 4)), "first": offsets[0]}

    def maps(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo]."""
        height, width = self.map_size(input)
        if isinstance(input, Tensor) and input.numel() == 0:  # grid_sample takes no empty batch
            # Gradients are there, of nothing: processes that share a training wait for each other's.
            nothing = sum((parameter.sum() for parameter in self.parameters()), input.sum())
            return input.new_zeros(input.shape[0], self.out_channels, height, width) + 0 * nothing
        moved = self.sample(input, self.offsets(input))
        masks = self.masks(input)
        if masks is not None:
            moved = moved * masks.to(moved.dtype).unsqueeze(1)
        patches = moved.to(input.dtype).flatten(1, 2).flatten(2)  # [B, C K, P]
        output = (self.weight.flatten(1) @ patches).unflatten(-1, (height, width))
        return self.with_bias(output)
