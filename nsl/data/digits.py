"""Handwritten digits that come with scikit-learn: real images, ten classes, no download.

1797 images of 8x8 pixels with grey values 0..16: the test part of "Optical Recognition of Handwritten Digits"
(Alpaydin and Kaynak 1998, UCI Machine Learning Repository).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from nsl.data.dataset import DataError, Dataset, make_dataset, subset

_LARGEST = 16  # the brightest grey value of the source
_TEST_SHARE = 0.2
_SPLIT_SEED = 0


def load_digits(
    *, image_size: int = 16, train_per_class: int | None = None, test_per_class: int | None = None
) -> Dataset:
    """The digits, enlarged bilinearly and with the grey value in all three channels.

    About four fifths of each class are for training (1438 images in all, 359 for testing); the split and the
    order are fixed.

    Args:
        image_size: height and width of the images in pixels, at least 8.
        train_per_class, test_per_class: keep only the first images of every class.

    Returns:
        Images uint8 [N, 3, image_size, image_size].

    Raises:
        DataError: `image_size` below 8, more images per class asked for than there are, or no scikit-learn.
    """
    if image_size < 8:
        raise DataError(f"digits: image_size must be at least 8 (the source's size), got {image_size}.")
    try:
        from sklearn.datasets import load_digits as read_digits
    except ImportError:
        raise DataError(
            "The set 'digits' comes with scikit-learn, which is not installed; "
            "run `make env`, or pip install scikit-learn."
        ) from None
    source = read_digits()
    labels = torch.from_numpy(np.asarray(source.target, np.int64))
    images = _enlarge(torch.from_numpy(np.asarray(source.images, np.float64)), image_size)
    train, test = _split(labels)
    whole = make_dataset(
        "digits",
        images[train],
        labels[train],
        images[test],
        labels[test],
        [str(digit) for digit in range(10)],
    )
    return subset(whole, train_per_class, test_per_class)


def _enlarge(grey: Tensor, image_size: int) -> Tensor:
    """float64 [N, 8, 8] in 0..16 to uint8 [N, 3, image_size, image_size] in 0..255."""
    size = (image_size, image_size)
    # float64 on whole numbers: for sizes 16 and 32 every product is exact, so every machine rounds alike.
    large = interpolate(grey[:, None], size=size, mode="bilinear", align_corners=False)
    return (large * 255 / _LARGEST).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()


def _split(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices int64 of train and test images: of a fixed shuffle each class's first fifth is for testing."""
    order = torch.from_numpy(np.random.Generator(np.random.PCG64(_SPLIT_SEED)).permutation(len(labels)))
    shuffled = labels[order]
    is_test = torch.zeros(len(labels), dtype=torch.bool, device="cpu")
    for label in range(10):
        where = torch.nonzero(shuffled == label).flatten()
        is_test[where[: round(_TEST_SHARE * len(where))]] = True
    return order[~is_test], order[is_test]
