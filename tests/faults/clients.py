"""Clients that ask for too much, go away, or do not read: over every way into a node."""

from __future__ import annotations

import json
from typing import Any

from tests.surfaces.http_node import NEVER_ENDS, TOKEN, HttpNode
from tests.surfaces.mcp.test_socket import Wire

BEARER = {"Authorization": f"Bearer {TOKEN}"}
ENVELOPE = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
SAMPLING = ("temperature", "top_p", "seed")
"""The settings of sampling that the MCP tool takes, by themselves."""


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


class Refusal:
    """What a client was told: an error's code and its words, whatever the dialect."""

    def __init__(self, code: str, words: str) -> None:
        self.code = code
        self.words = words


async def over_openai(node: HttpNode, fields: dict[str, Any]) -> Refusal:
    """A chat given as fields of ChatRequest, in OpenAI's dialect."""
    body = {"messages": said("hello"), **fields}
    body |= body.pop("sampling", {})
    body["messages"] = [_as_openai(message) for message in body["messages"]]
    if "tools" in body:
        body["tools"] = [{"type": "function", "function": tool} for tool in body["tools"]]
    answer = await node.http.post("/v1/chat/completions", content=json.dumps(body))
    assert 400 <= answer.status_code < 500, answer.text[:500]
    error = answer.json()["error"]
    return Refusal(error["code"], error["message"])


def _as_openai(message: dict[str, Any]) -> dict[str, Any]:
    calls = [
        {"id": call["id"], "type": "function", "function": {key: call[key] for key in ("name", "arguments")}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, **({"tool_calls": calls} if calls else {})}


async def over_native(node: HttpNode, fields: dict[str, Any]) -> Refusal:
    """The same, or an image, as the commands send it. A stream whose job fails tells so in its last event."""
    asked = fields if "kind" in fields else {"kind": "chat", "messages": said("hello"), **fields}
    answer = await node.http.post("/herd/api/jobs", content=json.dumps(asked), headers=BEARER)
    if answer.status_code == 200:
        error = json.loads(answer.content.rstrip().rpartition(b"data: ")[2])["error"]
    else:
        error = answer.json()["error"]
    return Refusal(error["code"], error["message"])


async def over_mcp(wire: Wire, tool: str, arguments: dict[str, Any]) -> Refusal:
    answer = await wire.ask("tools/call", name=tool, arguments=arguments)
    if "error" in answer:
        return Refusal(str(answer["error"]["code"]), answer["error"]["message"])
    assert answer["result"].get("isError"), answer["result"]
    error = answer["result"]["structuredContent"]["error"]
    return Refusal(error["code"], error["message"])


def as_tool_call(fields: dict[str, Any]) -> dict[str, Any] | None:
    """Fields of ChatRequest as arguments of the tool `chat`; None for what it does not take."""
    sampling = fields.get("sampling", {})
    if set(sampling) - set(SAMPLING):
        return None
    rest = {name: value for name, value in fields.items() if name != "sampling"}
    return {**({} if "messages" in rest else {"prompt": "hello"}), **rest, **sampling}


def talk(number: int, tokens: int = 100) -> dict[str, Any]:
    """A greedy chat of exactly so many tokens. Its seed keeps the prompt cache, and so rounding, out of it."""
    questions = ("Who are you?", "What is herd-mcp?", "Say hello.", "How do I make an image?")
    return {
        "messages": said(questions[number]),
        "max_tokens": tokens,
        "temperature": 0,
        "seed": 7,
        "logit_bias": NEVER_ENDS,
    }


async def told(node: HttpNode, number: int) -> str:
    """The whole text of a talk."""
    answer = await node.http.post("/v1/chat/completions", json=talk(number))
    assert answer.status_code == 200, answer.text[:500]
    return str(answer.json()["choices"][0]["message"]["content"])


def tool_call(name: str, **arguments: Any) -> dict[str, Any]:
    """A call in the era without sessions, over streamable HTTP."""
    params = {"name": name, "arguments": arguments, "_meta": {**ENVELOPE, "progressToken": 1}}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


def tool_headers(name: str) -> dict[str, str]:
    return {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": name,
    }
