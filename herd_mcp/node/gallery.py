"""Images on disk: kept before they are told of, found by id, never deleted or changed by a job."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import io
import os
import secrets
import sys
from pathlib import Path

from PIL import Image

from herd_mcp.jobs import IMAGE_ID, ErrorCode, HerdError, ImageResult

THUMBNAIL_PX = 512
THUMBNAIL_BYTES = 64 * 1024
THUMBNAIL_QUALITIES = (85, 70, 50, 30, 15)


class Gallery:
    """The images of one node, one PNG each under `folder`; unfinished ones under `folder/.spool`."""

    def __init__(self, folder: Path) -> None:
        """Raises HerdError(disk) where there can be no folder."""
        self.folder = folder
        self.spool = folder / ".spool"
        self._make()
        for left in self.spool.iterdir():  # of a node that was killed; its jobs run again
            with contextlib.suppress(OSError):  # a folder is not of a node's making
                left.unlink()

    def spool_file(self) -> Path:
        """A name for an engine to write to, on the gallery's own file system. Raises HerdError(disk)."""
        self._make()  # somebody may have tidied up
        return self.spool / f"{secrets.token_hex(8)}.png"

    def discard(self, spooled: Path) -> None:
        """Remove what an attempt that brought no picture has left of one."""
        for left in self.spool.glob(f"{spooled.stem}.*"):
            with contextlib.suppress(OSError):
                left.unlink()

    async def keep(self, result: ImageResult) -> ImageResult:
        """Move the picture at `result.path` to its place, safe from a power cut. Raises HerdError(disk)."""
        try:
            return await asyncio.to_thread(self._keep, result)
        except OSError as error:
            why = error.strerror or error
            raise _disk_error(f"The image could not be written to HERD_HOME/images: {why}.") from error

    def path(self, image_id: str) -> Path:
        """Where the image lies. Raises HerdError(image_not_found); an id never becomes a path unchecked."""
        if IMAGE_ID.match(image_id) and (path := self._place(image_id)).is_file():
            return path
        raise HerdError(
            ErrorCode.IMAGE_NOT_FOUND,
            "There is no image with this id on this node.",
            "`herd-mcp jobs` lists what was made.",
        )

    async def read(self, image_id: str) -> bytes:
        """The PNG."""
        return await asyncio.to_thread(self.path(image_id).read_bytes)

    async def thumbnail(self, image_id: str) -> bytes:
        """A JPEG of at most 512 px and 64 KiB."""
        path = self.path(image_id)
        return await asyncio.to_thread(lambda: thumbnail(path.read_bytes()))

    async def total_bytes(self) -> int:
        """What all images take on disk."""
        return await asyncio.to_thread(lambda: sum(map(_bytes, self.folder.glob("*.png"))))

    def _make(self) -> None:
        try:
            self.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _disk_error(_why_no_folder(self.folder, error)) from error

    def _place(self, image_id: str) -> Path:
        return self.folder / f"{image_id}.png"

    def _keep(self, result: ImageResult) -> ImageResult:
        spooled = Path(result.path)
        data = spooled.read_bytes()
        with spooled.open("rb") as stream:
            sync_to_platter(stream.fileno())
        place = self._place(result.image_id)
        spooled.replace(place)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        digest = hashlib.sha256(data).hexdigest()
        return result.model_copy(update={"path": str(place), "bytes": len(data), "sha256": digest})


def sync_to_platter(descriptor: int) -> None:
    """fsync, and on macOS, where fsync stops at the drive's cache, F_FULLFSYNC."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # its owner took it away in this moment
        return 0


def _why_no_folder(folder: Path, error: OSError) -> str:
    if folder.is_symlink() and not folder.exists():
        return f"HERD_HOME/images is a link to {folder.readlink()}, which is not there."
    if folder.exists() and not folder.is_dir():
        return "HERD_HOME/images is a file where the folder of the images should be."
    return f"HERD_HOME/images cannot be used: {error.strerror or error}."


def _disk_error(message: str) -> HerdError:
    hint = "Make room or mend it (`herd-mcp doctor` looks at the machine), then try again."
    return HerdError(ErrorCode.DISK, message, hint, retryable=True)


def thumbnail(picture: bytes) -> bytes:
    """A JPEG of at most 512 px and 64 KiB."""
    with Image.open(io.BytesIO(picture)) as image:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    data = b""
    for quality in THUMBNAIL_QUALITIES:
        out = io.BytesIO()
        small.save(out, "JPEG", quality=quality, optimize=True)
        data = out.getvalue()
        if len(data) <= THUMBNAIL_BYTES:
            break
    return data
