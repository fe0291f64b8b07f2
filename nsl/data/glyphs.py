"""Rendered characters: many classes, any number of images, no download.

An image shows one character in one of up to 21 fonts, rotated, sheared, stretched, scaled and shifted, in a
colour that stands out in brightness, over a colour gradient and parts of other characters, with pixel noise.

Image i of a class is the same however many images and classes are asked for.  All pixel arithmetic is on
integers, so that machines do not differ by rounding; the outlines come from matplotlib's fonts by way of
Pillow, and other versions of these may change pixels, which the fingerprint shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsl.data.catalogue import CATALOGUE
from nsl.data.dataset import DataError, Dataset, make_dataset

if TYPE_CHECKING:
    from PIL import ImageFont

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]

_DEJAVU = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, styles in {
        "Sans": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "SansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "Serif": ("", "-Bold", "-Italic", "-BoldItalic"),
    }.items()
    for style in styles
)
_STIX_UPRIGHT = ("STIXGeneral.ttf", "STIXGeneralBol.ttf")
_STIX_ITALIC = ("STIXGeneralItalic.ttf", "STIXGeneralBolIta.ttf")
# Computer Modern's files hold the alphabet and the digits in their usual places, other characters not.
_MODERN = ("cmr10.ttf", "cmb10.ttf", "cmss10.ttf", "cmtt10.ttf", "cmti10.ttf")

_TEXT = _DEJAVU + _STIX_UPRIGHT + _STIX_ITALIC

# Characters and the fonts that have them.  All are scaled to one size, so of each group that then looks alike
# (0 O o, 1 I l, 3 З, b Ь, c C, p P, v V, Λ ∧, Π П ∏, Σ ∑, × x X, ...) at most one is here.
_GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("0123456789", _TEXT + _MODERN),
    ("ABCDEFGHJKLMNPQRSTUVWXYZ", _TEXT + _MODERN),
    ("abdefghijmnrty", _TEXT + _MODERN),
    ("ΓΔΘΛΞΠΣΦΨΩ", _TEXT),
    ("βδεζλμξπσω", _TEXT),
    ("БДЖИЙЛЦЧШЪЫЭЮЯЊ", _TEXT),
    ("!?&@#%$*+=<>~{}[]()§¶©®€£¥±÷«»½‡¿Æ", _TEXT),
    ("∞∫√∂∇∈∀∃⊕⊗≈≠≤≥≡⊥∠←→↑↓↔", _DEJAVU + _STIX_UPRIGHT),
    ("♠♣♥♦♪♫", _DEJAVU + _STIX_UPRIGHT[:1]),
)
FONTS: dict[str, tuple[str, ...]] = {character: fonts for group, fonts in _GROUPS for character in group}
CHARACTERS = tuple(FONTS)

_ENTRY = CATALOGUE["glyphs"]
_TRAIN_PER_CLASS, _TEST_PER_CLASS = _ENTRY.train // _ENTRY.classes, _ENTRY.test // _ENTRY.classes  # if none is given
_CLUTTER = 3  # parts of other characters behind the one to be recognised
_DRAWS = 64  # random numbers an image, besides its noise; not all are used
_FRACTION, _WEIGHT = 13, 6  # bits after the point of mask coordinates, and of interpolation weights


def load_glyphs(
    *,
    num_classes: int = 100,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    seed: int = 0,
    image_size: int = 32,
    plain: bool = False,
) -> Dataset:
    """The first `num_classes` of `CHARACTERS`, made anew from the seed.

    Args:
        num_classes: 2 to `len(CHARACTERS)`; the order is digits, Latin, Greek, Cyrillic, symbols.
        train_per_class: images of each class (100 when None).
        test_per_class: images of each class (20 when None); train and test use the same fonts.
        seed: any number from 0 on; another seed gives other images of the same classes.
        image_size: height and width in pixels, 16 to 128.
        plain: light characters on dark ground without parts of others behind them: much easier to learn.

    Returns:
        Images uint8 [N, 3, image_size, image_size].  Image `i * num_classes + c` is the i-th of class c.

    Raises:
        DataError: a number outside these ranges, or matplotlib or a font of it is missing.
    """
    per_class = {
        "train_per_class": _TRAIN_PER_CLASS if train_per_class is None else train_per_class,
        "test_per_class": _TEST_PER_CLASS if test_per_class is None else test_per_class,
    }
    if not 2 <= num_classes <= len(CHARACTERS):
        raise DataError(f"glyphs: num_classes must be 2 to {len(CHARACTERS)}, got {num_classes}.")
    if not 16 <= image_size <= 128:
        raise DataError(f"glyphs: image_size must be 16 to 128, got {image_size}.")
    if seed < 0:
        raise DataError(f"glyphs: seed must be at least 0, got {seed}.")
    for option, count in per_class.items():
        if count < 1:
            raise DataError(f"glyphs: {option} must be at least 1, got {count}.")
    characters = CHARACTERS[:num_classes]
    splits = [
        _render_split(characters, count, (seed, split), image_size, plain)
        for split, count in enumerate(per_class.values())
    ]
    return make_dataset("glyphs", *splits[0], *splits[1], characters)


def _render_split(
    characters: tuple[str, ...], count: int, stream: tuple[int, int], size: int, plain: bool
) -> tuple[Tensor, Tensor]:
    """Images uint8 [count * classes, 3, size, size] and labels int64, the classes taking turns."""
    images = np.empty((count, len(characters), 3, size, size), np.uint8)
    for label, character in enumerate(characters):
        images[:, label] = _render(character, count, stream, size, plain)
    labels = torch.arange(len(characters), device="cpu").repeat(count)
    return torch.from_numpy(images).flatten(0, 1), labels


class _Draws:
    """Random numbers of a class's images, one property after the other, each [count].

    An image takes a fixed number of draws from the stream: the first images are the same for every count.
    """

    def __init__(self, generator: np.random.Generator, count: int) -> None:
        self._columns = iter(generator.random((count, _DRAWS)).T)

    def between(self, low: float, high: float) -> Floats:
        return low + (high - low) * next(self._columns)

    def whole(self, low: int, high: int) -> Ints:
        """Whole numbers from `low` to `high`, both included."""
        return (low + np.floor((high - low + 1) * next(self._columns))).astype(np.int32)


def _render(character: str, count: int, stream: tuple[int, int], size: int, plain: bool) -> NDArray[np.uint8]:
    """The first `count` images of one character, uint8 [count, 3, size, size]."""
    atlas = _atlas(size)
    parameters, noise = (
        np.random.Generator(np.random.PCG64(np.random.SeedSequence((*stream, ord(character), purpose))))
        for purpose in (0, 1)
    )
    draws = _Draws(parameters, count)
    image, colour = _background_and_colour(draws, size, plain)
    for _ in range(0 if plain else _CLUTTER):
        which = draws.whole(0, len(atlas.masks) - 1)
        direction, distance = draws.between(-np.pi, np.pi), draws.between(0.40, 0.60) * size
        shift = np.stack([distance * np.cos(direction), distance * np.sin(direction)], axis=1)
        warp = _inverse_warp(draws.between(0.6, 1.2), draws.between(-np.pi, np.pi))
        opacity = draws.whole(64, 224)
        clutter = np.stack([draws.whole(0, 255) for _ in range(3)], axis=1)
        _paint(image, _warped(atlas, which, warp, shift), clutter, opacity)
    which = atlas.first[character] + draws.whole(0, len(FONTS[character]) - 1)
    warp = _inverse_warp(
        scale=draws.between(0.65, 1.0),
        angle=draws.between(-0.35, 0.35),
        shear=draws.between(-0.3, 0.3),
        stretch=draws.between(0.83, 1.2),
    )
    shift = np.stack([draws.between(-0.12, 0.12), draws.between(-0.12, 0.12)], axis=1) * size
    _paint(image, _warped(atlas, which, warp, shift), colour, np.full(count, 256, np.int32))
    _add_noise(image, noise, draws.whole(0, 24))
    return image.astype(np.uint8)


def _background_and_colour(draws: _Draws, size: int, plain: bool) -> tuple[Ints, Ints]:
    """A gradient [n, 3, size, size] and a colour [n, 3], 80 to 176 brighter or (not `plain`) darker than its middle."""
    dark = draws.whole(0, 80 if plain else 255)
    light = (dark + draws.whole(80, 175)) % 256
    colours = []
    for brightness in (dark, light):
        tint = np.stack([draws.whole(-60, 60) for _ in range(3)], axis=1)
        colours.append(np.clip(brightness[:, None] + tint - tint.sum(axis=1, keepdims=True) // 3, 0, 255))
    position = np.arange(
        1 - size, size, 2, dtype=np.int32
    )  # of pixel centres, from the middle, in half pixels
    across, down = (draws.whole(-32, 32)[:, None] * position // size for _ in range(2))
    slope = across[:, None, :] + down[:, :, None]
    return colours[0][:, :, None, None] + slope[:, None], colours[1]


def _inverse_warp(
    scale: Floats, angle: Floats, shear: Floats | float = 0.0, stretch: Floats | float = 1.0
) -> Floats:
    """Inverse of scale * rotation * shear * stretch (wider by `stretch`, lower by its inverse), [n, 2, 2]."""
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    return np.stack(
        [
            np.stack([(cosine + shear * sine) / stretch, (sine - shear * cosine) / stretch], axis=1),
            np.stack([-sine * stretch, cosine * stretch], axis=1),
        ],
        axis=1,
    )


def _warped(atlas: _Atlas, which: Ints, inverse: Floats, shift: Floats) -> Ints:
    """Masks seen through a warp, bilinearly interpolated.

    Args:
        which: indices of the masks, [n].
        inverse: from image to mask directions, [n, 2, 2], rows and columns (x, y).
        shift: of the mask's centre from the image's, (x, y) in pixels, [n, 2].

    Returns:
        Coverage 0 to 255, [n, size, size].
    """
    side = atlas.masks.shape[1]
    one = 1 << _FRACTION
    # Products of pixel positions, in half pixels, with half the matrix have _FRACTION bits after the point.
    matrix = np.rint(inverse * (one // 2)).astype(np.int32)
    origin = np.rint(((side - 1) / 2 - np.einsum("nij,nj->ni", inverse, shift)) * one).astype(np.int32)
    position = np.arange(1 - atlas.size, atlas.size, 2, dtype=np.int32)

    def coordinate(axis: int) -> tuple[Ints, Ints]:
        """Index of the mask pixel before, and weight of the one after, [n, size, size]."""
        across = matrix[:, axis, 0, None] * position + origin[:, axis, None]
        down = matrix[:, axis, 1, None] * position
        fixed = across[:, None, :] + down[:, :, None]
        # The margins of the masks are empty, two pixels wide: what lies outside is empty too.
        np.clip(fixed, 0, (side - 1) * one - 1, out=fixed)
        return fixed >> _FRACTION, (fixed >> (_FRACTION - _WEIGHT)) & ((1 << _WEIGHT) - 1)

    (column, right), (row, below) = coordinate(0), coordinate(1)
    left, above = (1 << _WEIGHT) - right, (1 << _WEIGHT) - below
    corner = (which[:, None, None] * side + row) * side + column
    pixels = atlas.masks.reshape(-1)
    top = pixels[corner] * left + pixels[corner + 1] * right
    bottom = pixels[corner + side] * left + pixels[corner + side + 1] * right
    return (top * above + bottom * below) >> (2 * _WEIGHT)


def _paint(image: Ints, coverage: Ints, colour: Ints, opacity: Ints) -> None:
    """Lay `colour` [n, 3] over `image` [n, 3, size, size] with `coverage` 0..255 and `opacity` [n] 0..256."""
    share = ((coverage * opacity[:, None, None]) // 255)[:, None]
    image += ((colour[:, :, None, None] - image) * share) >> 8


def _add_noise(image: Ints, generator: np.random.Generator, deviation: Ints) -> None:
    """Add triangular noise of the given standard deviation [n] to every value, and clip to 0..255."""
    raw = np.frombuffer(generator.bytes(2 * image.size), np.uint8).reshape(len(image), 2, *image.shape[1:])
    triangular = raw[:, 0].astype(np.int32) + raw[:, 1] - 255  # standard deviation 104.5
    image += (triangular * deviation[:, None, None, None]) // 104
    np.clip(image, 0, 255, out=image)


@dataclass(frozen=True)
class _Atlas:
    """Every character in every one of its fonts, for images of one size."""

    size: int  # of the images
    masks: Ints  # [masks, side, side], coverage 0..255
    first: dict[str, int]  # index of a character's first mask; its other fonts follow


@lru_cache(maxsize=2)
def _atlas(size: int) -> _Atlas:
    """Draw the masks: the ink's longer side is three quarters of the image's size, the margin two pixels."""
    try:
        from matplotlib import get_data_path
        from PIL import ImageFont
    except ImportError:
        raise DataError(
            "The set 'glyphs' is drawn from matplotlib's fonts, and matplotlib is not installed; "
            "run `make env`, or pip install matplotlib."
        ) from None
    ink = size * 3 // 4
    folder = Path(get_data_path()) / "fonts" / "ttf"
    fonts: dict[str, ImageFont.FreeTypeFont] = {}
    for file in dict.fromkeys(file for files in FONTS.values() for file in files):
        try:
            # From memory: given a path that is missing, Pillow would take the system's font of that name.
            font = BytesIO((folder / file).read_bytes())
            # Several times too large, to be reduced; the basic layout does not depend on optional libraries.
            fonts[file] = ImageFont.truetype(font, 3 * ink, layout_engine=ImageFont.Layout.BASIC)
        except OSError:
            raise DataError(
                f"The set 'glyphs' needs the font {folder / file}, which cannot be read; "
                f"reinstall matplotlib."
            ) from None
    masks: list[Ints] = []
    first: dict[str, int] = {}
    for character, files in FONTS.items():
        first[character] = len(masks)
        masks += [_mask(fonts[file], character, ink) for file in files]
    return _Atlas(size, np.stack(masks), first)


def _mask(font: ImageFont.FreeTypeFont, character: str, ink: int) -> Ints:
    """One character, centred, [ink + 4, ink + 4], coverage 0..255."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = (int(edge) for edge in font.getbbox(character))
    large = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(large).text((2 - left, 2 - top), character, fill=255, font=font)
    large = large.crop(large.getbbox())
    longer = max(large.size)
    width, height = (max(1, (2 * edge * ink + longer) // (2 * longer)) for edge in large.size)
    small = np.asarray(large.resize((width, height), Image.Resampling.BOX), np.int32)
    mask = np.zeros((ink + 4, ink + 4), np.int32)
    y, x = (ink + 4 - height) // 2, (ink + 4 - width) // 2
    mask[y : y + height, x : x + width] = small
    return mask
