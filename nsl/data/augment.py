"""Augmentation and normalisation of whole batches.

CIFAR: pad 4, random crop, flip (paper, section 7.1). ImageNet: the paper "mostly" follows AlexNet, which cuts a random
224x224 window out of 256x256 and flips it, without its colour changes, of which the paper says nothing: our choice for
the paper's protocol. `resized_crop`, a random rectangle of random size, is what later trainings do; ours on
Tiny-ImageNet's 64x64 pixels, which leave no margin to crop from.

All choices of a batch come from one generator in one order: processes that share a batch make the choices that one
process makes, and take those of their own images. Drawing (`crop_flip_choices`, ...) and doing
(`crop_flip_by`, ...) are apart, so that the choices of many steps can be brought to a device at once; what is done
there reads nothing back and makes no tensor on the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

#: Aspect ratios of `resized_crop`, as usual: 3/4 to 4/3, uniform in the logarithm.
LOG_RATIO = math.log(4 / 3)

Choices = tuple[Tensor, ...]
"""What was drawn for a batch, each [B, ...]."""


def _check_bytes(what: str, images: Tensor) -> None:
    if not isinstance(images, Tensor):
        got = type(images).__name__
        raise ValueError(f"{what} takes a tensor of uint8 images, got {got}; arrays become one by torch.from_numpy")
    if images.dtype != torch.uint8:
        raise ValueError(
            f"{what} takes uint8 images (0 to 255), got {images.dtype}; images in 0 to 1 become bytes by "
            "(255 * images).round().to(torch.uint8)"
        )


def _beside(images: Tensor, choices: Choices) -> list[Tensor]:
    """The choices on the images' device."""
    return [choice.to(images.device) for choice in choices]


def _mirrored(generator: torch.Generator, total: int) -> Tensor:
    """Which of the images are mirrored: bool [total], a random half."""
    return torch.rand(total, generator=generator, device="cpu") < 0.5


def crop_flip(
    images: Tensor, generator: torch.Generator, padding: int = 4, flip: bool = True
) -> Tensor:
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
    choices = crop_flip_choices(generator, len(images), padding, flip)
    return crop_flip_by(images, *_beside(images, choices), padding=padding)


def crop_flip_choices(generator: torch.Generator, total: int, padding: int = 4, flip: bool = True) -> Choices:
    """What `crop_flip` draws for a batch of `total`: corners int64 [total, 2] and, with `flip`, bool [total]."""
    corners = torch.randint(0, 2 * padding + 1, (2, total), generator=generator, device="cpu").T
    return (corners, _mirrored(generator, total)) if flip else (corners,)


def crop_flip_by(images: Tensor, corners: Tensor, mirrored: Tensor | None = None, *, padding: int = 4) -> Tensor:
    """`crop_flip` of images [B, C, H, W] by choices on their device; see `crop_flip_choices`."""
    batch, channels, height, width = images.shape
    if padding:
        padded = images.new_zeros(batch, channels, height + 2 * padding, width + 2 * padding)
        padded[:, :, padding : padding + height, padding : padding + width] = images
        cropped = _windows(padded, corners[:, 0], corners[:, 1], height, width)
    else:
        cropped = images.clone(memory_format=torch.contiguous_format)
    return _mirror(cropped, mirrored)


def window_flip(
    images: Tensor, generator: torch.Generator, size: int, flip: bool = True
) -> Tensor:
    """Cut a random window out of every larger image and mirror a random half of them, as AlexNet does.

    Args:
        images: [B, C, H, W] of any type, on any device.
        generator: a CPU generator.
        size: height and width of the windows, at most H and W; every position is equally likely.
        flip: whether to mirror.

    Returns:
        A new contiguous [B, C, size, size] tensor of the same type.

    Raises:
        ValueError: `size` is larger than the images, or `images` is not four-dimensional.
    """
    if images.ndim != 4:
        raise ValueError(f"window_flip needs images [B, C, H, W], got shape {list(images.shape)}.")
    height, width = images.shape[2:]
    if not 0 < size <= min(height, width):
        raise ValueError(f"window_flip needs a size of 1 to {min(height, width)}, got {size}.")
    choices = window_flip_choices(generator, len(images), (height, width), size, flip)
    return window_flip_by(images, *_beside(images, choices), size=size)


def window_flip_choices(
    generator: torch.Generator, total: int, stored: tuple[int, int], size: int, flip: bool = True
) -> Choices:
    """What `window_flip` draws for a batch of `total` images of stored height and width: as `crop_flip_choices`."""
    corners = [
        torch.randint(0, side - size + 1, (total,), generator=generator, device="cpu") for side in stored
    ]
    return (torch.stack(corners, 1), _mirrored(generator, total)) if flip else (torch.stack(corners, 1),)


def window_flip_by(images: Tensor, corners: Tensor, mirrored: Tensor | None = None, *, size: int) -> Tensor:
    """`window_flip` of images [B, C, H, W] by choices on their device; see `window_flip_choices`."""
    return _mirror(_windows(images.contiguous(), corners[:, 0], corners[:, 1], size, size), mirrored)


def _windows(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """The window [height, width] of each of the contiguous images [B, C, H, W] at its own (top, left), each [B]."""
    batch, channels, full_height, full_width = images.shape
    if batch == 0:
        return images.new_empty(0, channels, height, width)
    # Every run of `width` neighbouring values is one row of this overlapping view, so that the whole crop
    # is one index_select that copies image rows: faster than per-pixel gathers or a loop over images.
    runs = images.as_strided((images.numel() - width + 1, width), (1, 1))
    planes = torch.arange(batch * channels, device=images.device).view(batch, channels, 1) * full_height
    rows = planes + (top[:, None] + torch.arange(height, device=images.device))[:, None, :]
    starts = rows * full_width + left[:, None, None]
    return runs.index_select(0, starts.flatten()).view(batch, channels, height, width)


def _mirror(images: Tensor, mirrored: Tensor | None) -> Tensor:
    """Mirror those of the images [B, C, H, W] that bool [B] says; None: none of them."""
    return images if mirrored is None else torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def resized_crop(
    images: Tensor,
    generator: torch.Generator,
    size: int | None = None,
    scale: float = 0.35,
    flip: bool = True,
) -> Tensor:
    """Cut a random rectangle out of every image, bring it to `size`, and mirror a random half of them.

    The rectangle's area is uniform between `scale` and 1 of the image's, its aspect ratio 3/4 to 4/3 times the
    image's; a side that would be longer than the image is as long as the image. Bilinear, without antialiasing:
    windows are rarely much larger than the result. The usual lower end of 0.08 is for networks trained several times
    longer.

    Args:
        images: uint8 [B, C, H, W], on any device.
        generator: a CPU generator.
        size: height and width of the result; None: those of the images.
        scale: smallest share of the area, above 0 and at most 1.
        flip: whether to mirror.

    Returns:
        uint8 [B, C, size, size], or [B, C, H, W].

    Raises:
        ValueError: `scale` is not in (0, 1], or `images` is not four-dimensional or not uint8.
    """
    _check_bytes("resized_crop", images)
    if images.ndim != 4:
        raise ValueError(f"resized_crop needs images [B, C, H, W], got shape {list(images.shape)}.")
    if not 0 < scale <= 1:
        raise ValueError(f"resized_crop needs a scale above 0 and at most 1, got {scale}.")
    choices = resized_crop_choices(generator, len(images), scale, flip)
    return resized_crop_by(images, *_beside(images, choices), size=size)


def resized_crop_choices(
    generator: torch.Generator, total: int, scale: float = 0.35, flip: bool = True
) -> Choices:
    """What `resized_crop` draws for a batch of `total`: the affine map of every image's window, [total, 2, 3]."""
    draws = torch.rand(5, total, generator=generator, device="cpu")
    area = scale + (1 - scale) * draws[0]
    ratio = ((2 * draws[1] - 1) * LOG_RATIO).exp()
    # Shares of the image's width and height; grid_sample's coordinates run from -1 to 1 over the image.
    wide, high = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    centre_x, centre_y = (2 * draws[2] - 1) * (1 - wide), (2 * draws[3] - 1) * (1 - high)
    sign = torch.where(draws[4] < 0.5, -1.0, 1.0) if flip else torch.ones(total, device="cpu")
    zeros = torch.zeros(total, device="cpu")
    return (torch.stack([wide * sign, zeros, centre_x, zeros, high, centre_y], 1).view(total, 2, 3),)


def resized_crop_by(images: Tensor, affine: Tensor, *, size: int | None = None) -> Tensor:
    """`resized_crop` of images [B, C, H, W] by choices on their device; see `resized_crop_choices`."""
    batch, channels, height, width = images.shape
    shape = [batch, channels, height if size is None else size, width if size is None else size]
    if batch == 0:
        return images.new_empty(shape)
    grid = F.affine_grid(affine, shape, align_corners=False) if affine.device.type == "cpu" else _grid(affine, shape)
    sampled = F.grid_sample(images.float(), grid, "bilinear", "border", align_corners=False)
    return sampled.round().to(images.dtype)


def _grid(affine: Tensor, shape: list[int]) -> Tensor:
    """`F.affine_grid` of maps that do not turn, number by number: on CUDA its product may be TF32, of 10 bits. The CPU,
    whose last bits differ between the two ways, keeps that of its stored runs."""
    high, wide = ((torch.arange(side, device=affine.device) * 2 + 1) / side - 1 for side in shape[2:])
    x = affine[:, 0, 0, None, None] * wide + affine[:, 0, 2, None, None]
    y = affine[:, 1, 1, None, None] * high[:, None] + affine[:, 1, 2, None, None]
    return torch.stack(torch.broadcast_tensors(x, y), -1)


def centre_crop(images: Tensor, size: int | None) -> Tensor:
    """The central [B, C, size, size] of images [B, C, H, W]; None leaves them as they are.

    Raises:
        ValueError: `size` is larger than the images, or below 1.
    """
    if size is None or images.shape[-2:] == (size, size):
        return images
    if not 0 < size <= min(images.shape[-2:]):
        raise ValueError(f"a crop of {size} x {size} cannot be cut out of images of {list(images.shape[-2:])}")
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]


class Normalise:
    """`(images / 255 - mean) / std` per channel, with its constants on the device once and for all.

    Args:
        mean: C values in 0..1.
        std: C values in units of 0..1; a channel that is constant (0) is only centred.
        device: of the images.
        dtype: type of the result; the arithmetic is float32 (float64 for float64).

    Raises:
        ValueError: `mean` and `std` have not one value a channel each.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        if len(mean) != len(std):
            raise ValueError(f"normalise needs one mean and one std a channel, got {len(mean)} and {len(std)}.")
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        spread = [s if s > 0 else 1.0 for s in std]
        scale = torch.tensor([1 / (255 * s) for s in spread], dtype=precise, device=device)
        shift = torch.tensor([-m / s for m, s in zip(mean, spread)], dtype=precise, device=device)
        self.dtype, self.scale, self.shift = dtype, scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)

    def __call__(self, images: Tensor, channels_last: bool = False) -> Tensor:
        """uint8 [B, C, H, W] to floats of the same shape; `channels_last` is the memory format of the result."""
        _check_bytes("normalise", images)
        # Plane by plane first: over interleaved channels the same multiply and add take several times longer.
        values = images.contiguous().to(self.scale.dtype).mul_(self.scale).add_(self.shift)
        return values.to(self.dtype, memory_format=torch.channels_last if channels_last else torch.contiguous_format)


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
        ValueError: the images are not uint8, or `mean` or `std` has not one value a channel.
    """
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"normalise needs one mean and one std a channel ({channels}), got {len(mean)} and {len(std)}."
        )
    return Normalise(mean, std, images.device, dtype)(images, channels_last)
