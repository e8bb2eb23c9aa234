"""Clients that go away: their jobs go with them where the protocol says so, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from herd_mcp.surfaces.mcp import http as mcp_http
from herd_mcp.surfaces.mcp.socket import serve_socket
from tests.conftest import until
from tests.surfaces.http_node import CHAT, IMAGE, LIMIT_S, NEVER_ENDS, TOKEN, HttpNode, serve
from tests.surfaces.mcp.test_socket import Wire, dialled

from .clients import said, tool_call, tool_headers

SLOW = {"model": IMAGE, "prompt": "x", "steps": 200, "width": 128, "height": 128}
LEGACY = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
Leave = Callable[[], Awaitable[None]]


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpNode]:
    folder = tmp_path_factory.mktemp("leaves")
    async with serve(folder) as node, serve_socket(node.herd, folder / "s"):
        node.stops.append(str(folder / "s"))
        yield node


def lines(headers: dict[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers.items()]


async def over_http(node: HttpNode, tag: str) -> Leave:
    return (await node.open("/api/generate-image", {**SLOW, "metadata": {"tags": [tag]}})).hang_up


async def over_events(node: HttpNode, tag: str) -> Leave:
    body = {**SLOW, "metadata": {"tags": [tag]}}
    return (await node.open("/api/generate-image", body, "Accept: text/event-stream")).hang_up


async def over_native(node: HttpNode, tag: str) -> Leave:
    body = {"kind": "image", **SLOW, "tags": [tag]}
    return (await node.open("/herd/api/jobs", body, f"Authorization: Bearer {TOKEN}")).hang_up


async def over_mcp_http(node: HttpNode, tag: str) -> Leave:
    call = tool_call("generate_image", **SLOW, tags=[tag])
    return (await node.open("/mcp", call, *lines(tool_headers("generate_image")))).hang_up


async def over_socket(node: HttpNode, tag: str) -> Leave:
    stack = contextlib.AsyncExitStack()
    wire: Wire = await stack.enter_async_context(dialled(Path(node.stops[0])))
    await wire.begin()
    call = {"name": "generate_image", "arguments": {**SLOW, "tags": [tag]}}
    await wire.send(json.dumps({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": call}).encode())
    return stack.aclose


async def over_sse(node: HttpNode, tag: str) -> Leave:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(f"GET /sse HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nAccept: text/event-stream\r\n\r\n".encode())
    async with asyncio.timeout(LIMIT_S):
        await reader.readuntil(b"data: ")
        path = (await reader.readline()).decode().strip()
    call = {"name": "generate_image", "arguments": {**SLOW, "tags": [tag]}}
    for message in (
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call},
    ):
        assert (await node.http.post(path, json=message)).status_code == 202

    async def leave() -> None:
        writer.close()

    return leave


WAYS = [over_http, over_events, over_native, over_mcp_http, over_socket, over_sse]


async def free(node: HttpNode) -> None:
    """Until no job waits or runs."""

    async def is_free() -> bool:
        (state,) = await node.herd.nodes()
        return not state.queued and not state.running

    await until(is_free, "no job waits or runs", LIMIT_S)


async def test_a_client_that_goes_while_its_model_loads_takes_its_job_along(node: HttpNode) -> None:
    leave = await over_http(node, "loads")
    await node.job_tagged("loads", "queued", "loading")
    await leave()
    assert (await node.job_tagged("loads", "cancelled")).disconnected
    await free(node)


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_goes_takes_its_job_along_waiting_or_drawn(
    node: HttpNode, way: Callable[[HttpNode, str], Awaitable[Leave]]
) -> None:
    name = way.__name__
    leave_drawn = await way(node, f"{name}-drawn")
    await node.job_tagged(f"{name}-drawn", "running")
    leave_queued = await way(node, f"{name}-queued")
    await node.job_tagged(f"{name}-queued", "queued")
    for phase, leave in (("queued", leave_queued), ("drawn", leave_drawn)):
        await leave()
        assert (await node.job_tagged(f"{name}-{phase}", "cancelled")).disconnected
    await free(node)


async def test_a_chat_whose_prompt_is_still_computed_is_cancelled_with_its_client(node: HttpNode) -> None:
    assert (await node.chat()).status_code == 200
    body = {
        "messages": said("word " * 1200),
        "model": CHAT,
        "logit_bias": NEVER_ENDS,
        "metadata": {"tags": ["prefill"]},
    }
    connection = await node.open("/v1/chat/completions", {**body, "stream": True})
    await node.job_tagged("prefill", "running")
    await connection.hang_up()
    assert (await node.job_tagged("prefill", "cancelled")).disconnected
    await free(node)


async def test_a_client_that_goes_while_its_result_is_sent_loses_nothing_that_was_made(node: HttpNode) -> None:
    connection = await node.open("/api/generate-image", {**SLOW, "steps": 1, "metadata": {"tags": ["sent"]}})
    await connection.reader.readexactly(1)
    await connection.hang_up()
    job = await node.job_tagged("sent", "completed")
    assert job.result is not None
    assert job.result.kind == "image"
    assert (await node.http.get(f"/images/{job.result.image_id}")).status_code == 200


@pytest.mark.parametrize("over", ["socket", "mcp"])
async def test_a_job_that_was_left_to_run_runs_on_when_its_client_goes(node: HttpNode, over: str) -> None:
    arguments = {**SLOW, "steps": 2, "width": 64, "height": 64, "tags": [f"left-{over}"], "wait_s": 0}
    if over == "socket":
        async with dialled(Path(node.stops[0])) as wire:
            await wire.begin()
            answer = await wire.ask("tools/call", name="generate_image", arguments=arguments)
            assert answer["result"]["structuredContent"]["status"] == "running"
    else:
        call = tool_call("generate_image", **arguments)
        answered = await node.http.post("/mcp", json=call, headers=tool_headers("generate_image"))
        assert '"running"' in answered.text
    assert not (await node.job_tagged(f"left-{over}", "completed")).disconnected


async def test_a_session_outlives_the_connection_of_a_call_as_the_protocol_says(node: HttpNode) -> None:
    opened = await node.http.post("/mcp", json=_initialize(), headers=LEGACY)
    session = {**LEGACY, "Mcp-Session-Id": opened.headers["mcp-session-id"]}
    call = {
        "name": "generate_image",
        "arguments": {**SLOW, "steps": 5, "width": 64, "height": 64, "tags": ["session"]},
    }
    body = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}
    connection = await node.open("/mcp", body, "Content-Type: application/json", *lines(session))
    await node.job_tagged("session", "queued", "running")
    await connection.hang_up()
    await node.job_tagged("session", "completed")
    assert (await node.http.delete("/mcp", headers=session)).status_code == 200


async def test_sessions_of_clients_that_went_keep_nobody_out(node: HttpNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_http, "MAX_SESSIONS", 4)
    answers = [await node.http.post("/mcp", json=_initialize(), headers=LEGACY) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 6
    ask = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    ended = []
    for answer in answers:
        session = {**LEGACY, "Mcp-Session-Id": answer.headers["mcp-session-id"]}
        ended.append((await node.http.post("/mcp", json=ask, headers=session)).status_code)
        await node.http.delete("/mcp", headers=session)
    assert ended == [404, 404, 200, 200, 200, 200]


async def test_a_job_is_cancelled_once_however_often_and_by_whom_it_is_asked(node: HttpNode) -> None:
    """Ids are not told to others, so whoever has one may end its job; its owner is told."""
    owner = await node.open("/api/generate-image", {**SLOW, "metadata": {"tags": ["twice"]}})
    job = await node.job_tagged("twice", "running")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with dialled(Path(node.stops[0])) as wire:
        await wire.begin()
        one, two, three = await asyncio.gather(
            node.http.delete(f"/herd/api/jobs/{job.id}", headers=headers),
            node.http.delete(f"/herd/api/jobs/{job.id}", headers=headers),
            wire.ask("tools/call", name="cancel_job", arguments={"job_id": job.id}),
        )
    assert [one.json()["status"], two.json()["status"]] == ["cancelled", "cancelled"]
    assert three["result"]["structuredContent"]["status"] == "cancelled"
    async with asyncio.timeout(LIMIT_S):
        assert b"499" in await owner.reader.readline()
    await owner.hang_up()
    assert (await node.http.delete(f"/herd/api/jobs/{job.id}")).status_code == 401
    assert not (await node.herd.job(job.id)).disconnected


def _initialize() -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
