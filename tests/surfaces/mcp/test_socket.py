"""MCP over the Unix socket: one session per connection, bounded, and nothing outlives its client."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from herd_mcp.herd import Herd
from herd_mcp.jobs import HerdError
from herd_mcp.surfaces.mcp import socket as mcp_socket
from herd_mcp.surfaces.mcp.socket import serve_socket
from tests.conftest import until
from tests.surfaces.mcp.clients import LONG, TALK, TOOLS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMIT_S = 60


class Wire:
    """A client that writes lines as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._id = 0

    async def send(self, line: bytes) -> None:
        self.writer.write(line + b"\n")
        await self.writer.drain()

    async def receive(self) -> dict[str, Any]:
        """The next message that is no notification."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                message = json.loads(await self.reader.readline())
                if "id" in message:
                    return dict(message)

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._id += 1
        await self.send(json.dumps({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params}).encode())
        answer = await self.receive()
        assert answer["id"] == self._id
        return answer

    async def begin(self) -> None:
        info = {"name": "test", "version": "0"}
        answer = await self.ask("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=info)
        assert answer["result"]["serverInfo"]["name"] == "herd-mcp"
        await self.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')


@asynccontextmanager
async def dialled(path: Path) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 24)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


@pytest.fixture
async def path(warm: Herd, tmp_path: Path) -> AsyncIterator[Path]:
    async with serve_socket(warm, tmp_path / "s"):
        yield tmp_path / "s"


async def test_the_socket_is_for_this_user_only_and_goes_with_the_node(herd: Herd, tmp_path: Path) -> None:
    async with serve_socket(herd, tmp_path / "s"):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    assert not (tmp_path / "s").exists()


async def test_a_connection_is_a_session(path: Path) -> None:
    async with dialled(path) as one, dialled(path) as two:
        await one.begin()
        await two.begin()
        tools = (await one.ask("tools/list"))["result"]["tools"]
        assert {tool["name"] for tool in tools} == TOOLS
        answer = await two.ask("tools/call", name="chat", arguments=TALK)
        assert answer["result"]["structuredContent"]["status"] == "completed"


async def test_a_message_that_is_none_is_answered_and_the_session_goes_on(path: Path) -> None:
    async with dialled(path) as wire:
        await wire.begin()
        await wire.send(b"")
        call = '{"jsonrpc":"2.0","id":77,"method":"tools/call","params":{"name":"chat","arguments":{"prompt":"%s"}}}'
        await wire.send((call % "\\ud800").encode())
        answer = await wire.receive()
        assert (answer["id"], answer["error"]["code"]) == (77, -32700)
        assert "surrogate" in answer["error"]["message"]
        for line in (b"not json", b"[]", b'{"id":true}', b'{"id":"\\ud800"}', b"\xff\xfe", b"[" * 100_000):
            await wire.send(line)
            answer = await wire.receive()
            assert (answer["id"], answer["error"]["code"]) == (None, -32700)
        assert "result" in await wire.ask("tools/list")


async def test_a_prompt_with_nul_or_line_separators_keeps_its_frame(path: Path) -> None:
    async with dialled(path) as wire:
        await wire.begin()
        refused = await wire.ask("tools/call", name="chat", arguments={**TALK, "prompt": "a\x00b"})
        assert refused["result"]["isError"] is True
        answer = await wire.ask("tools/call", name="chat", arguments={**TALK, "prompt": "a\u2028b\u0085c"})
        assert answer["result"]["structuredContent"]["status"] == "completed"


async def test_a_line_without_end_is_refused_and_ends_the_session(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_socket, "MAX_LINE_BYTES", 200_000)
    async with dialled(path) as wire:
        await wire.begin()
        wire.writer.write(b"x" * 300_000)
        answer = await wire.receive()
        assert "MiB" in answer["error"]["message"]
        async with asyncio.timeout(LIMIT_S):
            assert await wire.reader.read() == b""


async def test_a_long_message_is_taken(path: Path) -> None:
    async with dialled(path) as wire:
        await wire.begin()
        image = "data:image/png;base64," + "A" * 8_000_000
        answer = await wire.ask("tools/call", name="generate_image", arguments={"prompt": "x", "image": image})
        assert "not a whole PNG" in answer["result"]["content"][0]["text"]


async def test_one_client_too_many_is_told_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_socket, "MAX_CONNECTIONS", 1)
    async with dialled(path) as wire:
        await wire.begin()
        async with dialled(path) as second:
            answer = await second.ask("initialize")
            assert "connected to this node already" in answer["error"]["message"]
            async with asyncio.timeout(LIMIT_S):
                assert await second.reader.read() == b""
        assert "result" in await wire.ask("tools/list")

    async def is_free() -> bool:
        async with dialled(path) as third:
            return "result" in await third.ask("server/discover", **ENVELOPE)

    await until(is_free, "the place is free again")


ENVELOPE = {
    "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
}


async def test_a_client_that_goes_away_takes_its_job_with_it(warm: Herd, path: Path) -> None:
    async with dialled(path) as wire:
        await wire.begin()
        call = {"name": "generate_image", "arguments": LONG}
        await wire.send(json.dumps({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": call}).encode())

        async def runs() -> bool:
            return [job.status for job in await warm.jobs(limit=1)] == ["running"]

        await until(runs, "the job runs")

    async def is_cancelled() -> bool:
        return [(job.status, job.disconnected) for job in await warm.jobs(limit=1)] == [("cancelled", True)]

    await until(is_cancelled, "the job is cancelled, and it is known why")


async def test_the_end_of_the_node_ends_sessions(herd: Herd, tmp_path: Path) -> None:
    async with serve_socket(herd, tmp_path / "s"), dialled(tmp_path / "s") as wire:
        await wire.begin()
        ending = asyncio.create_task(asyncio.sleep(0))
        await ending
    async with asyncio.timeout(LIMIT_S):
        assert await wire.reader.read() == b""


async def test_a_socket_that_a_killed_node_left_is_replaced(herd: Herd, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "s"))
    async with serve_socket(herd, tmp_path / "s"), dialled(tmp_path / "s") as wire:
        await wire.begin()


async def test_what_is_in_use_or_no_socket_is_left_alone(herd: Herd, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place, words in ((tmp_path / "file", "no socket"), (tmp_path / "none" / "s", "No such file")):
        with pytest.raises(HerdError, match=words):
            async with serve_socket(herd, place):
                pass
    async with serve_socket(herd, tmp_path / "s"):
        with pytest.raises(HerdError, match="another node"):
            async with serve_socket(herd, tmp_path / "s"):
                pass
        async with dialled(tmp_path / "s") as wire:
            await wire.begin()
    assert (tmp_path / "file").read_text() == "mine"
