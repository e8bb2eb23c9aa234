"""What a request and the settings make of a model's plan."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from herd_mcp.jobs import ErrorCode, HerdError, ImageRequest
from herd_mcp.node import plans
from herd_mcp.node.lanes import Plan
from herd_mcp.node.measured import NOTHING, Known
from herd_mcp.node.memory import Needs
from herd_mcp.node.offers import look
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


def chat_model(folder: Path, context: int = 100_000) -> ModelInfo:
    """One whose cache takes 128 KiB per token."""
    config = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
    config |= {"num_key_value_heads": 8, "vocab_size": 1000, "intermediate_size": 1000}
    (folder / "config.json").write_text(json.dumps(config))
    facts = {"name": "org/chat", "kind": "chat", "family": "llama", "source": "herd", "path": str(folder)}
    return ModelInfo.model_validate(facts | {"bytes": GIB, "bits": 4, "complete": True, "context_tokens": context})


async def test_a_list_tells_the_context_that_the_engine_is_given_and_not_the_longer_one_of_the_model(
    tmp_path: Path,
) -> None:
    settings, budget = load_settings(), 4 * GIB
    (told,), (offer,) = look([chat_model(tmp_path)], settings, tmp_path, budget, {})
    given = await plans.Plans(settings, tmp_path, budget).of(chat_model(tmp_path), None, NOTHING)
    assert told.context_tokens == offer.plan.spec.context_tokens == given.spec.context_tokens
    assert told.context_tokens is not None
    assert 1024 <= told.context_tokens < 30_000
    (roomy,), _ = look([chat_model(tmp_path)], settings, tmp_path, 64 * GIB, {})
    assert roomy.context_tokens == 100_000
    again = await plans.Plans(settings, tmp_path, budget).of(told, None, NOTHING)
    assert again == given, "planned from the list it is the same"


async def test_a_plan_is_made_once_until_something_is_measured_or_the_disk_is_looked_at(tmp_path: Path) -> None:
    made = plans.Plans(load_settings(), tmp_path, 64 * GIB)
    model = chat_model(tmp_path)
    first = await made.of(model, None, NOTHING)
    (tmp_path / "config.json").unlink()
    assert await made.of(model, None, NOTHING) is first
    assert (await made.of(model, None, Known(weights_bytes=GIB + 1))).needs != first.needs
    made.forget()
    assert (await made.of(model, None, NOTHING)).needs != first.needs, "without its config it counts as another"


async def test_a_plan_that_was_begun_before_a_look_at_the_disk_is_not_kept(tmp_path: Path) -> None:
    made = plans.Plans(load_settings(), tmp_path, 64 * GIB)
    model = chat_model(tmp_path)
    late = asyncio.create_task(made.of(model, None, NOTHING))
    await asyncio.sleep(0)
    made.forget()
    old = await late
    assert await made.of(model, None, NOTHING) is not old
