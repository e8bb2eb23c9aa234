"""MCP over a Unix socket of mode 0600: each connection is one session, one JSON-RPC message per line.

The programs that MCP clients start on this Mac (`herd_mcp.bridge`) connect here and only carry bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.surfaces.mcp.server import HerdServer, make_mcp

if TYPE_CHECKING:
    from herd_mcp.herd import Herd

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 32 * 1024 * 1024
"""Longest message: a picture of 16 MiB as base64, with room."""
MAX_CONNECTIONS = 64
MAX_OPEN_REQUESTS = 256
"""Requests of one connection that are not answered yet: a client that asks and never reads would fill the memory."""
CHUNK_BYTES = 1 << 16
REFUSE_S = 5.0
"""Seconds a client that is too many gets to send the request which the refusal answers."""
CLOSE_S = 2.0
"""Seconds a client gets to read what was written to it before its connection is cut."""

TOO_LONG = f"A message may have {MAX_LINE_BYTES // (1024 * 1024)} MiB. Pass large pictures as a path or a herd:// link."
TOO_MANY = f"{MAX_CONNECTIONS} MCP clients are connected to this node already. Close one and start again."
TOO_BUSY = f"{MAX_OPEN_REQUESTS} requests of this connection wait for their answers already. Read some first."
IN_USE = "A request with this id is not answered yet. Give each request an id of its own."
NO_MESSAGE = "That is not a JSON-RPC message in UTF-8. Half a surrogate pair (\\ud800…) is no character: leave it out."


class LineTooLong(Exception):
    """More than MAX_LINE_BYTES without the end of a line."""


class _Requests:
    """The requests of one connection that are open, by their ids."""

    def __init__(self) -> None:
        self._open: set[int | str] = set()

    def refusal(self, message: JSONRPCMessage) -> str:
        """Note a message of the client; why it is refused, or nothing."""
        if isinstance(message, JSONRPCRequest):
            if message.id in self._open:
                return IN_USE
            if len(self._open) >= MAX_OPEN_REQUESTS:
                return TOO_BUSY
            self._open.add(message.id)
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            cancelled = (message.params or {}).get("requestId")  # it gets no answer
            if isinstance(cancelled, int | str):
                self._open.discard(cancelled)
        return ""

    def answered(self, message: JSONRPCMessage) -> None:
        if isinstance(message, JSONRPCResponse | JSONRPCError) and message.id is not None:
            self._open.discard(message.id)


class _Sessions:
    """The connections of one node."""

    def __init__(self, mcp: HerdServer) -> None:
        self._mcp = mcp
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A new connection; its session runs in a task of its own."""
        serve = self._serve if len(self._tasks) < MAX_CONNECTIONS and not self._closing else self._refuse
        task = asyncio.create_task(self._guard(serve(reader, writer), writer), name="mcp connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End every session; their jobs are cancelled."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _guard(self, session: Any, writer: asyncio.StreamWriter) -> None:
        try:
            await session
        except (ConnectionError, TimeoutError):
            pass  # the client has gone
        except Exception:
            log.exception("an MCP session failed")
        finally:
            writer.close()
            try:
                async with asyncio.timeout(CLOSE_S):
                    await writer.wait_closed()
            except (ConnectionError, TimeoutError):
                writer.transport.abort()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(REFUSE_S):
            with contextlib.suppress(LineTooLong):
                async for line in lines(reader):
                    writer.write(error_line(line, INVALID_REQUEST, TOO_MANY))
                    await writer.drain()
                    return

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = self._mcp._lowlevel_server
        to_server, from_client = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        to_client, from_server = anyio.create_memory_object_stream[SessionMessage](0)
        requests = _Requests()
        async with anyio.create_task_group() as group:
            group.start_soon(_read, reader, to_server, writer, requests)
            group.start_soon(_write, writer, from_server, requests)
            # Ends with the client's messages, and cancels the handlers that still run, and they their jobs.
            await server.run(from_client, to_client, server.create_initialization_options())
            group.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def serve_socket(herd: Herd, path: str | os.PathLike[str]) -> AsyncIterator[None]:
    """Serve MCP at `path` while inside. The folder must be this user's alone.

    Raises HerdError(no_node) when another node listens there or something else is in the way.
    """
    path = os.fspath(path)
    sessions = _Sessions(make_mcp(herd, local=True))
    server = await asyncio.start_unix_server(sessions.accept, sock=bind(path), limit=CHUNK_BYTES)
    try:
        yield
    finally:
        server.close()
        await sessions.close()
        await server.wait_closed()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def bind(path: str) -> socket.socket:
    """A listening socket of mode 0600 at `path`, in the place of one that a killed node left. Raises HerdError."""
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            if _answers(path):
                raise _taken(path, "another node listens there")
            os.unlink(path)
        else:
            raise _taken(path, "there is something that is no socket")
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)  # its folder is 0700, so nobody came in between
        listener.listen(MAX_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise _taken(path, error.strerror or str(error)) from error
    listener.setblocking(False)
    return listener


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _taken(path: str, why: str) -> HerdError:
    return HerdError(
        ErrorCode.NO_NODE,
        f"The socket {path} cannot be used: {why}.",
        "`herd-mcp status` shows a node that runs; else remove the file, or set HERD_HOME to another folder.",
    )


async def lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines that come in, without their ends. Raises LineTooLong."""
    held = bytearray()
    while chunk := await reader.read(CHUNK_BYTES):
        searched = len(held)
        held += chunk
        start = 0
        while (end := held.find(b"\n", max(start, searched))) >= 0:
            yield bytes(held[start:end])
            start = end + 1
        del held[:start]
        if len(held) > MAX_LINE_BYTES:
            raise LineTooLong


async def _read(
    reader: asyncio.StreamReader,
    to_server: MemoryObjectSendStream[SessionMessage | Exception],
    writer: asyncio.StreamWriter,
    requests: _Requests,
) -> None:
    """The client's messages, to the server; what is no message is answered here, since the SDK only drops it. While
    the client does not read such answers, nothing more of it is read."""
    async with to_server:
        try:
            async for line in lines(reader):
                if not line.strip():
                    continue
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValidationError:
                    writer.write(error_line(line, PARSE_ERROR, NO_MESSAGE))
                    await writer.drain()
                    continue
                if refusal := requests.refusal(message):
                    writer.write(error_line(line, INVALID_REQUEST, refusal))
                    await writer.drain()
                else:
                    await to_server.send(SessionMessage(message))
        except LineTooLong:
            writer.write(error_line(b"", INVALID_REQUEST, TOO_LONG))
        except (ConnectionError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # gone, without a good-bye


async def _write(
    writer: asyncio.StreamWriter, from_server: MemoryObjectReceiveStream[SessionMessage], requests: _Requests
) -> None:
    """The server's messages, to the client. When the client has gone they are read and dropped."""
    async with from_server:
        async for message in from_server:
            requests.answered(message.message)
            if writer.is_closing():
                continue
            writer.write(_line(message.message))
            with contextlib.suppress(ConnectionError):
                await writer.drain()


def _line(message: JSONRPCMessage) -> bytes:
    """A message as it goes out. What cannot be written as JSON ends its request and not the session."""
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
    except ValueError:
        log.exception("a message could not be written")
        asked = json.dumps({"id": getattr(message, "id", None)}).encode()
        return error_line(asked, INTERNAL_ERROR, "The answer could not be written as JSON; the node's log says more.")


def error_line(line: bytes, code: int, message: str) -> bytes:
    """A JSON-RPC error in answer to `line`: with its id, where one can be made out."""
    try:
        found = json.loads(line)
        request_id = found.get("id") if isinstance(found, dict) else None
    except (ValueError, RecursionError):
        request_id = None
    if isinstance(request_id, bool) or not isinstance(request_id, int | str):
        request_id = None
    try:
        error = JSONRPCError(jsonrpc="2.0", id=request_id, error=ErrorData(code=code, message=message))
        return error.model_dump_json(by_alias=True).encode() + b"\n"
    except (ValidationError, ValueError):  # an id that is no text either
        return error_line(b"", code, message)
