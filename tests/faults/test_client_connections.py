"""Connections that bring nothing, or take nothing: they end after a while, and never keep others out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from herd_mcp.serving import connection as bounds
from tests.conftest import until
from tests.surfaces.http_node import LIMIT_S, NEVER_ENDS, HttpNode, serve

from .clients import said

HOST = b"Host: 127.0.0.1\r\n"
HALF: dict[str, bytes] = {
    "nothing": b"",
    "half a line": b"GET /heal",
    "a head without end": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-More: to come\r\n",
    "a second head without end": b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\nGET /he",
    "no body": b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n",
    "half a body": b"POST /api/generate-image HTTP/1.1\r\n" + HOST + b'Content-Length: 100\r\n\r\n{"model": ',
    "half a chunk": b"POST /mcp HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{",
    "a body that nobody wants": b"GET /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\nx",
    "empty lines after an answer": b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n\r\n",
}


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpNode]:
    async with serve(tmp_path_factory.mktemp("connections")) as node:
        yield node


@contextlib.asynccontextmanager
async def dialled(node: HttpNode, data: bytes = b"") -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    try:
        writer.write(data)
        yield reader
    finally:
        writer.close()


async def closed(reader: asyncio.StreamReader) -> None:
    """Until the node has ended the connection."""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(LIMIT_S):
            while await reader.read(1 << 16):
                pass


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_S", "BODY_S", "READER_S"):
        monkeypatch.setattr(bounds, name, 1.5)


async def test_requests_that_never_come_whole_end_their_connections(node: HttpNode, impatient: None) -> None:
    async def end(data: bytes) -> None:
        async with dialled(node, data) as reader:
            await closed(reader)

    ends = {name: asyncio.create_task(end(data)) for name, data in HALF.items()}
    await asyncio.wait(ends.values())
    assert not [name for name, task in ends.items() if task.exception()]
    assert (await node.http.get("/healthz")).status_code == 200


async def test_a_body_that_comes_byte_by_byte_ends_its_connection(node: HttpNode, impatient: None) -> None:
    """Also one that goes on after its answer, where every byte would set uvicorn's own timer back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(b"GET /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n")

    async def drip() -> None:
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    try:
        await closed(reader)
    finally:
        dripping.cancel()
        writer.close()


@pytest.mark.slow
async def test_a_job_that_takes_longer_than_a_request_may_is_left_alone(node: HttpNode, impatient: None) -> None:
    slow = await node.chat(max_tokens=600, logit_bias=NEVER_ENDS)
    assert slow.json()["usage"]["completion_tokens"] == 600


async def test_500_connections_that_do_nothing_keep_nobody_out(node: HttpNode) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(500):
            await stack.enter_async_context(dialled(node))
        async with httpx.AsyncClient(timeout=LIMIT_S) as fresh:
            url = f"http://127.0.0.1:{node.port}"
            assert (await fresh.get(f"{url}/healthz")).status_code == 200
            body = {"messages": said("hi"), "max_tokens": 2}
            assert (await fresh.post(f"{url}/v1/chat/completions", json=body)).status_code == 200


async def test_a_connection_too_many_takes_the_place_of_an_idle_one(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "HEAD_S", 1000.0)
    working = asyncio.create_task(node.chat(max_tokens=300, logit_bias=NEVER_ENDS))
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(dialled(node))
        for _ in range(7):
            await stack.enter_async_context(dialled(node, b"GET /h"))
        monkeypatch.setattr(bounds, "MAX_CONNECTIONS", 4)
        for _ in range(4):
            async with httpx.AsyncClient(timeout=LIMIT_S) as fresh:
                assert (await fresh.get(f"http://127.0.0.1:{node.port}/healthz")).status_code == 200
        await closed(first)
        assert (await working).status_code == 200


async def test_a_connection_too_many_is_told_so_when_all_others_have_a_request(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await node.open("/v1/chat/completions", {"messages": said("hi"), "stream": True, "max_tokens": 4000})
    try:
        assert b"200" in await connection.reader.readline()
        monkeypatch.setattr(bounds, "MAX_CONNECTIONS", 1)
        monkeypatch.setattr(bounds, "drop_idlest", lambda connections: False)
        async with dialled(node) as reader, asyncio.timeout(LIMIT_S):
            answer = await reader.read()
        head, _, words = answer.partition(b"\r\n\r\n")
        assert b" 503 " in head
        assert b"Retry-After: 5" in head
        assert f"Content-Length: {len(words)}".encode() in head
    finally:
        await connection.hang_up()


async def test_many_large_bodies_at_once_do_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("herd_mcp.surfaces.middleware.MAX_BODIES", 2)
    large = {"messages": said("hi"), "max_tokens": 1, "user": "x" * 900_000}
    half = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n" + b" " * 900_000

    async with serve(tmp_path, max_body_bytes=1_000_000) as node:
        async with dialled(node, half), dialled(node, half):

            async def is_refused() -> bool:
                answer = await node.chat(**large)
                return answer.status_code == 503 and answer.headers["Retry-After"] == "5"

            await until(is_refused, "the third is told to come back", LIMIT_S)
            assert (await node.chat()).status_code == 200  # the smaller ones still fit

        async def is_taken() -> bool:
            return (await node.chat(**large)).status_code == 200

        await until(is_taken, "there is room again", LIMIT_S)
