"""Who may ask, and how much may be sent."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from .http_node import HttpNode

FORM = {"Content-Type": "text/plain"}
"""What a web page may post to another site without asking: a "simple request"."""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "localhost", "LOCALHOST:8080", "[::1]", "[::1]:11435"])
async def test_loopback_names_are_answered_on_any_port(node: HttpNode, host: str) -> None:
    assert (await node.http.get("/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "0.0.0.0",
        "user@127.0.0.1",
        "",
        "127.0.0.1:x",
    ],
)
@pytest.mark.parametrize("path", ["/healthz", "/v1/chat/completions", "/images/img-1", "/nowhere"])
async def test_a_name_that_was_rebound_to_this_mac_is_refused(node: HttpNode, host: str, path: str) -> None:
    answer = await node.http.get(path, headers={"Host": host})
    assert answer.status_code == 421
    assert "127.0.0.1" in json.dumps(answer.json()["error"])


async def test_two_hosts_or_none_are_refused(node: HttpNode) -> None:
    for head in (b"GET /healthz HTTP/1.0\r\n\r\n", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(head)
        line = await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        await writer.wait_closed()
        assert line.split()[1] in (b"400", b"421")


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "https://[::1]:9"])
async def test_pages_of_this_mac_may_ask(node: HttpNode, origin: str) -> None:
    assert (await node.http.get("/healthz", headers={"Origin": origin})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "http://localhost@evil.example"},
        {"Origin": "chrome-extension://abcdef"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:3000"},
    ],
)
async def test_pages_of_other_sites_start_no_job_even_by_a_simple_request(
    node: HttpNode, headers: dict[str, str]
) -> None:
    before = await node.herd.jobs()
    for path in ("/api/generate-image", "/v1/chat/completions", "/herd/api/stop"):
        body = json.dumps({"model": "herd-tiny-image", "prompt": "x", "messages": [{"role": "user", "content": "x"}]})
        answer = await node.http.post(path, content=body, headers={**FORM, **headers})
        assert answer.status_code == 403
    assert await node.herd.jobs() == before


async def test_no_answer_lets_a_page_of_another_site_read_it(node: HttpNode) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for origin in ("http://evil.example", "http://localhost:3000"):
        for answer in (
            await node.http.options("/api/generate-image", headers={**ask, "Origin": origin}),
            await node.http.get("/healthz", headers={"Origin": origin}),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_the_same_post_without_an_origin_is_taken_whatever_its_type_says(node: HttpNode) -> None:
    answer = await node.http.post("/api/generate-image", content=b'{"model": "nope", "prompt": "x"}', headers=FORM)
    assert answer.status_code == 404


@pytest.mark.parametrize("path", ["/api/generate-image", "/v1/chat/completions", "/nowhere"])
async def test_a_body_declared_too_long_is_refused_and_the_next_request_works(node: HttpNode, path: str) -> None:
    answer = await node.http.post(path, content=b"x" * 3_000_000)
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"
    assert "1000000 bytes" in json.dumps(answer.json())
    assert (await node.http.get("/healthz")).status_code == 200


@pytest.mark.parametrize("path", ["/api/generate-image", "/v1/chat/completions"])
async def test_a_body_that_turns_out_too_long_is_refused_while_it_comes(node: HttpNode, path: str) -> None:
    async def flood() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b"[" * 10_000

    answer = await node.http.post(path, content=flood())
    assert answer.status_code == 413
    assert (await node.http.get("/healthz")).status_code == 200


async def test_a_body_that_ends_early_harms_nothing(node: HttpNode) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(b"POST /api/generate-image HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    assert (await node.http.get("/healthz")).status_code == 200


def routes_of(schema: dict[str, Any]) -> list[tuple[str, str]]:
    return [(method, path) for path, methods in schema["paths"].items() for method in methods]


@pytest.mark.parametrize("given", [None, "Bearer", "Bearer wrong", "the-token-of-this-test", "Bearer \xff"])
async def test_everything_under_the_native_api_needs_the_token(node: HttpNode, given: str | None) -> None:
    native = [route for route in routes_of((await node.http.get("/openapi.json")).json()) if "/herd/api" in route[1]]
    assert len(native) == 18
    headers = [] if given is None else [(b"Authorization", given.encode("latin-1"))]
    for method, path in native:
        url = f"http://127.0.0.1:{node.port}{path}"
        request = httpx.Request(method, url, headers=[(b"Host", b"localhost"), *headers])
        answer = await node.http.send(request)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "unauthorized"
    assert node.stops == []


async def test_unknown_paths_and_methods_are_answered_in_the_dialect_of_the_path(node: HttpNode) -> None:
    assert "no /api/nowhere" in (await node.http.get("/api/nowhere")).json()["error"]
    openai = await node.http.get("/v1/nowhere")
    assert (openai.status_code, openai.json()["error"]["type"]) == (404, "invalid_request_error")
    assert (await node.http.get("/herd/nowhere")).json()["error"]["code"] == "invalid_request"
    wrong_method = await node.http.get("/api/generate-image")
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")


async def test_no_page_that_loads_scripts_from_elsewhere_is_served(node: HttpNode) -> None:
    assert [(await node.http.get(path)).status_code for path in ("/docs", "/redoc")] == [404, 404]


@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
async def test_mcp_is_beside_the_rest_with_and_without_a_slash_behind_the_same_checks(
    node: HttpNode, path: str
) -> None:
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }
    accept = {"Accept": "application/json, text/event-stream"}
    answer = await node.http.post(path, json=hello, headers=accept)
    assert (answer.status_code, b'"serverInfo"' in answer.content) == (200, True), answer.text
    refused = await node.http.post(path, json=hello, headers={**accept, "Origin": "http://evil.example"})
    assert refused.status_code == 403
    flood = await node.http.post(path, content=b" " * 2_000_000, headers={**accept, "Content-Type": "application/json"})
    assert flood.status_code == 413


@pytest.mark.parametrize("path", ["/sse", "/sse/"])
async def test_the_older_transport_of_mcp_opens_its_stream_without_a_redirect(node: HttpNode, path: str) -> None:
    async with node.http.stream("GET", path) as answer:
        assert answer.status_code == 200
        async for chunk in answer.aiter_raw():
            if b"endpoint" in chunk:
                break
    refused = await node.http.get(path, headers={"Host": "evil.example"})
    assert refused.status_code == 421
