"""The picture that an image starts from: a herd:// link, base64 data, or, for clients on this Mac, a file."""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import io
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from PIL import Image

from herd_mcp.jobs import ErrorCode, HerdError

if TYPE_CHECKING:
    from herd_mcp.herd import Herd

LINK = "herd://images/"
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 64_000_000
MIN_BASE64_CHARS = 64
"""Shorter texts are names of files, not pictures."""


async def read_picture(herd: Herd, told: str, *, local: bool) -> bytes:
    """The PNG, JPEG or WebP that `told` means.

    Raises HerdError: image_not_found for a link to nothing; invalid_request for a file that does not exist, may not be
    read or is no picture; forbidden for a path from a client that is not on this Mac; too_large.
    """
    if told.startswith(LINK):
        data = await herd.image(told.removeprefix(LINK))
    elif (decoded := _decoded(told)) is not None:
        data = decoded
    elif local:
        data = await asyncio.to_thread(_read_file, told, herd.settings.max_body_bytes)
    else:
        raise HerdError(
            ErrorCode.FORBIDDEN,
            "image: paths of this Mac are taken from clients that run on it, not over HTTP.",
            "Pass the bytes as a data: URI (data:image/png;base64,…), or a link herd://images/{image_id}.",
        )
    await asyncio.to_thread(_check, data)
    return data


def _decoded(told: str) -> bytes | None:
    """The bytes of a data: URI or of bare base64; None when it is neither. Raises HerdError for a broken data: URI."""
    if told.startswith("data:"):
        head, _, body = told.partition(",")
        if not head.endswith(";base64"):
            raise _wrong("the data: URI is not base64", "Write it as data:image/png;base64,…")
        try:
            return base64.b64decode("".join(body.split()), validate=True)
        except binascii.Error:
            raise _wrong("the data: URI is not valid base64", "Encode the whole file and send it again.") from None
    if len(told) < MIN_BASE64_CHARS:
        return None
    try:
        return base64.b64decode("".join(told.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _read_file(told: str, max_bytes: int) -> bytes:
    """The file's bytes. Only regular files are opened, so a pipe or a device cannot hang the node."""
    try:
        name = unquote(urlsplit(told).path) if told.startswith("file://") else told
        if "\x00" in name or len(os.fsencode(name)) > 4096:
            raise ValueError
        path = Path(name).expanduser()
    except (ValueError, RuntimeError):  # the latter for ~ of an unknown user
        raise _wrong("that is no path", "Pass the full path of a PNG, JPEG or WebP file.") from None
    if not path.is_absolute():
        raise _wrong(f"{name[:200]!r} is not a full path, and the node does not know your folder", "Begin it with /.")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise _wrong(f"{path} is not a file", "Pass the full path of a PNG, JPEG or WebP file.")
            if found.st_size > max_bytes:
                raise HerdError(
                    ErrorCode.TOO_LARGE,
                    f"image: {path} has {found.st_size} bytes; at most {max_bytes} are taken.",
                    "Make it smaller; models scale it to the size of the new image anyway.",
                )
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(max_bytes)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> HerdError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return _wrong(f"{path} does not exist", "Check the path; it must be the full path on the Mac of the node.")
    if error.errno in (errno.EPERM, errno.EACCES):
        hint = "Make the file readable for you, or pass its bytes as a data: URI."
        if error.errno == errno.EPERM or sys.platform == "darwin":
            hint = (
                "macOS keeps Desktop, Documents, Downloads and other disks private: allow access under System "
                "Settings, Privacy & Security, Files and Folders, or pass the bytes as a data: URI."
            )
        return _wrong(f"{path} may not be read ({error.strerror})", hint)
    return _wrong(f"{path} cannot be read ({error.strerror})", "Pass the bytes as a data: URI.")


def _check(data: bytes) -> None:
    """That it is a whole picture of a size that can be used. Raises HerdError(invalid_request)."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise _wrong(f"the picture has {width}×{height} pixels", "Make it smaller than 64 megapixels.")
            picture.load()
    except HerdError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for broken files
        raise _wrong("that is not a whole PNG, JPEG or WebP picture", "Check the file and send it again.") from error


def _wrong(problem: str, hint: str) -> HerdError:
    return HerdError(ErrorCode.INVALID_REQUEST, f"image: {problem}.", hint, details={"fields": [f"image: {problem}"]})
