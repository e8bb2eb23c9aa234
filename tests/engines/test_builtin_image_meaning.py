"""The built-in image model draws what is asked, in the engine's real process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from herd_mcp.jobs import ImageRequest
from herd_mcp.pipe import EngineSpec
from tests.engines.pipe_client import EngineProcess
from training.image.config import FOLDER
from training.image.judge import Verdict, judge


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("engine") / "log") as process:
        process.load(EngineSpec(kind="image", model="herd-tiny-image", path=str(FOLDER), family="builtin-flux2-klein"))
        yield process


def shown(engine: EngineProcess, spool: Path, **fields: object) -> Verdict:
    request = ImageRequest.model_validate({"seed": 11, **fields})
    engine.answer(engine.start(request, str(spool)))
    with Image.open(spool) as image:
        return judge(np.array(image.convert("RGB")))


@pytest.mark.parametrize(
    ("prompt", "foreground", "shape", "background"),
    [
        ("a red circle on a white background", "red", "circle", "white"),
        ("A green star", "green", "star", "white"),
        ("a white square on a red background", "white", "square", "red"),
        ("please draw a yellow triangle on blue, simple, flat", "yellow", "triangle", "blue"),
    ],
)
def test_the_shape_and_colours_asked_for_are_in_the_picture(
    engine: EngineProcess, tmp_path: Path, prompt: str, foreground: str, shape: str, background: str
) -> None:
    verdict = shown(engine, tmp_path / "out.png", prompt=prompt)
    assert (verdict.foreground, verdict.shape, verdict.background) == (foreground, shape, background)


def test_size_and_place_words_count_and_128_pixels_do_too(engine: EngineProcess, tmp_path: Path) -> None:
    verdict = shown(
        engine, tmp_path / "out.png", prompt="a small blue circle on yellow, on the left", width=128, height=128
    )
    assert (verdict.foreground, verdict.shape, verdict.background) == ("blue", "circle", "yellow")
    assert (verdict.size, verdict.place) == ("small", "left")
