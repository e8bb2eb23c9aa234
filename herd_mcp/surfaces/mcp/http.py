"""The same MCP server over HTTP, for agents that connect by address: streamable HTTP at /mcp, SSE at /sse."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, NamedTuple

from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
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
    most MAX_SESSIONS sessions. A session of streamable HTTP ends after SESSION_IDLE_S without a request, and when all
    are taken the one longest without makes room.
    """
    mcp = make_mcp(herd, local=False)
    security = TransportSecuritySettings(
        allowed_hosts=[host for name in LOOPBACK for host in (name, f"{name}:*")],
        allowed_origins=[origin for name in LOOPBACK for origin in (f"http://{name}", f"http://{name}:*")],
    )
    http: ASGIApp = mcp.streamable_http_app(
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

    http = RoomForSessions(http, mcp.session_manager)
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


class RoomForSessions:
    """Ends the session that is longest without a request when a new one would be too many: clients that go away seldom
    say so, and theirs would keep everybody else out until SESSION_IDLE_S is over."""

    def __init__(self, app: ASGIApp, manager: StreamableHTTPSessionManager) -> None:
        self._app = app
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        # As the SDK sees it: requests of the versions without sessions name their version, others bring their session.
        handshake = headers.get(MCP_PROTOCOL_VERSION_HEADER) in (None, *HANDSHAKE_PROTOCOL_VERSIONS)
        if handshake and MCP_SESSION_ID_HEADER not in headers:
            await self._make_room()
        await self._app(scope, receive, send)

    async def _make_room(self) -> None:
        sessions = self._manager._server_instances
        if len(sessions) < MAX_SESSIONS:
            return
        idle = [
            (idling.deadline, session_id)
            for session_id, session in sessions.items()
            if (idling := session.idle_scope) is not None and idling.deadline < math.inf
        ]
        if idle:
            _, longest = min(idle)
            await self._manager._discard_session(longest, sessions[longest])


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
