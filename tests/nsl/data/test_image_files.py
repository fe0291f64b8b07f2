"""Image files that are not what they are called, or far too large, end in one sentence and start nothing."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from nsl.data import DataError
from nsl.data.fewshot import _read_image
from nsl.data.files import decode, decode_chunk

_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\nshowpage\n%%EOF\n"


def png(width: int, height: int) -> bytes:
    """The beginning of a PNG of that size: what is known before a pixel is decoded."""

    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(b"")) + part(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(13_300, 13_300), (50_000, 50_000)])
@pytest.mark.filterwarnings("error")
def test_an_image_of_too_many_pixels_is_one_clear_sentence_in_both_readers(
    tmp_path: Path, width: int, height: int
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(width, height))
    for read in (decode, _read_image):
        with pytest.raises(DataError, match=r"x\.png has more than 89 million pixels"):
            read(path, 8)
    assert "more than 89 million pixels" in str(decode_chunk([path], 8)[1][0])


def test_ghostscript_is_not_started_for_an_eps_that_is_called_a_jpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: started.append(1))
    path = tmp_path / "x.JPEG"
    path.write_bytes(_EPS)
    with pytest.raises(DataError, match=r"x\.JPEG cannot be read as an image"):
        _read_image(path, 8)
    assert "UnidentifiedImageError" in str(decode_chunk([path], 8)[1][0])
    assert not started


def test_a_png_that_is_called_a_jpeg_is_read_since_imagenet_has_one(tmp_path: Path) -> None:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    with (tmp_path / "x.JPEG").open("wb") as stream:
        Image.fromarray(pixels).save(stream, "PNG")
    for read in (decode, _read_image):
        assert np.array_equal(read(tmp_path / "x.JPEG", 8), pixels.transpose(2, 0, 1))
