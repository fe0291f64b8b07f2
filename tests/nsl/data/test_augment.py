from __future__ import annotations

import numpy as np
import pytest
import torch

from nsl.data.augment import centre_crop, crop_flip, normalise, resized_crop
from nsl.training.batches import carry_out, draw


def random_images(batch: int = 16, height: int = 9, width: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_every_result_is_a_window_of_the_padded_image_or_its_mirror(padding: int, flip: bool) -> None:
    images = random_images()
    results = crop_flip(images, generator(), padding, flip)
    assert results.shape == images.shape
    assert results.dtype == torch.uint8
    height, width = images.shape[2:]
    for image, result in zip(images.numpy(), results.numpy()):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        windows = [
            padded[:, top : top + height, left : left + width]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        allowed = windows + ([window[:, :, ::-1] for window in windows] if flip else [])
        assert any(np.array_equal(result, window) for window in allowed)


def test_all_offsets_occur_equally_often_and_half_the_images_are_mirrored() -> None:
    # One bright pixel in the middle shows the offset; a dim one to its right shows the mirror.
    images = torch.zeros(9000, 3, 7, 7, dtype=torch.uint8)
    images[:, :, 3, 3] = 200
    images[:, :, 3, 4] = 100
    results = crop_flip(images, generator(), padding=1)
    bright = (results[:, 0] == 200).flatten(1).int().argmax(1)
    offsets = torch.unique(bright, return_counts=True)[1]
    assert len(offsets) == 9
    assert offsets.min() > 850
    assert offsets.max() < 1150
    dim = (results[:, 0] == 100).flatten(1).int().argmax(1)
    assert abs(float((dim < bright).float().mean()) - 0.5) < 0.02


def test_equal_seeds_give_equal_crops_and_other_seeds_others() -> None:
    images = random_images()
    assert torch.equal(crop_flip(images, generator(3)), crop_flip(images, generator(3)))
    assert not torch.equal(crop_flip(images, generator(3)), crop_flip(images, generator(4)))


def test_the_memory_format_of_the_input_does_not_matter() -> None:
    images = random_images()
    last = images.contiguous(memory_format=torch.channels_last)
    for padding in (0, 4):
        result = crop_flip(last, generator(), padding)
        assert torch.equal(result, crop_flip(images, generator(), padding))
        assert result.is_contiguous()


def test_the_input_stays_as_it_was() -> None:
    images = random_images()
    before = images.clone()
    for padding in (0, 4):
        crop_flip(images, generator(), padding, flip=False).zero_()
        assert torch.equal(images, before)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images \[B, C, H, W\], got shape \[3, 9, 7\]"):
        crop_flip(random_images()[0], generator())
    with pytest.raises(ValueError, match="padding of at least 0, got -1"):
        crop_flip(random_images(), generator(), padding=-1)
    with pytest.raises(ValueError, match=r"one mean and one std a channel \(3\), got 1 and 3"):
        normalise(random_images(), (0.5,), (0.1, 0.1, 0.1))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 2e-2)]
)
def test_normalise_subtracts_the_mean_and_divides_by_the_deviation(
    dtype: torch.dtype, tolerance: float, channels_last: bool
) -> None:
    images, mean, std = random_images(), (0.1, 0.5, 0.4), (0.2, 0.25, 0.5)
    wanted = (images.double() / 255 - torch.tensor(mean).double().view(1, 3, 1, 1)) / torch.tensor(
        std
    ).double().view(1, 3, 1, 1)
    result = normalise(images, mean, std, dtype, channels_last)
    assert result.dtype == dtype
    assert result.is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    np.testing.assert_allclose(
        result.double().numpy(), wanted.numpy(), atol=max(tolerance, 1e-6), rtol=tolerance
    )


def test_normalise_only_centres_a_constant_channel() -> None:
    images = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)
    assert float(normalise(images, (0.2,) * 3, (0.0,) * 3).abs().max()) < 1e-6


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_crops_on_the_gpu_equal_those_on_the_cpu() -> None:
    images = random_images()
    assert torch.equal(crop_flip(images.cuda(), generator()).cpu(), crop_flip(images, generator()))


def test_a_resized_crop_of_the_whole_image_is_the_image() -> None:
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    # Only squares have the whole area; the other aspect ratios cut a strip, so the ratio is fixed here.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nsl.data.augment.LOG_RATIO", 0.0)
        same = resized_crop(images, torch.Generator().manual_seed(0), scale=1.0, flip=False)
        mirrored = resized_crop(images, torch.Generator().manual_seed(0), scale=1.0, flip=True)
    assert torch.equal(same, images)
    flipped = [torch.equal(a, b.flip(-1)) or torch.equal(a, b) for a, b in zip(mirrored, images)]
    assert all(flipped)


def test_resized_crops_stay_inside_the_image_and_have_the_asked_size() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 1, 1, 64).expand(200, 1, 64, 64).contiguous()
    found = resized_crop(ramp, torch.Generator().manual_seed(0), size=32, scale=0.25, flip=False).double()
    assert found.shape == (200, 1, 32, 32)
    spread = found[:, 0, 0, -1] - found[:, 0, 0, 0]
    assert (spread > 0).all()
    # Widths run from about sqrt(0.25 * 3/4) to the whole of 64 pixels.
    assert 20 < spread.min() < 36
    assert 60 < spread.max() <= 64


@pytest.mark.parametrize("kind", ["crop_flip", "crop", "resized_crop", "window_flip"])
def test_parts_of_a_batch_are_augmented_as_in_the_whole(kind: str) -> None:
    images = torch.randint(0, 256, (6, 3, 12, 12), dtype=torch.uint8)
    size = 8 if kind == "window_flip" else None
    choices = draw(kind, torch.Generator().manual_seed(5), 6, (12, 12), size)
    whole = carry_out(images, kind, choices, size)
    parts = [
        carry_out(images[first : first + 2], kind, [own[first : first + 2] for own in choices], size)
        for first in (0, 2, 4)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_a_wrong_scale_is_named() -> None:
    with pytest.raises(ValueError, match="scale above 0 and at most 1"):
        resized_crop(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.Generator(), scale=0.0)


def test_the_centre_crop_is_the_centre() -> None:
    images = torch.arange(25).view(1, 1, 5, 5)
    assert centre_crop(images, 3).flatten().tolist() == [6, 7, 8, 11, 12, 13, 16, 17, 18]
    assert centre_crop(images, None) is images


def test_images_that_are_no_bytes_are_refused_and_left_as_they_were() -> None:
    images = torch.rand(2, 3, 4, 4)
    before = images.clone()
    with pytest.raises(ValueError, match=r"normalise takes uint8 images \(0 to 255\), got torch.float32"):
        normalise(images, (0.5,) * 3, (0.2,) * 3)
    with pytest.raises(ValueError, match="resized_crop takes uint8 images"):
        resized_crop(images, torch.Generator())
    assert torch.equal(images, before)
