"""The HTTP server of a node's ports, embedded: our own socket, our own signals, bounded ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any

import psutil
import uvicorn

from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.serving.connection import SWEEP_TICKS, Connection, look_at

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKLOG = 1024
"""Connections that may wait to be accepted; a burst of clients must not be reset."""
KEEP_ALIVE_S = 75
"""Longer than clients keep idle connections (httpx: 5 s), so that the server never closes one being reused."""
GRACE_S = 3
"""Seconds that open responses get once the node has drained."""


def bind(port: int, host: str = "127.0.0.1", *, setting: str = "port") -> socket.socket:
    """A socket on host:port (0: a free one). Raises HerdError(no_node) that names who holds the port, and `setting`."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)  # two sockets may both bind with SO_REUSEADDR; only one may listen
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise HerdError(
                ErrorCode.NO_NODE,
                f"This Mac cannot listen on {host} ({error.strerror}).",
                f"Correct `{setting.replace('port', 'bind')}` in config.toml: an address of this Mac, or 0.0.0.0.",
            ) from error
        holder = port_holder(port)
        by = f" by {holder}" if holder else ""
        raise HerdError(
            ErrorCode.NO_NODE,
            f"Port {port} is taken{by} ({error.strerror})." if by or port else f"No port is free ({error.strerror}).",
            f"End that program, or choose another port: `{setting}` in config.toml, or HERD_{setting.upper()} "
            "(0 takes a free one).",
        ) from error
    sock.setblocking(False)
    return sock


def port_holder(port: int) -> str:
    """`name (pid 123)` of the process that listens on the port; empty when the system does not tell."""
    for process in psutil.process_iter():  # one by one: macOS shows them all to root only
        with contextlib.suppress(psutil.Error, PermissionError):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,):
                    return f"{process.name()} (pid {process.pid})"
    return ""


class Server(uvicorn.Server):
    """uvicorn in a loop that belongs to someone else: no signal handlers, no exit of the process."""

    def __init__(self, app: Any, *, http: type[Connection] = Connection, grace_s: int = GRACE_S) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                http=http,  # h11, which bounds a request's head, also where faster parsers are installed
                ws="none",
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=grace_s,
            )
        )
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def on_tick(self, counter: int) -> bool:
        if counter % SWEEP_TICKS == 0:
            look_at(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def run_on(self, sock: socket.socket) -> None:
        """Serve until `should_exit`. Raises RuntimeError when the app's own start fails."""
        try:
            await self.serve(sockets=[sock])
        except SystemExit as error:  # uvicorn's way to say that the lifespan failed; it would end the loop
            raise RuntimeError("the HTTP app did not start; the log says why") from error
