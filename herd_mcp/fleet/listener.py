"""The port for the other Macs: TLS, certificates on both sides, nothing that a stranger can hold for long.

Who has no certificate of this herd does not get past the handshake, which has a limit of its own. A member's
certificate is looked at with every request and once a second: who is put out, or whose certificate runs out, loses the
connections that are open.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections import Counter, deque
from typing import Any

from herd_mcp.fleet import wire
from herd_mcp.fleet.app import CallerOf, caller
from herd_mcp.fleet.silence import socket_options
from herd_mcp.jobs import HerdError
from herd_mcp.serving.connection import SWEEP_TICKS, Connection
from herd_mcp.serving.server import Server

log = logging.getLogger(__name__)

HANDSHAKE_S = 5.0
MAX_HANDSHAKES = 512
"""Connections that have not shown a certificate yet. One too many takes the place of the oldest from the address that
has most of them."""
CLOSE_S = 1.0
"""Seconds for the other side to agree to the end of a connection."""
GRACE_S = 2
"""Seconds that open answers get at the end of the node."""
TOLD_EACH_MINUTE = 10
"""Lines in the log about strangers."""


class PeerConnection(Connection):
    """A connection whose requests know the certificate behind it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        tls = transport.get_extra_info("ssl_object")
        self.app_state = {**self.app_state, "peer_cert": tls.getpeercert()}
        super().connection_made(transport)

    @property
    def answers(self) -> bool:
        """Whether a request is being answered."""
        return self._now_in() in ("body", "answer")


class Listener(Server):
    """Serves the app of `fleet.app` on a bound socket, by `run_on`. `context` asks for certificates."""

    def __init__(self, app: Any, context: ssl.SSLContext, caller_of: CallerOf, lease_s: float) -> None:
        super().__init__(app, http=PeerConnection, grace_s=GRACE_S)
        self._context, self._caller_of = context, caller_of
        self._options = socket_options(wire.BEATS_MISSED * wire.beat_s(lease_s))
        self._handshakes: dict[asyncio.Task[None], str] = {}
        self._accepting: asyncio.Task[None] | None = None
        self._strangers = Strangers()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])  # uvicorn accepts nothing itself: it would wait a minute for each handshake
        assert sockets is not None
        self._accepting = asyncio.create_task(self._accept(sockets[0]), name="peers")

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listening)
            except OSError as error:  # no files left, or the other side has gone already
                self._strangers.refused("anywhere", str(error), loop.time())
                await asyncio.sleep(0.1)
                continue
            if len(self._handshakes) >= MAX_HANDSHAKES:
                self._make_room()
            task = asyncio.create_task(self._begin(sock, address[0]), name="handshake")
            self._handshakes[task] = address[0]
            task.add_done_callback(functools.partial(self._shaken, sock))

    def _make_room(self) -> None:
        ((crowd, _),) = Counter(self._handshakes.values()).most_common(1)
        oldest = next(task for task, address in self._handshakes.items() if address == crowd)
        del self._handshakes[oldest]
        oldest.cancel()

    def _shaken(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)
        if task.cancelled():  # maybe before it began
            sock.close()

    async def _begin(self, sock: socket.socket, address: str) -> None:
        """The handshake; after it the connection belongs to uvicorn."""
        loop = asyncio.get_running_loop()
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option in self._options:
                sock.setsockopt(*option)
            await loop.connect_accepted_socket(
                lambda: PeerConnection(self.config, self.server_state, self.lifespan.state),
                sock,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=CLOSE_S,
            )
        except OSError as error:  # TLS errors are some, too
            sock.close()
            self._strangers.refused(address, reason_of(error), loop.time())

    async def on_tick(self, counter: int) -> bool:
        if counter % SWEEP_TICKS == 0:
            self.recheck()
        return await super().on_tick(counter)

    def recheck(self) -> None:
        """Cut the connections of those who may not speak any more. Happens once a second by itself."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, PeerConnection):
                try:
                    caller(connection.app_state, self._caller_of)
                except HerdError as error:
                    connection.cut(error.info.message)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ours = [task for task in (self._accepting, *self._handshakes) if task is not None]
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)
        for connection in list(self.server_state.connections):
            if isinstance(connection, PeerConnection) and not connection.answers:
                connection.cut("the node ends")  # else its other side would have to agree first
        await super().shutdown(sockets)


class Strangers:
    """Tells in the log who was refused, a few times a minute."""

    def __init__(self) -> None:
        self._told_at: deque[float] = deque(maxlen=TOLD_EACH_MINUTE)
        self._untold = 0

    def refused(self, address: str, why: str, now: float) -> None:
        if len(self._told_at) == TOLD_EACH_MINUTE and now - self._told_at[0] < 60:
            self._untold += 1
            return
        more = f" ({self._untold} more were refused before)" if self._untold else ""
        self._told_at.append(now)
        self._untold = 0
        log.warning("a connection from %s was refused: %s%s", address, why, more)


REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate, so it is of no herd",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know this herd",
    "HTTP_REQUEST": "it spoke HTTP without TLS",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
}


def reason_of(error: OSError) -> str:
    """Why a handshake failed, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid here ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return REASONS.get(error.reason or "", f"it does not speak TLS as a node does ({error.reason})")
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return f"the handshake was not done after {HANDSHAKE_S:.0f} s"
    return f"it went away in the handshake ({error.strerror or type(error).__name__}), as nodes of another herd do"
