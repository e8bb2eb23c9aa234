"""From a request to the arguments of one `generate_image`: what is asked, what the model's own defaults fill in, and
what it cannot do. Pure, but for the seed."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from herd_mcp.engines.image_registry import Family
from herd_mcp.jobs import MAX_IMAGE_PX, USUAL_STRENGTH, ErrorCode, HerdError, ImageRequest

PX_STEP = 16


@dataclass(frozen=True)
class Drawing:
    """One image to draw, in numbers. None leaves a value to the model's class."""

    prompt: str
    width: int
    height: int
    seed: int
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    strength: float | None = None
    """How much of the picture stays. Set means that there is one."""

    def arguments(self, taken: Set[str], picture: Path | None = None) -> dict[str, Any]:
        """Keyword arguments for a generate_image that takes the names `taken`: never one more."""
        wanted = {
            "seed": self.seed,
            "prompt": self.prompt,
            "width": self.width,
            "height": self.height,
            "num_inference_steps": self.steps,
            "guidance": self.guidance,
            "negative_prompt": self.negative_prompt,
            "image_path": picture,
            "image_strength": self.strength,
        }
        return {name: value for name, value in wanted.items() if value is not None and name in taken}


def plan(request: ImageRequest, family: Family, model: str, picture_px: tuple[int, int] | None = None) -> Drawing:
    """Decide every value. `picture_px` is the size of `request.image`, upright. Raises HerdError(invalid_request).

    Guidance that the model does not use is left out (clients send it always), and the result says null. A negative
    prompt that it cannot use is refused, for the picture would show what was to be kept out.
    """
    if family.json_prompt:
        _check_caption(request.prompt, model)
    width, height = _size(request, family, model, picture_px)
    guidance = None
    if family.takes_guidance:
        guidance = family.default_guidance if request.guidance is None else request.guidance
    steps = request.steps or family.default_steps
    if picture_px is not None:
        _check_picture(family, model, steps)
    elif request.image_strength is not None:
        raise _invalid("image_strength was given without an image.", "Send `image` too, or leave image_strength out.")
    preset = family.own_schedule and request.steps is None and request.guidance is None
    return Drawing(
        prompt=request.prompt,
        width=width,
        height=height,
        seed=secrets.randbelow(2**32) if request.seed is None else request.seed,
        steps=None if preset else steps,
        guidance=guidance,
        negative_prompt=_negative(request.negative_prompt, family, model, guidance),
        strength=(request.image_strength or USUAL_STRENGTH) if picture_px is not None else None,
    )


def _invalid(message: str, hint: str) -> HerdError:
    return HerdError(ErrorCode.INVALID_REQUEST, message, hint)


def _check_caption(prompt: str, model: str) -> None:
    try:
        caption = json.loads(prompt)
    except ValueError:
        caption = None
    if not isinstance(caption, dict):
        raise _invalid(
            f"{model} draws from a JSON caption, and the prompt is not a JSON object.",
            'Send one such as {"short_description": "a red circle on white"}, or use a model that takes plain text.',
        )


def _check_picture(family: Family, model: str, steps: int) -> None:
    if not family.takes_image:
        raise _invalid(
            f"{model} cannot start from a picture.",
            "FLUX.1, FLUX.2 klein, Z-Image, Qwen-Image, Krea 2, ERNIE-Image and FIBO models can; or leave `image` out.",
        )
    if steps < 2:
        raise _invalid(
            "One step is too few with an image: the first is spent on the picture itself.", "Ask for 2 or more."
        )


def _negative(text: str | None, family: Family, model: str, guidance: float | None) -> str | None:
    if text is None or not text.strip():
        return None
    if not family.takes_negative_prompt:
        raise _invalid(
            f"{model} has no negative prompt: it would draw as if none were given.",
            "Leave negative_prompt empty and say in the prompt what is wanted, or use a model that takes one, "
            "such as qwen-image or z-image.",
        )
    if guidance is None or guidance <= 1:
        raise _invalid(
            f"{model} uses a negative prompt only with a guidance above 1, and here it is {guidance or 0:g}.",
            "Set guidance, for example to 4, or leave negative_prompt empty.",
        )
    return text


# ── Size ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _size(request: ImageRequest, family: Family, model: str, picture_px: tuple[int, int] | None) -> tuple[int, int]:
    """What is asked; else the model's default, in the proportions of the picture when there is one."""
    largest = family.max_px or MAX_IMAGE_PX
    for name, px in (("width", request.width), ("height", request.height)):
        if px is not None and not family.min_px <= px <= largest:
            raise _invalid(
                f"{name} is {px} pixels; {model} draws {family.min_px} to {largest}.",
                f"Ask for at most {largest}." if px > largest else f"Ask for at least {family.min_px}.",
            )
    if request.width and request.height:
        return request.width, request.height
    ratio = picture_px[0] / picture_px[1] if picture_px else None
    if request.width:
        height = request.width / ratio if ratio else family.default_px
        return request.width, _fit(height, family.min_px, largest)
    if request.height:
        width = request.height * ratio if ratio else family.default_px
        return _fit(width, family.min_px, largest), request.height
    root = math.sqrt(ratio) if ratio else 1.0
    return (
        _fit(family.default_px * root, family.min_px, largest),
        _fit(family.default_px / root, family.min_px, largest),
    )


def _fit(px: float, least: int, largest: int) -> int:
    return min(max(round(px / PX_STEP) * PX_STEP, least), largest)
