"""What convolutions without a single static kernel share: geometry, patches, and one kernel an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.kernels.convolution import pair
from nsl.kernels.geometry import fitting_size, output_size, tap_slices
from nsl.kernels.layouts import as_laid_out
from nsl.layers.inputs import unbatched

torch.fx.wrap("image_by_image")  # a leaf of the graphs that torch.fx traces


def image_by_image(
    input: Tensor,
    kernels: Tensor,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """`Window.each_its_kernel` as one grouped convolution: its groups are the images, or all their channels."""
    batch, channels, *size = input.shape
    height, width = output_size((size[0], size[1]), kernel_size, stride, padding, dilation)
    if batch == 0:  # no groups; gradients are still there, of nothing
        return input.new_zeros(0, kernels.shape[1], height, width) + 0 * (input.sum() + kernels.sum())
    bank = kernels.flatten(0, 1).unflatten(-1, kernel_size)
    groups = batch * channels // kernels.shape[2]
    maps = F.conv2d(input.reshape(1, -1, *size), bank, None, stride, padding, dilation, groups)
    # By permuting: a map over calls (vmap) cannot ask for a memory format.
    return maps.view(batch, -1, height, width).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


class Window(nn.Module):
    """The geometry of a two-dimensional convolution with zero padding and one group, and its patches.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation: as in `torch.nn.Conv2d`.

    Raises:
        ValueError: a number of channels is below 1, or padding is no number.
    """

    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels) < 1:
            raise ValueError(f"in_channels and out_channels must be positive, got {in_channels} and {out_channels}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = pair(kernel_size, "kernel_size"), pair(stride, "stride")
        self.padding, self.dilation = pair(padding, "padding"), pair(dilation, "dilation")

    def add_bias(
        self, bias: bool, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Register the parameter `bias` [F], or None without one; the layer fills it.

        Raises:
            ValueError: bias is neither True nor False, as where `nn.Conv2d`'s groups are given by their place.
        """
        if not isinstance(bias, bool):
            raise ValueError(f"bias must be True or False, got {bias!r}; {type(self).__name__} has no groups")
        own = nn.Parameter(torch.empty(self.out_channels, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", own)

    def with_bias(self, output: Tensor) -> Tensor:
        """The map [B, F, Ho, Wo] plus the bias in the map's type."""
        return output if self.bias is None else output + self.bias.to(output.dtype).view(1, -1, 1, 1)

    @property
    def taps(self) -> int:
        """K, the number of kernel taps."""
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def geometry(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Stride, padding, dilation."""
        return self.stride, self.padding, self.dilation

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo], or both without B.

        Raises:
            ValueError: the input is neither.
        """
        if unbatched(input, self.in_channels):
            return self.forward(input.unsqueeze(0)).squeeze(0)
        return as_laid_out(self.maps(input), input)

    def maps(self, input: Tensor) -> Tensor:
        """The layer itself, [B, C, H, W] to [B, F, Ho, Wo]."""
        raise NotImplementedError

    def map_size(self, input: Tensor) -> tuple[int, int]:
        """Height and width of the output map of [B, C, H, W].

        Raises:
            ValueError: the input is smaller than the kernel.
        """
        return fitting_size(input, self.kernel_size, *self.geometry)

    def taps_of(self, input: Tensor) -> list[Tensor]:
        """What every tap sees at every output position: K views [B, C, Ho, Wo] of the padded input."""
        out = self.map_size(input)
        padded = F.pad(input, (self.padding[1], self.padding[1], self.padding[0], self.padding[0]))
        # Slices, not unfold: it knows neither an empty batch nor every type.
        slices = tap_slices(self.kernel_size, self.stride, self.dilation, out)
        return [padded[:, :, rows, columns] for rows, columns in slices]

    def patches(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to the patch of every output position, [B, C, K, Ho, Wo]."""
        return torch.stack(self.taps_of(input), 2)

    def patches_last(self, input: Tensor) -> Tensor:
        """The patches with channels innermost, [B, Ho, Wo, K, C]: copies of whole runs of a channels_last map."""
        return torch.stack([tap.permute(0, 2, 3, 1) for tap in self.taps_of(input)], 3)

    def each_its_kernel(self, input: Tensor, kernels: Tensor) -> Tensor:
        """Convolve every image with a kernel of its own.

        Args:
            input: [B, C, H, W].
            kernels: [B, F, C, K], or [B, C, 1, K] with which every channel is filtered by itself.

        Returns:
            [B, F, Ho, Wo], channels_last.
        """
        if torch.compiler.is_compiling():  # a graph would hold the number of groups as a constant, so the batch too
            return self._each_by_patches(input, kernels)
        return image_by_image(input, kernels, self.kernel_size, *self.geometry)

    def _each_by_patches(self, input: Tensor, kernels: Tensor) -> Tensor:
        patches = self.patches_last(input)  # [B, Ho, Wo, K, C]
        if kernels.shape[2] == 1 < input.shape[1]:
            filters = kernels.squeeze(2).transpose(1, 2)[:, None, None]  # [B, 1, 1, K, C]
            return (patches * filters).sum(3).permute(0, 3, 1, 2)
        columns = kernels.permute(0, 3, 2, 1).flatten(1, 2)  # [B, K C, F]
        output = patches.flatten(3).flatten(1, 2) @ columns
        return output.unflatten(1, self.map_size(input)).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}"
        )
