"""Herds for tests: what each node trusts, in folders of the test, and real TLS between them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from herd_mcp.fleet.trust import Trust, dns_name
from herd_mcp.jobs import HerdError

A, B, C = "aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc"
DAY_S = 86_400.0


def member(folder: Path, node_id: str, of: Trust | None = None, **options: Any) -> Trust:
    """A node with a herd: a new one, or that `of` another."""
    (folder / node_id).mkdir(parents=True, exist_ok=True)
    trust = Trust.open(folder / node_id, node_id, **options)
    if of is None:
        trust.make_herd()
    else:
        trust.adopt(of.grant())
    return trust


@dataclass
class Line:
    """An open connection to a listener that answers each line with who it takes the caller for."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self) -> str:
        """The id that the listener sees, or `refused: …`. Raises OSError or EOFError where TLS ended it."""
        self.writer.write(b"who\n")
        async with asyncio.timeout(30):
            return (await self.reader.readuntil(b"\n")).decode().strip()


@dataclass
class Listener:
    port: int
    server_name: str

    @contextlib.asynccontextmanager
    async def line(self, context: ssl.SSLContext, server_name: str | None = None) -> AsyncIterator[Line]:
        name = self.server_name if server_name is None else server_name
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=name)
        try:
            yield Line(reader, writer)
        finally:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def listening(
    trust: Trust, caller: Callable[[Any], str] | None = None, context: ssl.SSLContext | None = None
) -> AsyncIterator[Listener]:
    """A listener of a node, which asks `caller` for each line who that is."""
    ask = caller or trust.caller

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.readline():
                try:
                    told = ask(writer.get_extra_info("ssl_object").getpeercert())
                except HerdError as error:
                    told = f"refused: {error}"
                writer.write(told.encode() + b"\n")
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context or trust.server_context())
    try:
        yield Listener(server.sockets[0].getsockname()[1], dns_name(trust.node_id))
    finally:
        server.close()
