"""Telling clients that a resource changed, in both eras of the protocol.

Clients of 2026 listen on a stream of their own (the SDK's bus serves it). Older ones send `resources/subscribe` and get
a notification on their connection; the SDK leaves those to us.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import anyio
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

from herd_mcp.surfaces.mcp.resources import HEALTH, JOB_PREFIX, MODELS, STATS
from herd_mcp.surfaces.mcp.results import job_uri

if TYPE_CHECKING:
    from herd_mcp.herd import Herd
    from herd_mcp.state import Change

log = logging.getLogger(__name__)

MAX_URIS = 256
"""Subscriptions of one connection."""
SEND_S = 5.0
"""Seconds that a client may take to read a notification; a slower one loses its subscriptions."""


class Subscriptions:
    """Who wants to know about which resource. One per MCP server."""

    def __init__(self, herd: Herd) -> None:
        self.bus = InMemorySubscriptionBus()
        self._herd = herd
        self._wanted: WeakKeyDictionary[Connection, set[str]] = WeakKeyDictionary()
        self._users = 0
        self._task: asyncio.Task[None] | None = None

    def serve_older(self, server: Server[Any]) -> None:
        """Answer `resources/subscribe` and `resources/unsubscribe` of connections before 2026."""
        server.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
        server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Pass the herd's changes on while at least one user is inside: one per connection, in any number."""
        self._users += 1
        if self._task is None:
            self._task = asyncio.create_task(self._pass_on(), name="mcp subscriptions")
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                self._task.cancel()
                self._task = None

    async def _subscribe(self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        uri = str(params.uri)
        if uri not in (STATS, HEALTH, MODELS) and not uri.startswith(JOB_PREFIX):
            raise MCPError(INVALID_PARAMS, f"{uri} never changes, or does not exist: there is nothing to subscribe to.")
        connection = ctx.session._connection  # the session object is new for every request
        if connection not in self._wanted:
            self._wanted[connection] = set()
            connection.exit_stack.callback(self._wanted.pop, connection, None)
        uris = self._wanted[connection]
        if len(uris) >= MAX_URIS and uri not in uris:
            raise MCPError(INVALID_PARAMS, f"One connection may have {MAX_URIS} subscriptions; end some first.")
        uris.add(uri)
        return EmptyResult()

    async def _unsubscribe(self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams) -> EmptyResult:
        self._wanted.get(ctx.session._connection, set()).discard(str(params.uri))
        return EmptyResult()

    async def _pass_on(self) -> None:
        async for change in self._herd.subscribe():
            try:
                await self._publish(uri_of(change))
            except Exception:
                log.exception("a change could not be passed on to MCP clients")

    async def _publish(self, uri: str) -> None:
        await self.bus.publish(ResourceUpdated(uri=uri))
        wanting = [connection for connection, uris in self._wanted.items() if uri in uris]
        if wanting:
            async with anyio.create_task_group() as group:
                for connection in wanting:
                    group.start_soon(self._notify, connection, uri)

    async def _notify(self, connection: Connection, uri: str) -> None:
        with anyio.move_on_after(SEND_S) as limit:
            await connection.send_resource_updated(uri)
        if limit.cancelled_caught:
            self._wanted.pop(connection, None)


def uri_of(change: Change) -> str:
    """The resource that a change is about."""
    match change.kind:
        case "job":
            return job_uri(change.id)
        case "stats":
            return STATS
        case "health":
            return HEALTH
        case "models":
            return MODELS
