"""One HTTP connection of a node, with bounds on how long and how many a client may hold.

uvicorn waits for ever for a head or a body that does not come, and for a client that does not read. A client that
hangs, or many that do, would use up the node's files and memory; so each connection is looked at once a second, and
those that have brought or taken nothing for too long are cut.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

log = logging.getLogger(__name__)

HEAD_S = 20.0
"""Seconds from the connection, or the first byte of a later request, to the end of the request's head."""
BODY_S = 90.0
"""Seconds that a body may take. Longer than `bodies.BODY_TIMEOUT_S`, which says why; this also ends those whose body
nobody waits for, such as one that goes on after its answer."""
READER_S = 60.0
"""Seconds without a byte taken after which a client that does not read its answer is cut off."""
MAX_CONNECTIONS = 2048
"""Open connections. A client too many takes the place of the one that has asked for nothing for longest."""
SWEEP_TICKS = 10
"""uvicorn's ticks of 0.1 s between two looks at the connections."""

TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 52\r\n\r\nThis node serves as many connections as it may hold."
)

Phase = Literal["idle", "head", "body", "answer"]
"""An idle one is between two requests, where uvicorn's own timer ends it; it is idle to its next byte."""


class Connection(H11Protocol):
    """What a connection is doing, and since when. Times are those of the loop, in seconds."""

    _phase: tuple[Phase, object] = ("head", None)
    """With the request that it belongs to: the same phase of the next request is another."""
    _phase_at = 0.0
    _unread_bytes = 0
    _taken_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._phase_at = self._taken_at = self.loop.time()
        full = len(self.connections) >= MAX_CONNECTIONS and not drop_idlest(self.connections)
        super().connection_made(transport)
        if full:
            transport.write(TOO_MANY)
            transport.close()

    @property
    def waiting_since(self) -> float | None:
        """When this connection began to be of no use to anybody; None while it has a request."""
        return self._phase_at if self._now_in() in ("idle", "head") else None

    def look(self, now: float) -> None:
        """Note what changed since the last look, and cut the connection where that is too long ago."""
        phase = (self._now_in(), self.cycle)
        if phase != self._phase:
            self._phase, self._phase_at = phase, now
        unread_bytes = self.transport.get_write_buffer_size()
        if not unread_bytes or unread_bytes < self._unread_bytes:
            self._taken_at = now
        self._unread_bytes = unread_bytes
        in_phase_s = now - self._phase_at
        if phase[0] == "head" and in_phase_s >= HEAD_S:
            self.cut(f"the head of a request was not whole after {HEAD_S:.0f} s")
        elif phase[0] == "body" and in_phase_s >= BODY_S:
            self.cut(f"a body was not whole after {BODY_S:.0f} s")
        elif now - self._taken_at >= READER_S:
            self.cut(f"nothing of an answer was read for {READER_S:.0f} s")

    def _now_in(self) -> Phase:
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        if self.conn.their_state is not h11.IDLE:
            return "answer"
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request, whatever uvicorn's types say
        return "head" if cycle is None or self.conn.trailing_data[0] else "idle"

    def cut(self, why: str) -> None:
        """End the connection without ceremony: its client was not taking part in one."""
        log.info("a connection was cut: %s", why)
        self.transport.abort()


def look_at(connections: Iterable[object], now: float) -> None:
    """Look at every connection."""
    for connection in list(connections):
        if isinstance(connection, Connection):
            connection.look(now)


def drop_idlest(connections: Iterable[object]) -> bool:
    """Cut the connection that has asked for nothing for longest. False when all have a request."""
    waiting = [(since, c) for c in connections if isinstance(c, Connection) and (since := c.waiting_since) is not None]
    if not waiting:
        return False
    _, idlest = min(waiting, key=lambda row: row[0])
    idlest.cut(f"there are {MAX_CONNECTIONS}, and it asked for nothing")
    idlest.connections.discard(idlest)  # its own end comes with the loop's next turn; more may be accepted in this one
    return True
