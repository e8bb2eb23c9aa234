"""Pictures that people send, good and bad."""

from __future__ import annotations

import io
import zlib

import pytest
from PIL import Image

from herd_mcp.engines.image_picture import cut, read_picture
from herd_mcp.jobs import ErrorCode, HerdError


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_read(kind: str) -> None:
    picture = read_picture(encoded(Image.new("RGB", (40, 20), (250, 0, 0)), kind))
    assert (picture.size, picture.mode) == ((40, 20), "RGB")
    red, green, _ = picture.getpixel((5, 5))  # type: ignore[misc]
    assert red > 200 > 50 > green


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a picture",
        encoded(Image.new("RGB", (8, 8)), "GIF"),
        encoded(Image.effect_noise((64, 64), 90), "PNG")[:900],
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 100,
    ],
    ids=["empty", "text", "another format", "cut short", "only the beginning"],
)
def test_bytes_that_are_no_picture_are_refused(data: bytes) -> None:
    with pytest.raises(HerdError, match="cannot be used") as refused:
        read_picture(data)
    assert refused.value.info.code is ErrorCode.INVALID_REQUEST


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_before_it_does() -> None:
    header = (60_000).to_bytes(4, "big") + (60_000).to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    with pytest.raises(HerdError) as refused:
        read_picture(bomb + b"\x00\x00\x00\x00IDAT")
    assert refused.value.info.code is ErrorCode.INVALID_REQUEST
    large = encoded(Image.new("1", (8_001, 8_001)), "PNG")
    with pytest.raises(HerdError, match="64 megapixels is the most"):
        read_picture(large)


def test_a_photo_is_turned_upright() -> None:
    photo = Image.new("RGB", (40, 20), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_picture(encoded(photo, "JPEG", exif=exif)).size == (20, 40)


def test_what_is_transparent_becomes_white() -> None:
    clear = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    assert read_picture(encoded(clear, "PNG")).getpixel((5, 5)) == (255, 255, 255)


def test_other_proportions_are_cut_and_not_distorted() -> None:
    picture = Image.new("RGB", (200, 100), "white")
    picture.paste("black", (50, 0, 150, 100))
    square = cut(picture, 64, 64)
    assert square.size == (64, 64)
    assert square.convert("L").getpixel((4, 32)) == 0
