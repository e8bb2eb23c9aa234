"""What a request and the settings make of a model's plan."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from herd_mcp.jobs import ErrorCode, HerdError, ImageRequest
from herd_mcp.node import plans
from herd_mcp.node.lanes import Plan
from herd_mcp.node.memory import Needs
from herd_mcp.settings import GIB, load_settings
from herd_mcp.state import ModelInfo


def image_model() -> ModelInfo:
    facts = {"name": "org/one", "kind": "image", "family": "any", "source": "herd", "path": "/one"}
    return ModelInfo.model_validate(facts | {"bytes": GIB, "complete": True})


def plan_of(quantize: int | None = 8, **settings: object) -> Plan:
    return plans.plan_for(image_model(), load_settings(**settings), Path("/h"), quantize, Needs(GIB), 8 * GIB)


def test_a_pin_holds_for_the_model_as_it_is_usually_loaded_and_for_no_other_quantisation() -> None:
    pins = {"org/one": {"pinned": True}}
    assert plan_of(8, models=pins).pinned
    assert not plan_of(4, models=pins).pinned
    assert plan_of(4, models=pins, image_quantize=4).pinned


def picture(width: int, height: int, turned: bool = False) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    Image.new("RGB", (width, height)).save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(
    ("asked", "px"),
    [
        ({"width": 512, "height": 512, "image": picture(100, 300)}, 512 * 512),
        ({"width": 512, "image": picture(100, 300)}, 512 * 1536),
        ({"height": 512, "image": picture(100, 300)}, 512 * 176),
        ({"width": 512, "image": picture(300, 100, turned=True)}, 512 * 1536),
        ({"image": picture(100, 400)}, 512 * 2048),
        ({"width": 512, "image": b"no picture"}, 512 * 1024),
        ({"width": 512}, 512 * 1024),
    ],
)
def test_an_image_in_the_proportions_of_a_picture_is_reserved_as_large_as_it_is_drawn(
    asked: dict[str, object], px: int
) -> None:
    assert plans.size_of(ImageRequest(prompt="x", **asked), plan_of()) == px


def test_an_image_that_a_picture_makes_too_large_is_refused() -> None:
    asked = ImageRequest(prompt="x", width=1024, image=picture(100, 300))
    with pytest.raises(HerdError) as caught:
        plans.check_image(asked, image_model(), load_settings())
    assert (caught.value.info.code, "3072 px" in caught.value.info.message) == (ErrorCode.INVALID_REQUEST, True)
