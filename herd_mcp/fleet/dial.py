"""Short looks at what answers at the address of another node."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Callable
from typing import Any

from herd_mcp.fleet import trouble
from herd_mcp.fleet.trust import dns_name

LOOK_S = 1.0
"""Seconds after which a connection that is still open counts as accepted."""
CONNECT_S = 3.0
"""Seconds for TCP and TLS together, also where the first packet is lost and sent again after a second."""


@contextlib.asynccontextmanager
async def _connected(
    address: str, context: ssl.SSLContext, name: str | None
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(
        host.strip("[]"), int(port), ssl=context, server_hostname=name or "", ssl_handshake_timeout=CONNECT_S
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def is_refused(address: str, context: ssl.SSLContext, node_id: str) -> bool:
    """Whether the node at `address` closes a connection that says nothing: it does not accept our certificate.
    Raises OSError where there is no connection at all."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LOOK_S), _connected(address, context, dns_name(node_id)) as (reader, _writer):
            try:
                return await reader.read(1) == b""
            except OSError:
                return True
    return False


async def who_answers(address: str, context: ssl.SSLContext, caller_of: Callable[[dict[str, Any]], str]) -> str:
    """The id of the node at an address of which only the address is known. `context` verifies certificates and no
    names. Raises HerdError as a peer does."""
    try:
        async with asyncio.timeout(CONNECT_S), _connected(address, context, None) as (_reader, writer):
            return caller_of(writer.get_extra_info("ssl_object").getpeercert())
    except (OSError, ValueError) as error:
        raise trouble.of_failure(error, address) from None
