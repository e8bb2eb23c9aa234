"""Images on a real disk."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from herd_mcp.jobs import ErrorCode, HerdError, ImageResult
from herd_mcp.node.gallery import THUMBNAIL_BYTES, Gallery

IMAGE_ID = "img-0123456789-0123456789ab"


def spooled(gallery: Gallery, size: tuple[int, int] = (64, 64)) -> ImageResult:
    path = gallery.spool_file()
    Image.effect_noise(size, 100).convert("RGB").save(path)
    return ImageResult(
        image_id=IMAGE_ID, model="m", node="n", width=size[0], height=size[1], steps=1, seed=1, path=str(path)
    )


async def test_a_kept_image_has_its_place_its_size_and_its_digest(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "images")
    kept = await gallery.keep(spooled(gallery))
    assert Path(kept.path) == gallery.path(IMAGE_ID)
    assert kept.bytes == len(await gallery.read(IMAGE_ID)) == await gallery.total_bytes()
    assert len(kept.sha256) == 64
    assert list(gallery.spool.iterdir()) == []


async def test_unfinished_pictures_of_a_killed_node_are_removed_and_kept_ones_are_not(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "images")
    await gallery.keep(spooled(gallery))
    spooled(gallery)
    again = Gallery(tmp_path / "images")
    assert list(again.spool.iterdir()) == []
    assert again.path(IMAGE_ID).is_file()


async def test_a_thumbnail_is_a_small_jpeg_even_of_noise(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "images")
    await gallery.keep(spooled(gallery, (1024, 768)))
    data = await gallery.thumbnail(IMAGE_ID)
    image = Image.open(io.BytesIO(data))
    assert (image.format, max(image.size)) == ("JPEG", 512)
    assert len(data) <= THUMBNAIL_BYTES


@pytest.mark.parametrize(
    "image_id", ["", "../herd.db", "img-0123456789-0123456789ab/../x", "img-0123456789-ba9876543210"]
)
def test_an_id_never_becomes_a_path_unchecked(tmp_path: Path, image_id: str) -> None:
    with pytest.raises(HerdError) as caught:
        Gallery(tmp_path / "images").path(image_id)
    assert caught.value.info.code == ErrorCode.IMAGE_NOT_FOUND


async def test_a_picture_that_cannot_be_kept_is_an_error_of_the_disk(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "images")
    result = spooled(gallery)
    Path(result.path).unlink()
    with pytest.raises(HerdError) as caught:
        await gallery.keep(result)
    assert caught.value.info.code == ErrorCode.DISK
