"""This node's port for the other Macs of its herd."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from herd_mcp.fleet.trust import Trust
from herd_mcp.orders import PeerApi
from herd_mcp.serving.server import bind
from herd_mcp.settings import Settings

if TYPE_CHECKING:
    from herd_mcp.fleet.listener import Listener


class Port:
    """Nothing listens before `open` and after `close`, and what serves it is not loaded before. `answers`: what a
    member is answered, by its id."""

    def __init__(self, settings: Settings, trust: Trust, answers: Callable[[str], PeerApi]) -> None:
        self._settings = settings
        self._trust = trust
        self._answers = answers
        self._listener: Listener | None = None
        self._serving: asyncio.Task[None] | None = None

    async def open(self) -> Callable[[], tuple[str, ...]]:
        """Let the others in. Returns what tells where: `host:port`. Raises HerdError(no_node) where the port is
        taken."""
        from herd_mcp.fleet.app import make_app
        from herd_mcp.fleet.interfaces import with_port
        from herd_mcp.fleet.listener import Listener

        settings, trust = self._settings, self._trust
        sock = self._bound()
        try:
            app = make_app(self._answers, trust.caller)
            listener = self._listener = Listener(app, trust.server_context(), trust.caller, settings.lease_s)
        except BaseException:
            sock.close()
            raise
        port = sock.getsockname()[1]
        serving = self._serving = asyncio.create_task(_serve(listener, sock), name="peers")
        ready = asyncio.create_task(listener.ready.wait())
        await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if serving.done():
            serving.result()
        return lambda: with_port(settings.peer_bind, port)

    async def try_out(self) -> None:
        """Raises HerdError(no_node) where the port is taken. Who has it is looked for then, beside what is done."""
        await asyncio.to_thread(lambda: self._bound().close())

    def recheck(self) -> None:
        """Cut the connections of those who may not speak any more."""
        if self._listener is not None:
            self._listener.recheck()

    async def close(self) -> None:
        """Let open answers come to their end for some seconds."""
        if self._listener is not None:
            self._listener.should_exit = True
        if self._serving is not None:
            await asyncio.gather(self._serving, return_exceptions=True)
        self._listener = self._serving = None

    def _bound(self) -> socket.socket:
        return bind(self._settings.peer_port, self._settings.peer_bind, setting="peer_port")


async def _serve(listener: Listener, sock: socket.socket) -> None:
    with contextlib.closing(sock):
        await listener.run_on(sock)
