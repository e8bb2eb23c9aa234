"""POST /v1/chat/completions."""

import json
import logging
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from herd_mcp.surfaces.openai_request import read_chat

from .http_node import CHAT, IMAGE, HttpNode, events_of

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Tell it.", "parameters": {"type": "object", "properties": {}}},
}


def request_with(body: dict[str, Any], headers: dict[str, str] | None = None) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


async def test_an_answer_has_openais_shape_and_says_who_served(node: HttpNode) -> None:
    answer = await node.chat(model=CHAT, seed=1)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["object"], body["model"], len(body["choices"])) == ("chat.completion", CHAT, 1)
    choice = body["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    assert (choice["index"], choice["finish_reason"]) == (0, "length")
    usage = body["usage"]
    assert usage["completion_tokens"] == 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + 4
    assert usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"]
    assert (answer.headers["x-fleet-node"], answer.headers["x-fleet-model"]) == ("tester", CHAT)
    assert int(answer.headers["x-generation-time"]) > 0
    job = await node.herd.job(answer.headers["x-herd-job"])
    assert (job.client, job.stream, job.status) == ("openai", False, "completed")


async def test_a_stream_carries_the_same_answer_in_pieces(node: HttpNode) -> None:
    wish: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
    whole = (await node.chat(**wish)).json()
    answer = await node.chat(stream=True, stream_options={"include_usage": True}, **wish)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-fleet-node"] == "tester"
    assert answer.content.endswith(b"data: [DONE]\n\n")
    *chunks, usage = events_of(answer.content)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in [*chunks, usage]}) == 1
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert (reasons[-1], set(reasons[:-1])) == (whole["choices"][0]["finish_reason"], {None})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], whole["usage"]["completion_tokens"])
    assert (await node.herd.job(answer.headers["x-herd-job"])).stream


async def test_usage_is_streamed_only_when_asked_for(node: HttpNode) -> None:
    answer = await node.chat(stream=True)
    assert all("usage" not in chunk for chunk in events_of(answer.content))


async def test_a_stream_is_ascii_so_that_no_reader_splits_a_line_in_the_models_text(node: HttpNode) -> None:
    answer = await node.chat(stream=True, max_tokens=200, temperature=2)
    assert answer.status_code == 200
    assert answer.content.isascii()


async def test_every_setting_of_the_dialect_reaches_the_job() -> None:
    conversation = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "name": "ada"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    sampling = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "seed": 3,
    }
    body = {
        "model": "some-model",
        "messages": conversation,
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "max_tokens": 9,
        "max_completion_tokens": 3,
        "stop": "STOP",
        "logit_bias": {"65": 2},
        "n": 1,
        "reasoning_effort": "none",
        "response_format": {"type": "text"},
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "ada",
        "metadata": {"tags": "a,b"},
    }
    asked = await read_chat(request_with({**body, **sampling}, {"x-herd-tags": "c"}))
    chat = asked.chat
    assert (asked.stream, asked.include_usage, asked.parallel_tool_calls) == (True, True, False)
    assert (chat.model, chat.max_tokens, chat.stop, chat.reasoning) == ("some-model", 3, ("STOP",), False)
    assert chat.tags == ("a", "b", "c", "user:ada")
    assert chat.sampling.model_dump() == {**sampling, "logit_bias": {65: 2.0}}
    first, user, assistant, tool = chat.messages
    assert (first.role, user.content, user.name) == ("developer", "one\ntwo", "ada")
    assert (assistant.content, assistant.reasoning, assistant.tool_calls[0].name) == (None, "hm", "weather")
    assert (tool.tool_call_id, tool.content) == ("c1", "rain")
    assert (chat.tool_choice, chat.tools[0].name, chat.tools[0].description) == ("weather", "weather", "Tell it.")


@pytest.mark.parametrize(
    ("fields", "reasoning"),
    [
        ({}, None),
        ({"reasoning_effort": "high"}, True),
        ({"reasoning_effort": "minimal"}, False),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"}, True),
    ],
)
async def test_reasoning_can_be_asked_for_in_both_ways(fields: dict[str, Any], reasoning: bool | None) -> None:
    asked = await read_chat(request_with({"messages": [{"role": "user", "content": "x"}], **fields}))
    assert asked.chat.reasoning is reasoning


@pytest.mark.parametrize(
    ("fields", "status", "code", "says"),
    [
        ({"n": 2}, 400, "invalid_request", "n: must be 1"),
        ({"response_format": {"type": "json_object"}}, 400, "kind_not_supported", "json_object"),
        ({"logprobs": True}, 400, "kind_not_supported", "logprobs"),
        ({"functions": [{"name": "f"}]}, 400, "kind_not_supported", "tools"),
        ({"modalities": ["text", "audio"]}, 400, "kind_not_supported", "text"),
        ({"tools": [{"type": "web_search"}]}, 400, "kind_not_supported", "web_search"),
        ({"tool_choice": "required"}, 400, "invalid_request", "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, 400, "invalid_request", "tool_choice"),
        ({"tools": [{"type": "function"}]}, 400, "invalid_request", "tools.0.function"),
        ({"stream": "yes"}, 400, "invalid_request", "stream"),
        ({"model": "herd-tiny-chatt"}, 404, "model_not_found", CHAT),
        ({"model": IMAGE}, 400, "kind_not_supported", "chat"),
        ({"max_tokens": 0}, 400, "invalid_request", "max_tokens"),
        ({"temperature": "hot"}, 400, "invalid_request", "temperature"),
        ({"temperature": True}, 400, "invalid_request", "temperature"),
        ({"stop": ["a"] * 99}, 400, "invalid_request", "stop"),
        ({"logit_bias": {"x": 1}}, 400, "invalid_request", "logit_bias"),
        ({"metadata": {"tags": ["x"] * 3 + list("abcdefghijklmnopqrstuvwxyz")}}, 400, "invalid_request", "tags"),
        ({"chat_template_kwargs": {"enable_thinking": 1}}, 400, "invalid_request", "enable_thinking"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_done_is_said_with_a_status_streamed_or_not(
    node: HttpNode, fields: dict[str, Any], status: int, code: str, says: str, stream: bool
) -> None:
    answer = await node.chat(**{"stream": stream, **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], set(error)) == (status, code, {"message", "type", "param", "code"})
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "input_audio"}])
async def test_a_picture_in_a_message_is_refused_with_a_sentence(node: HttpNode, part: dict[str, Any]) -> None:
    answer = await node.chat(messages=[{"role": "user", "content": [{"type": "text", "text": "what is it?"}, part]}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "kind_not_supported")
    assert answer.json()["error"]["param"] == "messages.0.content.1"


async def test_stop_strings_end_the_answer(node: HttpNode) -> None:
    whole = (await node.chat(temperature=0, max_tokens=30)).json()["choices"][0]["message"]["content"]
    stop = whole[4:6]
    cut = (await node.chat(temperature=0, max_tokens=30, stop=[stop])).json()["choices"][0]
    assert cut["finish_reason"] == "stop"
    assert cut["message"]["content"] == whole[: whole.index(stop)]


async def test_unknown_fields_are_ignored_with_one_line_in_the_log(
    node: HttpNode, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="herd_mcp.surfaces.bodies"):
        assert (await node.chat(service_tier="auto", store=False)).status_code == 200
    lines = [record.getMessage() for record in caplog.records if record.name == "herd_mcp.surfaces.bodies"]
    assert lines == ["POST /v1/chat/completions: ignored fields: 'service_tier', 'store'"]


async def test_openais_own_client_would_not_repeat_what_it_should_not(node: HttpNode) -> None:
    answer = await node.chat(model="no-such-model")
    assert answer.headers["x-should-retry"] == "false"
    assert json.loads(answer.content)["error"]["param"] is None
