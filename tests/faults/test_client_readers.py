"""Clients that ask and do not read: they wait for themselves alone, and not for ever."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from herd_mcp.serving import connection as bounds
from herd_mcp.surfaces.mcp import socket as mcp_socket
from herd_mcp.surfaces.mcp.socket import serve_socket
from tests.conftest import until
from tests.surfaces.http_node import CHAT, LIMIT_S, NEVER_ENDS, HttpNode, events_of, serve
from tests.surfaces.mcp.test_socket import dialled

from .clients import said

TOKENS = 600
LONG_CHAT = {
    "messages": said("hello"),
    "model": CHAT,
    "max_tokens": TOKENS,
    "stream": True,
    "logit_bias": NEVER_ENDS,
    "temperature": 0,
}


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpNode]:
    async with serve(tmp_path_factory.mktemp("readers")) as node:
        yield node


@contextlib.contextmanager
def unread(node: HttpNode, request: bytes) -> Any:
    """A connection of a client that reads nothing by itself, and has little room for what comes."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", node.port))
        client.sendall(request)
        client.settimeout(LIMIT_S)
        yield client


def post(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def read_all(client: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError):
        while part := await asyncio.to_thread(client.recv, 1 << 16):
            got += part
    return got


@pytest.mark.slow
async def test_a_chat_that_nobody_reads_is_written_to_its_end_and_waits_whole(node: HttpNode) -> None:
    body = {**LONG_CHAT, "metadata": {"tags": ["unread"]}}
    with unread(node, post("/v1/chat/completions", body)) as client:
        await node.job_tagged("unread", "completed")
        assert (await node.chat()).status_code == 200
        answer = await read_all(client)
    whole = (await node.http.post("/v1/chat/completions", json={**LONG_CHAT, "stream": False})).json()
    texts = [event["choices"][0]["delta"].get("content") or "" for event in events_of(answer) if event["choices"]]
    assert "".join(texts) == whole["choices"][0]["message"]["content"]
    assert b"data: [DONE]" in answer


async def test_a_client_that_reads_nothing_of_its_pictures_is_cut_off(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await node.image(width=128, height=128)
    image_id = made.headers["X-Herd-Image"]
    count = 1 + 16_000_000 // len(made.content)  # more than the system takes for it
    request = f"GET /images/{image_id} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    monkeypatch.setattr(bounds, "READER_S", 1.5)
    with unread(node, b"") as client:
        sending = asyncio.create_task(asyncio.to_thread(client.sendall, request * count))
        ours = client.getsockname()[1]

        def is_held() -> bool:
            ends = psutil.Process().net_connections("tcp")
            return any(end.laddr[1:] == (node.port,) and end.raddr[1:] == (ours,) for end in ends)

        await until(is_held, "the node has taken the connection", LIMIT_S)
        await until(lambda: not is_held(), "the connection is cut", LIMIT_S)
        await asyncio.gather(sending, return_exceptions=True)
    assert (await node.http.get("/healthz")).status_code == 200


async def test_a_chat_over_the_socket_that_nobody_reads_waits_whole_too(node: HttpNode, tmp_path: Path) -> None:
    arguments = {"prompt": "hello", "model": CHAT, "max_tokens": TOKENS, "temperature": 0, "tags": ["socket"]}
    params = {"name": "chat", "arguments": arguments, "_meta": {"progressToken": 1}}
    async with serve_socket(node.herd, tmp_path / "s"), dialled(tmp_path / "s") as wire, dialled(tmp_path / "s") as two:
        await wire.begin()
        await two.begin()
        wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await wire.send(json.dumps({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": params}).encode())
        await node.job_tagged("socket", "completed")
        assert "result" in await two.ask("tools/list")
        wire.reader._transport.resume_reading()  # type: ignore[attr-defined]
        answer = await wire.receive()
    assert answer["id"] == 9
    assert answer["result"]["structuredContent"]["status"] == "completed"


async def test_a_client_of_the_socket_that_asks_and_never_reads_is_not_read_either(
    node: HttpNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_socket, "MAX_OPEN_REQUESTS", 8)
    async with serve_socket(node.herd, tmp_path / "s"), dialled(tmp_path / "s") as wire, dialled(tmp_path / "s") as two:
        await wire.begin()
        await two.begin()
        wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
        tasks = len(asyncio.all_tasks())
        lines = [b'{"jsonrpc":"2.0","id":%d,"method":"tools/list"}\n' % number for number in range(100, 20_100)]
        wire.writer.write(b"".join(lines))

        async def is_stuck() -> bool:
            before = wire.writer.transport.get_write_buffer_size()
            for _ in range(20):
                assert "result" in await two.ask("tools/list")
            return 0 < before == wire.writer.transport.get_write_buffer_size()

        await until(is_stuck, "the node reads no more", LIMIT_S)
        assert len(asyncio.all_tasks()) < tasks + 20
        wire.reader._transport.resume_reading()  # type: ignore[attr-defined]
        answers = [await wire.receive() for _ in lines]
    assert sum("result" in answer for answer in answers) >= 8
    assert {answer["error"]["code"] for answer in answers if "error" in answer} <= {-32600}


async def test_an_id_is_used_for_one_request_at_a_time(node: HttpNode, tmp_path: Path) -> None:
    slow = {"name": "get_job", "arguments": {"job_id": "", "wait_s": 60}}
    async with serve_socket(node.herd, tmp_path / "s"), dialled(tmp_path / "s") as wire:
        await wire.begin()
        connection = await node.open("/v1/chat/completions", {**LONG_CHAT, "metadata": {"tags": ["busy"]}})
        slow["arguments"] = {"job_id": (await node.job_tagged("busy")).id, "wait_s": 60}
        call = json.dumps({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": slow}).encode()
        await wire.send(call)
        await wire.send(call)
        refused = await wire.receive()
        assert (refused["id"], refused["error"]["code"]) == (5, -32600)
        await connection.hang_up()
        assert (await wire.receive())["result"]["structuredContent"]["status"] in ("cancelled", "completed")
        await wire.send(call)
        assert "result" in await wire.receive()


async def test_a_stream_on_which_nothing_happens_gives_signs_of_life(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("herd_mcp.surfaces.sse.KEEPALIVE_S", 0.2)
    busy = await node.open("/api/generate-image", {"model": "herd-tiny-image", "prompt": "x", "steps": 200})
    body = {"model": "herd-tiny-image", "prompt": "y", "steps": 1}
    waiting = await node.open("/api/generate-image", body, "Accept: text/event-stream")
    async with asyncio.timeout(LIMIT_S):
        await waiting.reader.readuntil(b": still working\n\n")
    await busy.hang_up()
    async with asyncio.timeout(LIMIT_S):
        await waiting.reader.readuntil(b"event: completed")
    await waiting.hang_up()
