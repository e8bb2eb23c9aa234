"""The same MCP server over HTTP, for agents that connect by address: streamable HTTP at /mcp, SSE at /sse."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, NamedTuple

from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from herd_mcp.surfaces.mcp.server import make_mcp

if TYPE_CHECKING:
    from herd_mcp.herd import Herd

HTTP_PATH = "/mcp"
SSE_PATH = "/sse"
SESSION_IDLE_S = 10 * 60
MAX_SESSIONS = 256
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class McpHttp(NamedTuple):
    """Two ASGI apps and what must be entered, once, around their whole life."""

    http: ASGIApp
    """For /mcp and /mcp/."""
    sse: ASGIApp
    """For /sse, /sse/ and what is below."""
    lifespan: Callable[[], AbstractAsyncContextManager[None]]


def mcp_http_app(herd: Herd) -> McpHttp:
    """The apps for `surfaces/app.py` to mount. Paths of this Mac are neither taken nor told here.

    Host and Origin are checked (loopback names only); bodies over `max_body_bytes` get 413; of each kind there are at
    most MAX_SESSIONS sessions, and a session of streamable HTTP ends after SESSION_IDLE_S without a request.
    """
    mcp = make_mcp(herd, local=False)
    security = TransportSecuritySettings(
        allowed_hosts=[host for name in LOOPBACK for host in (name, f"{name}:*")],
        allowed_origins=[origin for name in LOOPBACK for origin in (f"http://{name}", f"http://{name}:*")],
    )
    http = mcp.streamable_http_app(
        streamable_http_path=HTTP_PATH,
        transport_security=security,
        max_request_body_size=herd.settings.max_body_bytes,
        session_idle_timeout=SESSION_IDLE_S,
        max_sessions=MAX_SESSIONS,
    )
    sse = mcp.sse_app(
        sse_path=SSE_PATH,
        message_path=f"{SSE_PATH}/messages/",
        transport_security=security,
        max_request_body_size=herd.settings.max_body_bytes,
    )

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with mcp.session_manager.run():
            yield

    return McpHttp(OnePath(http, HTTP_PATH), OnePath(Bounded(sse, MAX_SESSIONS), SSE_PATH), lifespan)


class OnePath:
    """The same app with and without the slash at the end, without a redirect (many clients do not follow one)."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == self._path + "/":
            path = self._path
        await self._app({**scope, "path": path, "raw_path": path.encode(), "root_path": ""}, receive, send)


class Bounded:
    """At most `limit` open streams; the next is told 503."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "GET":
            await self._app(scope, receive, send)
            return
        if self._open >= self._limit:
            problem = f"{self._limit} MCP clients are connected over SSE already. Close one and start again.\n"
            await PlainTextResponse(problem, status_code=503, headers={"Retry-After": "5"})(scope, receive, send)
            return
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1
