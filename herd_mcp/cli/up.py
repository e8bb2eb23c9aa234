"""`up`: the node process. Takes the home's lock, opens the herd, serves HTTP and MCP, and drains when told to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import logging.handlers
import os
import resource
import secrets
import signal
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herd_mcp import bridge
from herd_mcp.cli import run_dir
from herd_mcp.herd import Herd, open_herd
from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.serving.server import Server, bind
from herd_mcp.settings import Settings
from herd_mcp.surfaces.app import make_app
from herd_mcp.surfaces.mcp.socket import serve_socket

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine, Iterable

log = logging.getLogger("herd_mcp.up")

DRAIN_S = 30.0
"""Seconds that running jobs get when the node is told to end; images left over run again at the next start."""
LOCK_S = 0.5
"""Seconds to try for the home's lock: programs that ask whether a node lives hold it for a moment."""
OPEN_FILES = 8192
"""Sockets and pipes that one node may hold; the usual soft limit of 256 on macOS is soon used up."""
LOG_BYTES = 5 * 1024 * 1024
LOG_FILES = 3


class Ending:
    """The wish that the node ends. Said twice, it means: now."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()

    def ask(self) -> None:
        (self.hurry if self.asked.is_set() else self.asked).set()


def run_node(settings: Settings, *, detached: bool, until_eof: bool) -> None:
    """Run until told to end. Raises HerdError: `busy` when one runs here already, `no_node` when the port is taken."""
    where = Path(bridge.herd_home())
    os.umask(0o077)
    for folder in (where, where / "run", where / "logs"):
        run_dir.make_private(folder)
    start_log(settings.log_level, where / "logs" / "node.log" if detached else None)
    lock = run_dir.NodeLock(where)
    if not lock.take(wait_s=LOCK_S):
        raise _already(where)
    try:
        run_dir.remove_record(where)  # of a node that was killed
        allow_open_files()
        sock = bind(settings.port)
        with contextlib.closing(sock):
            asyncio.run(_main(settings, where, sock, until_eof=until_eof))
    finally:
        lock.give()


def _already(where: Path) -> HerdError:
    record = run_dir.read_record(where) or {}
    told = f" (pid {record['pid']}, port {record['port']})" if record.get("pid") else ""
    return HerdError(
        ErrorCode.BUSY,
        f"A node of {where} already runs{told}.",
        "`herd-mcp status` shows it, `herd-mcp stop` ends it; another HERD_HOME makes another node.",
    )


async def _main(settings: Settings, where: Path, sock: socket.socket, *, until_eof: bool) -> None:
    ending = Ending()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:  # nohup and `&` ignore the others
            loop.add_signal_handler(number, ending.ask)
    if until_eof:
        _end_with_stdin(loop, ending)
    token = secrets.token_urlsafe(32)
    async with open_herd(settings) as herd:
        server = Server(make_app(herd, token=token, stop=ending.ask))
        with run_dir.as_herd_error():
            path = bridge.socket_path(where)
        async with serve_socket(herd, path):
            serving = asyncio.create_task(server.run_on(sock), name="http")
            try:
                await _first(server.ready.wait(), beside=[serving])
                if server.ready.is_set():
                    await _serve(herd, server, serving, ending, where, _record(herd, sock, token, path))
            finally:
                server.should_exit = True
                server.force_exit = ending.hurry.is_set()
                await serving
                run_dir.remove_record(where, pid=os.getpid())


async def _serve(
    herd: Herd,
    server: Server,
    serving: asyncio.Task[None],
    ending: Ending,
    where: Path,
    record: dict[str, object],
) -> None:
    """Tell where the node is, serve until the end is asked for, then let the work come to its end."""
    run_dir.write_record(where, record)
    log.info("node %s is up: http://127.0.0.1:%s, home %s", herd.node_name, record["port"], where)
    await _first(ending.asked.wait(), beside=[serving])
    if serving.done():
        return
    log.info("draining: running jobs get up to %.0f s; ask once more to end at once", DRAIN_S)
    await _first(herd.drain(DRAIN_S), ending.hurry.wait())
    log.info("ending")


async def _first(*waits: Coroutine[Any, Any, object], beside: Iterable[asyncio.Task[None]] = ()) -> None:
    """Wait until one of `waits` or of the tasks `beside` is done; the other waits are cancelled, the tasks live on."""
    ours = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait([*ours, *beside], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ours:
            task.cancel()
        results = await asyncio.gather(*ours, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def _record(herd: Herd, sock: socket.socket, token: str, path: str) -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "port": sock.getsockname()[1],
        "token": token,
        "version": version("herd-mcp"),
        "socket": path,
        "node_id": herd.node_id,
        "node_name": herd.node_name,
        "started_at": time.time(),
    }


def _end_with_stdin(loop: asyncio.AbstractEventLoop, ending: Ending) -> None:
    """For a node that belongs to another process: when the pipe on stdin ends, so does the node."""

    def readable() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            ending.ask()

    try:
        loop.add_reader(0, readable)
    except OSError:  # the system watches neither /dev/null nor files, and they belong to no process: that is their end
        ending.ask()


def start_log(level: str, path: Path | None) -> None:
    """Everything to stderr, or to `path`, which starts anew at 5 MiB and keeps three older ones."""
    handler: logging.Handler = logging.StreamHandler() if path is None else NodeLog(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").addFilter(_not_cut_short)
    for noisy in ("httpx", "httpcore", "mcp", "sse_starlette", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))


def _not_cut_short(record: logging.LogRecord) -> bool:
    """uvicorn logs a traceback for every answer that it cuts short at the end; that is our wish, not an error."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


class NodeLog(logging.handlers.RotatingFileHandler):
    """logs/node.log. What goes to stdout and stderr past the log lands in it too, also after it started anew."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
        self._follow()

    def doRollover(self) -> None:
        super().doRollover()
        self._follow()

    def _follow(self) -> None:
        assert self.stream is not None
        for standard in (1, 2):
            os.dup2(self.stream.fileno(), standard)


def allow_open_files() -> None:
    """Raise the soft limit of open files to what the system allows, at most OPEN_FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS may cap lower than the hard limit it tells
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
