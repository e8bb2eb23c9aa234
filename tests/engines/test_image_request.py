"""What a request becomes, value by value."""

from __future__ import annotations

import pytest

from herd_mcp.engines.image_registry import Family
from herd_mcp.engines.image_request import Drawing, plan
from herd_mcp.jobs import ErrorCode, HerdError, ImageRequest

PLAIN = Family("plain", (), "", text_to_image=True, default_steps=9)
FULL = Family(
    "full",
    (),
    "",
    text_to_image=True,
    default_steps=20,
    default_guidance=3.5,
    takes_guidance=True,
    takes_negative_prompt=True,
    takes_image=True,
)
SMALL = Family("small", (), "", text_to_image=True, default_steps=4, default_px=64, max_px=128, takes_image=True)


def planned(family: Family, picture_px: tuple[int, int] | None = None, **fields: object) -> Drawing:
    return plan(ImageRequest.model_validate({"prompt": "a cat", **fields}), family, "the model", picture_px)


def refusal(family: Family, picture_px: tuple[int, int] | None = None, **fields: object) -> str:
    with pytest.raises(HerdError) as refused:
        planned(family, picture_px, **fields)
    assert refused.value.info.code is ErrorCode.INVALID_REQUEST
    assert refused.value.info.hint
    return str(refused.value)


def test_what_is_not_asked_comes_from_the_family() -> None:
    drawing = planned(FULL)
    assert (drawing.width, drawing.height, drawing.steps, drawing.guidance) == (1024, 1024, 20, 3.5)
    assert drawing.negative_prompt is None
    assert drawing.strength is None


def test_a_seed_is_always_chosen_and_rarely_twice() -> None:
    seeds = {planned(PLAIN).seed for _ in range(20)}
    assert len(seeds) > 1
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert planned(PLAIN, seed=0).seed == 0


def test_guidance_that_means_nothing_to_the_model_is_left_out() -> None:
    assert planned(PLAIN, guidance=4.0).guidance is None
    assert planned(FULL, guidance=0.0).guidance == 0.0


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_an_empty_negative_prompt_is_none_at_all(empty: str | None) -> None:
    assert planned(PLAIN, negative_prompt=empty).negative_prompt is None
    assert planned(FULL, negative_prompt=empty).negative_prompt is None


def test_a_negative_prompt_is_refused_where_it_would_do_nothing() -> None:
    assert "no negative prompt" in refusal(PLAIN, negative_prompt="a dog")
    assert "guidance above 1" in refusal(FULL, negative_prompt="a dog", guidance=1.0)
    assert planned(FULL, negative_prompt="a dog").negative_prompt == "a dog"


def test_a_size_beyond_the_model_is_refused_with_the_limit() -> None:
    assert "64 to 128" in refusal(SMALL, width=256)
    assert "64 to 128" in refusal(SMALL, height=256)
    assert (planned(SMALL).width, planned(SMALL, width=128, height=96).height) == (64, 96)


def test_a_picture_gives_the_proportions_when_no_size_is_asked() -> None:
    wide = planned(FULL, (2000, 1000), image=b"x")
    assert wide.width == pytest.approx(2 * wide.height, rel=0.03)
    assert wide.width * wide.height == pytest.approx(1024 * 1024, rel=0.03)
    assert wide.width % 16 == wide.height % 16 == 0
    assert (planned(FULL, (2000, 1000), image=b"x", width=512).height) == 256
    assert (planned(FULL, (2000, 1000), image=b"x", height=512).width) == 1024
    extreme = planned(SMALL, (5000, 10), image=b"x")
    assert (extreme.width, extreme.height) == (128, 64)


def test_a_picture_has_a_strength_and_only_a_picture() -> None:
    assert planned(FULL, (64, 64), image=b"x").strength == 0.4
    assert planned(FULL, (64, 64), image=b"x", image_strength=0.9).strength == 0.9
    assert "without an image" in refusal(FULL, image_strength=0.5)
    assert "cannot start from a picture" in refusal(PLAIN, (64, 64), image=b"x")
    assert "2 or more" in refusal(FULL, (64, 64), image=b"x", steps=1)


def test_a_model_that_draws_from_json_says_so() -> None:
    family = Family("json", (), "", text_to_image=True, default_steps=8, json_prompt=True)
    assert "JSON caption" in refusal(family)
    assert "JSON caption" in refusal(family, prompt="[1]")
    assert planned(family, prompt='{"short_description": "a cat"}').prompt.startswith("{")


def test_a_preset_stands_until_a_number_is_asked() -> None:
    family = Family(
        "preset", (), "", text_to_image=True, default_steps=20, takes_guidance=True, own_schedule=True, min_px=256
    )
    assert (planned(family).steps, planned(family).guidance) == (None, None)
    assert planned(family, steps=8).steps == 8
    assert (planned(family, guidance=5.0).steps, planned(family, guidance=5.0).guidance) == (20, 5.0)
    assert "Ask for at least 256" in refusal(family, width=64)
