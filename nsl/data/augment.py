"""Augmentation and normalisation of whole batches (pad 4, random crop, flip: paper, section 7.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def crop_flip(images: Tensor, generator: torch.Generator, padding: int = 4, flip: bool = True) -> Tensor:
    """Shift every image by its own random offset, zeros moving in, and mirror a random half of them.

    The same as padding by `padding` on all sides, cutting a random window of the old size, and flipping
    left-right with probability 1/2.

    Args:
        images: [B, C, H, W] of any type, on any device; uint8 is the cheapest.
        generator: a CPU generator; drawing on the CPU makes the choices the same for every device.
        padding: largest shift in pixels, at least 0; offsets are uniform on -padding..padding both ways.
        flip: whether to mirror.

    Returns:
        A new contiguous [B, C, H, W] tensor of the same type.

    Raises:
        ValueError: `padding` is negative or `images` is not four-dimensional.
    """
    if images.ndim != 4:
        raise ValueError(f"crop_flip needs images [B, C, H, W], got shape {list(images.shape)}.")
    if padding < 0:
        raise ValueError(f"crop_flip needs padding of at least 0, got {padding}.")
    batch, channels, height, width = images.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator).to(images.device)
    if padding:
        padded_height, padded_width = height + 2 * padding, width + 2 * padding
        padded = images.new_zeros(batch, channels, padded_height, padded_width)
        padded[:, :, padding : padding + height, padding : padding + width] = images
        # Every run of `width` neighbouring values is one row of this overlapping view, so that the whole crop
        # is one index_select that copies image rows: faster than per-pixel gathers or a loop over images.
        runs = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
        planes = torch.arange(batch * channels, device=images.device).view(batch, channels, 1) * padded_height
        rows = planes + (top[:, None] + torch.arange(height, device=images.device))[:, None, :]
        starts = rows * padded_width + left[:, None, None]
        cropped = runs.index_select(0, starts.flatten()).view(batch, channels, height, width)
    else:
        cropped = images.clone(memory_format=torch.contiguous_format)
    if not flip:
        return cropped
    mirrored = (torch.rand(batch, generator=generator) < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], cropped.flip(-1), cropped)


def normalise(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Tensor:
    """`(images / 255 - mean) / std` per channel.

    Args:
        images: uint8 [B, C, H, W].
        mean: C values in 0..1.
        std: C values in units of 0..1; a channel that is constant (0) is only centred.
        dtype: type of the result; the arithmetic is float32 (float64 for float64).
        channels_last: memory format of the result.

    Returns:
        [B, C, H, W] on the images' device.

    Raises:
        ValueError: `mean` or `std` has not one value a channel.
    """
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"normalise needs one mean and one std a channel ({channels}), got {len(mean)} and {len(std)}."
        )
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    spread = [s if s > 0 else 1.0 for s in std]
    scale = torch.tensor([1 / (255 * s) for s in spread], dtype=precise, device=images.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, spread)], dtype=precise, device=images.device)
    # Plane by plane first: over interleaved channels the same multiply and add take several times longer.
    values = images.contiguous().to(precise).mul_(scale.view(1, -1, 1, 1)).add_(shift.view(1, -1, 1, 1))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return values.to(dtype, memory_format=layout)
