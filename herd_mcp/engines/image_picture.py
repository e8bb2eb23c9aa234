"""Pictures that come in with a request: checked, turned upright, cut to the size that is drawn."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from herd_mcp.jobs import ErrorCode, HerdError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 64_000_000
"""Decoded, a picture of this size takes 256 MB."""


def read_picture(data: bytes) -> Image.Image:
    """The picture in `data` as upright RGB; what is transparent becomes white. Raises HerdError(invalid_request)."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise _refused(
                f"it is {width}×{height} pixels; {MAX_PIXELS // 1_000_000} megapixels is the most",
                "Send a smaller one.",
            )
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return upright.convert("RGB")
    except HerdError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged bytes
        reason = "it is not a PNG, JPEG or WebP picture, or it is damaged"
        raise _refused(reason, "Send the bytes of a whole picture file.") from error


def _refused(reason: str, hint: str) -> HerdError:
    return HerdError(ErrorCode.INVALID_REQUEST, f"The picture in `image` cannot be used: {reason}.", hint)


def cut(picture: Image.Image, width: int, height: int) -> Image.Image:
    """`picture` in exactly this size, cut at the edges where the proportions differ: mflux would distort it."""
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
