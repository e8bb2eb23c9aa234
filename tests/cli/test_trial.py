"""The doctor's trial looks at what came back, not only at whether something did."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from herd_mcp.cli.checks import makes_sense
from herd_mcp.jobs import ChatResult, ImageResult, Usage


def chat(text: str) -> ChatResult:
    return ChatResult(text=text, finish_reason="stop", usage=Usage(), model="herd-tiny-chat", node="n")


def image(picture: Image.Image, folder: Path) -> ImageResult:
    picture.save(folder / "i.png")
    path = str(folder / "i.png")
    size = {"width": picture.width, "height": picture.height}
    return ImageResult(image_id="i", model="herd-tiny-image", node="n", steps=4, seed=1, path=path, **size)


def test_an_answer_about_herd_mcp_makes_sense_and_noise_does_not() -> None:
    assert makes_sense(chat("herd-mcp runs image and chat models on your own Mac, with mflux and mlx-lm."))
    assert not makes_sense(chat("qzx vvv herd"))
    assert not makes_sense(chat(""))


def test_a_red_circle_on_blue_makes_sense(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 64), (20, 30, 220))
    ImageDraw.Draw(picture).ellipse((12, 12, 52, 52), fill=(220, 30, 20))
    assert makes_sense(image(picture, tmp_path))


@pytest.mark.parametrize("colour", [(20, 30, 220), (220, 30, 20), (0, 0, 0), (255, 255, 255)])
def test_one_colour_makes_no_sense(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    assert not makes_sense(image(Image.new("RGB", (64, 64), colour), tmp_path))


def test_noise_makes_no_sense(tmp_path: Path) -> None:
    assert not makes_sense(image(Image.effect_noise((64, 64), 90).convert("RGB"), tmp_path))
