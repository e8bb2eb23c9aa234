"""Reasoning and tool calls through HTTP, with a real engine whose model says what the test dictates."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from herd_mcp.jobs import Request
from herd_mcp.node.lanes import Plan
from tests.engines.scripted_model import build

from .http_node import HttpNode, events_of, serve

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}


def build_as_qwen3(folder: Path) -> None:
    """The scripted model under the name of an architecture, so that it is offered."""
    build(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "qwen3"}))


@pytest.fixture(scope="module")
async def scripted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpNode]:
    """A node with the scripted model, which needs the seam that no setting and no request reaches."""
    home = tmp_path_factory.mktemp("scripted")
    build_as_qwen3(home / "herd" / "models" / "scripted")
    async with serve(home) as node:
        plan = node.herd._node.plan

        async def trusting(request: Request) -> Plan:
            found = await plan(request)
            return dataclasses.replace(found, spec=found.spec.model_copy(update={"trust_remote_code": True}))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(node.herd._node, "plan", trusting)
            yield node


async def ask(node: HttpNode, say: str, **fields: Any) -> Any:
    message = {"role": "user", "content": f"SAY:{say}"}
    return await node.chat(model="scripted", messages=[message], max_tokens=200, **fields)


async def test_reasoning_and_answer_come_apart(scripted: HttpNode) -> None:
    answer = (await ask(scripted, "<think>hm, 2+2</think>four")).json()
    message = answer["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("four", "hm, 2+2")
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_a_tool_call_has_its_name_its_arguments_and_the_right_ending(scripted: HttpNode) -> None:
    answer = (await ask(scripted, CALL, tools=[TOOL])).json()
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Zürich"}


async def test_streamed_tool_calls_are_numbered_and_one_is_enough_when_asked_for(scripted: HttpNode) -> None:
    for parallel, expected in ((True, [0, 1]), (False, [0])):
        response = await ask(scripted, CALL + CALL, tools=[TOOL], stream=True, parallel_tool_calls=parallel)
        deltas = [event["choices"][0]["delta"] for event in events_of(response.content) if event["choices"]]
        calls = [call for delta in deltas for call in delta.get("tool_calls") or []]
        assert [call["index"] for call in calls] == expected
        assert {call["function"]["name"] for call in calls} == {"get_weather"}


async def test_streamed_reasoning_joins_to_what_was_thought(scripted: HttpNode) -> None:
    response = await ask(scripted, "<think>größer 🎨</think>ja", stream=True)
    deltas = [event["choices"][0]["delta"] for event in events_of(response.content) if event["choices"]]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "größer 🎨"
    assert "".join(delta.get("content") or "" for delta in deltas) == "ja"
    assert len([delta for delta in deltas if delta.get("reasoning_content")]) > 1


async def test_a_conversation_with_a_tools_answer_goes_back_in(scripted: HttpNode) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "user", "content": "SAY:it is sunny"},
    ]
    answer = (await scripted.chat(model="scripted", messages=messages, tools=[TOOL], max_tokens=50)).json()
    assert answer["choices"][0]["message"]["content"] == "it is sunny"


async def test_a_step_that_raises_ends_the_engine_and_is_told_after_one_more_try(scripted: HttpNode) -> None:
    message = {"role": "user", "content": "RAISE"}
    response = await scripted.chat(model="scripted", messages=[message], max_tokens=5)
    assert response.status_code >= 500
    assert "the script says so" in response.json()["error"]["message"]
    job = await scripted.herd.job(response.headers["X-Herd-Job"])
    assert [attempt.outcome for attempt in job.attempts] == ["engine_crashed", "engine_crashed"]
    assert (await ask(scripted, "alive")).json()["choices"][0]["message"]["content"] == "alive"


async def test_a_model_that_brings_code_is_not_run_without_the_seam(tmp_path: Path) -> None:
    build_as_qwen3(tmp_path / "herd" / "models" / "scripted")
    async with serve(tmp_path) as node:
        response = await ask(node, "code ran")
    assert response.status_code >= 400
    assert "code ran" not in response.text
