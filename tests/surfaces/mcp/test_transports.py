"""The real program with the SDK's own client over streamable HTTP and SSE, in both eras of the protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from mcp.client import Client
from mcp.client.sse import sse_client
from starlette.testclient import TestClient

from herd_mcp.surfaces.mcp.http import MAX_SESSIONS, Bounded
from tests.cli.program import Program, ended
from tests.conftest import until
from tests.surfaces.mcp.clients import LONG, MODES, SMALL, TALK, TOOLS, answering, data_of, error_of, use_everything

PATHS = ("/mcp", "/mcp/", "/sse", "/sse/")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A node that the tests of this file share."""
    program = Program(tmp_path_factory.mktemp("http") / "home")
    with ended(program.up()):
        yield program
    program.end()


def address(program: Program, path: str = "") -> str:
    assert program.record is not None
    return f"http://127.0.0.1:{program.record['port']}{path}"


@asynccontextmanager
async def connected(program: Program, path: str, mode: str = "auto", **options: Any) -> AsyncIterator[Client]:
    url = address(program, path)
    server = sse_client(url) if path.startswith("/sse") else url
    async with Client(server, mode=mode, **options) as client:
        yield client


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_everything_works_over_http_and_sse(running: Program, path: str, mode: str) -> None:
    async with connected(running, path, mode) as client:
        image = await use_everything(client)
        assert "path" not in image


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", ["/mcp/", "/sse/"])
async def test_a_slash_at_the_end_changes_nothing(running: Program, path: str, mode: str) -> None:
    async with connected(running, path, mode) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        assert data_of(await client.call_tool("chat", TALK))["status"] == "completed"
        assert (await client.read_resource("herd://models")).contents


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_the_person_is_asked_over_http_too(running: Program, path: str, mode: str) -> None:
    asked: list[str] = []
    async with connected(running, path, mode, elicitation_callback=answering("accept", asked=asked)) as client:
        result = await client.call_tool("pull_model", {"model": "z-image-turbo"})
    assert error_of(result)["code"] == "not_built_yet"
    assert len(asked) == 1


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_path_of_this_mac_is_refused(running: Program, path: str) -> None:
    async with connected(running, path) as client:
        result = await client.call_tool("generate_image", {**SMALL, "image": "/etc/hosts"})
    assert error_of(result)["code"] == "forbidden"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_cancelled_call_cancels_its_job(running: Program, path: str, mode: str) -> None:
    async with connected(running, path, mode) as client:

        async def cancelled() -> int:
            content = (await client.read_resource("herd://images/stats")).contents[0]
            return int(json.loads(content.text)["cancelled"])  # type: ignore[union-attr]

        before = await cancelled()
        told = asyncio.Event()

        async def progress(progress: float, total: float | None, message: str | None) -> None:
            if message and message.startswith("step"):
                told.set()

        call = asyncio.create_task(client.call_tool("generate_image", LONG, progress_callback=progress))
        async with asyncio.timeout(60):
            await told.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

        async def is_one_more() -> bool:
            return await cancelled() == before + 1

        await until(is_one_more, "the job is cancelled")


ENVELOPE = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "generate_image", "arguments": LONG, "_meta": {**ENVELOPE, "progressToken": 1}},
}
HEADERS = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/call",
    "Mcp-Name": "generate_image",
}


@asynccontextmanager
async def drawing(program: Program, path: str) -> AsyncIterator[None]:
    """A connection over which an image is asked for, from its first step until the connection is cut."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        method, body = ("GET", None) if path == "/sse" else ("POST", CALL)
        async with http.stream(method, address(program, path), headers=HEADERS, json=body) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: /sse/messages"):
                    await http.post(address(program, line.removeprefix("data: ")), json=CALL)
                if "step 1" in line:
                    break
            yield


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_an_agent_whose_connection_breaks_takes_its_job_with_it(running: Program, path: str) -> None:
    """In the era of 2026 the response's stream is the call; over SSE the stream is the session."""
    async with connected(running, "/mcp") as watching:

        async def figures() -> dict[str, int]:
            content = (await watching.read_resource("herd://images/stats")).contents[0]
            return dict(json.loads(content.text))  # type: ignore[union-attr]

        before = await figures()
        async with drawing(running, path):
            assert (await figures())["cancelled"] == before["cancelled"]

        async def is_one_more() -> bool:
            return (await figures())["cancelled"] == before["cancelled"] + 1

        await until(is_one_more, "the job is cancelled")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Host": "evil.example:11435"}]
)
async def test_other_names_and_origins_are_refused(running: Program, path: str, headers: dict[str, str]) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        for method in ("GET", "POST"):
            answer = await http.request(method, address(running, path), headers=headers, json={})
            assert answer.status_code in (403, 421)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
async def test_there_is_no_redirect_and_a_long_body_is_refused(running: Program, path: str) -> None:
    headers = {"Accept": "application/json, text/event-stream"}
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(address(running, path), headers=headers, json={"jsonrpc": "2.0", "id": 1})
        assert answer.status_code == 400
        body = b'"' + b"x" * (17 * 1024 * 1024) + b'"'
        answer = await http.post(
            address(running, path), content=body, headers={**headers, "Content-Type": "application/json"}
        )
        assert answer.status_code == 413


async def test_a_picture_of_megabytes_fits_into_a_call(running: Program) -> None:
    async with connected(running, "/mcp") as client:
        result = await client.call_tool(
            "generate_image", {**SMALL, "image": "data:image/png;base64," + "A" * 8_000_000}
        )
    assert "not a whole PNG" in error_of(result)["message"]


def test_streams_over_sse_are_bounded() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    bounded = Bounded(app, MAX_SESSIONS)
    client = TestClient(bounded)
    assert client.get("/sse").status_code == 200
    bounded._open = MAX_SESSIONS
    refused = client.get("/sse")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert client.post("/sse/messages/").status_code == 200
    bounded._open = 0
    assert client.get("/sse").status_code == 200
    assert bounded._open == 0


async def test_over_http_data_is_told_by_link(running: Program) -> None:
    async with connected(running, "/mcp") as client:
        image = data_of(await client.call_tool("generate_image", SMALL))
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(address(running, f"/images/{image['image_id']}"))
    assert (answer.status_code, len(answer.content)) == (200, image["bytes"])
