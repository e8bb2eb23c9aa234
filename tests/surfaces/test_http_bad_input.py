"""Bad input, each a clear error, and the engines alive after all of it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from .http_node import CHAT, IMAGE, HttpNode

BAD_BODIES = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"{",
    b"{'model': 1}",
    b'{"prompt": NaN}',
    b'{"guidance": Infinity}',
    b'{"guidance": 1e999}',
    b'{"prompt": "a", "prompt": "b"}',
    b'{"prompt": "\\ud800"}',
    b'{"metadata": {"\\udfff": 1}}',
    b'{"prompt": "\xff"}',
    '{"prompt": "x"}'.encode("utf-16"),
    b"[" * 100_000,
    b'{"seed": ' + b"9" * 5000 + b"}",
]

BAD_IMAGES: list[tuple[dict[str, Any], int, str]] = [
    *(
        ({side: size}, 400, side)
        for side in ("width", "height")
        for size in (0, -1, 7, 100_000, "abc", "64", True, 64.5)
    ),
    *(({"steps": steps}, 400, "steps") for steps in (0, -1, 10_000, "4", True, [4])),
    *(({"quantize": bits}, 400, "quantize") for bits in (1, 2, 7, 16, "8")),
    *(({"seed": seed}, 400, "seed") for seed in (-1, 2**32, 1.5, "7")),
    *(({"guidance": guidance}, 400, "guidance") for guidance in (-1, 1000, "strong")),
    *(({"prompt": prompt}, 400, "prompt") for prompt in ("", "   ", None, 5, ["x"], "x" * 200_000, "a\x00b")),
    ({"negative_prompt": 3}, 400, "negative_prompt"),
    ({"negative_prompt": "a\x00"}, 400, "negative_prompt"),
    *(({"model": model}, 400, "model") for model in ("", None, 3, "x" * 1000, "a\x00")),
    ({"model": "herd-tinny-image"}, 404, IMAGE),
    ({"model": "../../etc/passwd"}, 404, "model"),
    ({"model": CHAT}, 400, "chat"),
    ({"metadata": []}, 400, "metadata"),
    ({"metadata": {"tags": 5}}, 400, "metadata.tags"),
    ({"metadata": {"tags": [1]}}, 400, "metadata.tags"),
    ({"metadata": {"tags": ["x" * 65]}}, 400, "tags"),
    ({"user": 5}, 400, "user"),
]

BAD_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": ["hello"]}, "messages.0"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": "a\x00b"}]}, "NUL"),
    ({"messages": [{"role": "assistant", "tool_calls": ["x"]}]}, "messages.0.tool_calls.0"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "messages.0.tool_calls.0"),
    ({"messages": [{"role": "user", "content": "x" * 500_000}]}, "context"),
    ({"messages": [{"role": "user", "content": "x"}] * 10_001}, "messages"),
    ({"tools": "x"}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools.0.name"),
    ({"stop": 5}, "stop"),
    ({"stop": [""]}, "stop"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": -5}, "top_k"),
    ({"seed": -1}, "seed"),
    ({"logit_bias": []}, "logit_bias"),
    ({"logit_bias": {"1": "much"}}, "logit_bias"),
    ({"stream_options": 1}, "stream_options"),
]


@pytest.fixture(scope="module", autouse=True)
async def the_engines_live_through_all_of_it(node: HttpNode) -> AsyncIterator[None]:
    """Around all tests of this file."""
    assert (await node.image()).status_code == 200
    assert (await node.chat()).status_code == 200
    pids = await node.engine_pids()
    assert set(pids) == {IMAGE, CHAT}
    yield
    assert (await node.image()).status_code == 200
    assert (await node.chat()).status_code == 200
    assert await node.engine_pids() == pids


@pytest.mark.parametrize("path", ["/api/generate-image", "/v1/chat/completions"])
@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
async def test_a_body_that_is_no_json_object_is_400(node: HttpNode, path: str, body: bytes) -> None:
    answer = await node.http.post(path, content=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert "body" in (error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize(("fields", "status", "says"), BAD_IMAGES, ids=range(len(BAD_IMAGES)))
async def test_a_bad_image_request_is_refused_by_the_name_of_what_is_wrong(
    node: HttpNode, fields: dict[str, Any], status: int, says: str
) -> None:
    answer = await node.image(**fields)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]
    assert len(answer.content) < 2000  # what was wrong is named, not repeated


@pytest.mark.parametrize(("fields", "says"), BAD_CHATS, ids=range(len(BAD_CHATS)))
async def test_a_bad_chat_request_is_refused_by_the_name_of_what_is_wrong(
    node: HttpNode, fields: dict[str, Any], says: str
) -> None:
    answer = await node.chat(**fields)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]["message"]
    assert len(answer.content) < 2000


async def test_prompts_that_look_like_something_else_are_just_prompts(node: HttpNode) -> None:
    for prompt in ("--help -5 degrees '; DROP TABLE jobs; --", "\u2028 \U0001f98a %s {0} $HOME"):
        assert (await node.image(prompt=prompt)).status_code == 200


async def test_an_answer_to_a_bad_request_is_json_in_its_dialect(node: HttpNode) -> None:
    image, chat = await node.image(steps=0), await node.chat(messages=[])
    assert isinstance(json.loads(image.content)["error"], str)
    assert json.loads(chat.content)["error"]["param"] == "messages"
