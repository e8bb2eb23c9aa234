"""The vocabulary: what is valid, and what an error says."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from herd_mcp.jobs import (
    IMAGE_ID,
    JOB_EVENT,
    MAX_CHAT_CHARS,
    MAX_PICTURE_BYTES,
    ChatRequest,
    Completed,
    ErrorCode,
    HerdError,
    ImageRequest,
    ImageResult,
    Job,
    image_id_of,
    new_job_id,
    owner_of,
    parse_request,
)

DEEP: dict[str, Any] = functools.reduce(lambda inner, _: {"properties": inner}, range(300), {})


def user(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "   "}, "prompt"),
        ({"prompt": "x" * 200_000}, "prompt"),
        ({"prompt": "a\x00b"}, "NUL"),
        ({"prompt": "a\ud800b"}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "x", "width": 0}, "width"),
        ({"prompt": "x", "width": -64}, "width"),
        ({"prompt": "x", "height": 7}, "height"),
        ({"prompt": "x", "height": 100_000}, "height"),
        ({"prompt": "x", "width": "wide"}, "width"),
        ({"prompt": "x", "width": 64.5}, "width"),
        ({"prompt": "x", "steps": 0}, "steps"),
        ({"prompt": "x", "steps": 10_000}, "steps"),
        ({"prompt": "x", "quantize": 1}, "quantize"),
        ({"prompt": "x", "seed": -1}, "seed"),
        ({"prompt": "x", "guidance": float("nan")}, "guidance"),
        ({"prompt": "x", "size": "big"}, "size"),
        ({"prompt": "x", "tags": ["t"] * 17}, "tags"),
        ({"prompt": "x", "image": b"x" * (MAX_PICTURE_BYTES + 1)}, "image"),
    ],
)
def test_a_bad_image_request_is_refused_with_its_field_and_without_its_value(
    fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(HerdError) as caught:
        parse_request(ImageRequest, fields)
    assert caught.value.info.code == ErrorCode.INVALID_REQUEST
    assert named in caught.value.info.message
    assert len(caught.value.info.message) < 500


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ({"messages": user("a\x00")}, "NUL"),
        ({"messages": user("\udfff")}, "messages"),
        ({"messages": user("x" * (MAX_CHAT_CHARS + 1))}, "longest conversation"),
        ({"messages": user("x"), "stop": [str(n) for n in range(1000)]}, "stop"),
        ({"messages": user("x"), "stop": [""]}, "stop"),
        ({"messages": user("x"), "max_tokens": 10**9}, "max_tokens"),
        ({"messages": user("x"), "max_tokens": 0}, "max_tokens"),
        ({"messages": user("x"), "sampling": {"temperature": -1}}, "temperature"),
        ({"messages": user("x"), "sampling": {"top_p": 2}}, "top_p"),
        ({"messages": user("x"), "colour": "red"}, "colour"),
        ({"messages": user("x"), "tools": [{"name": "t", "parameters": DEEP}]}, "nested"),
        ({"messages": user("x"), "tools": [{"name": "t", "parameters": {"a": "\ud800"}}]}, "half of a character"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "\ud800"}]}, "half of a character"),
    ],
)
def test_a_bad_chat_request_is_refused_with_its_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(HerdError) as caught:
        parse_request(ChatRequest, fields)
    assert caught.value.info.code == ErrorCode.INVALID_REQUEST
    assert named in caught.value.info.message


def test_sizes_are_rounded_down_to_what_diffusion_models_draw() -> None:
    request = parse_request(ImageRequest, {"prompt": "-x", "width": 1000, "height": 64})
    assert (request.width, request.height, request.prompt) == (992, 64, "-x")


def test_pictures_and_odd_text_survive_the_way_through_json() -> None:
    request = ImageRequest(prompt="\u2028 café 🎨", image=bytes(range(256)))
    again = ImageRequest.model_validate_json(request.model_dump_json())
    assert again == request
    event = Completed(
        result=ImageResult(image_id="i", model="m", node="n", width=64, height=64, steps=1, seed=1), job_id="j", seq=3
    )
    assert JOB_EVENT.validate_json(event.model_dump_json()) == event
    assert json.loads(event.model_dump_json())["type"] == "completed"


def test_ids_name_their_owner_and_belong_together() -> None:
    job_id = new_job_id("0123456789")
    assert job_id.startswith("job-0123456789-")
    assert IMAGE_ID.match(image_id_of(job_id))
    assert owner_of(job_id) == owner_of(image_id_of(job_id)) == "0123456789"


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "job",
        "job-0123456789",
        "job-../..-0123456789ab",
        "img-0123456789-0123456789ab\n",
        "job-0123456789-0123456789ab\n",
        "JOB-0123456789-0123456789ab",
    ],
)
def test_what_is_no_id_names_no_owner(wrong: str) -> None:
    assert owner_of(wrong) == ""
    assert not IMAGE_ID.match(wrong)


def test_a_job_without_what_was_forgotten_can_be_read_back() -> None:
    job = Job(id="j", kind="chat", client="t", created_at=1.0, request=None)
    assert Job.model_validate_json(job.model_dump_json(exclude_none=True)) == job
