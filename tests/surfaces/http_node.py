"""A real node on a real socket, in the loop of the test, with the built-in models."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from herd_mcp.herd import Herd, open_herd
from herd_mcp.jobs import Job
from herd_mcp.node.pressure import ReadMemory, read
from herd_mcp.serving.server import Server, bind
from herd_mcp.settings import load_settings
from herd_mcp.surfaces.app import make_app

T = TypeVar("T")

TOKEN = "the-token-of-this-test"
CHAT = "herd-tiny-chat"
IMAGE = "herd-tiny-image"
LIMIT_S = 60.0
NEVER_ENDS = {str(token): -1000 for token in range(7)}
"""logit_bias under which the built-in chat model never says that it is done: its markers are the tokens 0 to 6."""


@dataclass
class HttpNode:
    herd: Herd
    port: int
    http: httpx.AsyncClient
    stops: list[str] = field(default_factory=list)

    async def image(self, **fields: Any) -> httpx.Response:
        body = {"model": IMAGE, "prompt": "a red fox", "steps": 1, **fields}
        return await self.http.post("/api/generate-image", json=body)

    async def chat(self, **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, **fields}
        return await self.http.post("/v1/chat/completions", json=body)

    async def engine_pids(self) -> dict[str, int | None]:
        return {engine.model: engine.pid for node in await self.herd.nodes() for engine in node.engines}

    async def open(self, path: str, body: dict[str, Any], *headers: str) -> Connection:
        """POST over a socket of its own, without reading the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Content-Length: {len(data)}", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        await writer.drain()
        return Connection(reader, writer)

    async def job_tagged(self, tag: str, *statuses: str, unless: asyncio.Task[httpx.Response] | None = None) -> Job:
        """The job with this tag, once it is in one of these states (any, if none are named). Fails with the answer
        that `unless` got before."""

        async def find() -> Job | None:
            if unless is not None and unless.done():
                pytest.fail(f"answered already: {unless.result().status_code} {unless.result().text[:500]}")
            tagged = [job for job in await self.herd.jobs() if tag in job.tags]
            return next((job for job in tagged if not statuses or job.status in statuses), None)

        return await until(find)


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def hang_up(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def until(find: Callable[[], Awaitable[T | None]], limit_s: float = LIMIT_S) -> T:
    """What `find` gives as soon as it gives something."""
    async with asyncio.timeout(limit_s):
        while not (found := await find()):
            await asyncio.sleep(0.02)
    return found


@contextlib.asynccontextmanager
async def serve(folder: Path, read_memory: ReadMemory = read, **settings: Any) -> AsyncIterator[HttpNode]:
    """A node with its home in `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HERD_HOME", str(folder / "herd"))
        patch.setenv("HERD_HF_CACHE", str(folder / "no-cache"))
        patch.setenv("MLX_DISABLE_COMPILE", "1")
        async with open_herd(load_settings(port=0, node_name="tester", **settings), read_memory) as herd:
            stops: list[str] = []
            app = make_app(herd, token=TOKEN, stop=lambda: stops.append("stop"))
            sock = bind(0)
            server = Server(app)
            server.config.timeout_graceful_shutdown = 1
            serving = asyncio.create_task(server.run_on(sock))
            port = sock.getsockname()[1]
            try:
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S) as http:
                    yield HttpNode(herd, port, http, stops)
            finally:
                server.should_exit = True
                await serving
                sock.close()


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The data of Server-Sent Events, without [DONE]."""
    datas = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(data) for data in datas if data != b"[DONE]"]
