"""Odd HTTP: each gets one clear answer or the end of its connection, and the node goes on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from tests.surfaces.http_node import LIMIT_S, HttpNode, serve

HOST = b"Host: 127.0.0.1\r\n"
CLOSE = b"Connection: close\r\n"
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n"
BODY = b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":2}'
CHUNK = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
LENGTH = b"Content-Length: %d\r\n" % len(BODY)

ODD: dict[str, tuple[bytes, list[int]]] = {
    "two lengths": (CHAT + LENGTH + b"Content-Length: 5\r\n\r\n" + BODY, [400]),
    "one length twice": (CHAT + CLOSE + LENGTH + LENGTH + b"\r\n" + BODY, [200]),
    "a length below zero": (CHAT + b"Content-Length: -1\r\n\r\n", [400]),
    "a length of 30 digits": (CHAT + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", [400]),
    "a length that is too long": (CHAT + b"Content-Length: " + b"9" * 18 + b"\r\n\r\n", [413]),
    "trailers": (CHAT + CLOSE + CHUNKED + b"\r\n" + CHUNK + b"X-After: 1\r\n\r\n", [200]),
    "a chunk of no size": (CHAT + CHUNKED + b"\r\nzz\r\n", [400]),
    "zipped": (CHAT + b"Transfer-Encoding: gzip, chunked\r\n\r\n", [400, 501]),
    "10,000 headers": (HEALTH + CLOSE + b"X-Many: header\r\n" * 10_000 + b"\r\n", [200, 400]),
    "a header of 1 MB": (HEALTH + b"X-Long: " + b"x" * 1_000_000 + b"\r\n\r\n", [400]),
    "a path of 1 MB": (b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n", [400]),
    "HTTP/1.0": (b"GET /healthz HTTP/1.0\r\n" + HOST + b"\r\n", [200]),
    "HTTP/1.0 without a host": (b"GET /healthz HTTP/1.0\r\n\r\n", [421]),
    "HTTP/1.0 and a chat": (CHAT.replace(b"1.1", b"1.0") + LENGTH + b"\r\n" + BODY, [200]),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", [400]),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200 + b"\r\n\r\n", [400]),
    "two hosts": (HEALTH + HOST + b"\r\n", [400]),
    "requests in a row": (HEALTH + b"\r\n" + HEALTH + b"\r\n" + HEALTH + CLOSE + b"\r\n", [200, 200, 200]),
    "a chat and one in a row": (CHAT + LENGTH + b"\r\n" + BODY + HEALTH + CLOSE + b"\r\n", [200, 200]),
    "the whole address": (b"GET http://127.0.0.1/images/x HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n", [404]),
    "the address of another": (b"GET http://evil.example/healthz HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n", [404]),
    "no path": (b"OPTIONS * HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n", [404]),
    "a tunnel": (b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n", [404]),
    "a header over two lines": (HEALTH + CLOSE + b"X-A: b\r\n c\r\n\r\n", [200, 400]),
}
"""What is sent → the status of each answer; where two are named, either will do."""
EITHER = ("zipped", "10,000 headers", "a header over two lines")

PATHS = ("%2e%2e", "%2e%2e%2f%2e%2e%2fherd.db", "..%2f..%2fherd.db", "%2e%2e/herd.db", "../herd.db", "%00", "%ff%fe",
         "img-0000000000-000000000000%0a", "x" * 60_000)  # fmt: skip


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpNode]:
    async with serve(tmp_path_factory.mktemp("odd")) as node:
        yield node


async def statuses(node: HttpNode, data: bytes) -> list[int]:
    """The status of each answer, once the node has closed the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(data)
    answer = b""
    try:
        async with asyncio.timeout(LIMIT_S):
            while part := await reader.read(1 << 16):
                answer += part
    except ConnectionError:  # the node closed while we were still sending
        pass
    finally:
        writer.close()
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_request_gets_one_clear_answer_and_the_node_goes_on(
    node: HttpNode, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("herd_mcp.surfaces.middleware.LINGER_S", 0.1)
    data, expected = ODD[name]
    got = await statuses(node, data)
    assert got == expected or (name in EITHER and len(got) == 1 and got[0] in expected)
    assert (await node.http.get("/healthz")).status_code == 200


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
async def test_the_id_of_an_image_is_no_path(node: HttpNode, path: str) -> None:
    for asked in (f"/images/{path}", f"/images/{path}?thumbnail=1"):
        request = f"GET {asked} HTTP/1.1\r\n".encode() + HOST + CLOSE + b"\r\n"
        assert await statuses(node, request) == [404]
