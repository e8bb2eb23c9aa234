"""Joining the herd of a Mac that made an invite: its listener is found by the code, checked, asked, and told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import ipaddress
import os
import ssl
import sys
import time
from collections.abc import Awaitable, Callable

from pydantic import ValidationError

from herd_mcp.fleet import code as codes
from herd_mcp.fleet.grant import Grant
from herd_mcp.fleet.invite import CONNECTION_S, Answer, Ask, Confirmed
from herd_mcp.jobs import ErrorCode, HerdError

CONNECT_S = 5.0
"""Seconds for each address of the code."""
MAX_ANSWER_BYTES = 256 * 1024
"""A grant with the most members, each with the most addresses, is shorter."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def join(
    code: codes.Code, node_id: str, name: str, adopt: Callable[[Grant], Awaitable[tuple[str, ...]]]
) -> Grant:
    """Join, and return what was given. `adopt` makes this node a member, and gives the addresses (`host:port`) where it
    is reached then. Raises HerdError with what went wrong, which may be what the other Mac objects to."""
    reader, writer = await _connect(code)
    try:
        ask = Ask(secret=code.secret.hex(), node_id=node_id, name=name, now=time.time())
        grant = await _asked(ask, reader, writer)
        addresses = await adopt(grant)
        with contextlib.suppress(OSError, TimeoutError):  # this Mac is in; the other will hear of it from its state
            writer.write(Confirmed(addresses=addresses).model_dump_json().encode() + b"\n")
            async with asyncio.timeout(CONNECTION_S):
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        return grant
    finally:
        writer.transport.abort()


async def _asked(ask: Ask, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Grant:
    try:
        async with asyncio.timeout(CONNECTION_S):
            writer.write(ask.model_dump_json().encode() + b"\n")
            await writer.drain()
            answer = Answer.model_validate_json(await reader.readline())
    except (OSError, TimeoutError, ValueError) as error:  # ValueError: too long, or not an Answer
        why = "does not answer as expected" if isinstance(error, ValidationError) else "broke off"
        raise HerdError(
            ErrorCode.NODE_LOST,
            f"The Mac that made the code {why}.",
            "See whether it still shows the code, and try again; compare `herd-mcp --version` on both.",
            retryable=True,
        ) from error
    if answer.error is not None:
        raise HerdError.of(answer.error)
    if answer.grant is None:
        raise HerdError(ErrorCode.INTERNAL, "The Mac that made the code gave nothing.", "Invite again.")
    return answer.grant


async def _connect(code: codes.Code) -> Streams:
    """To the first address where the Mac is that made the code: whose certificate has the code's digest."""
    failed: dict[str, Exception | None] = {}
    for address in code.addresses:
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(
                    address, code.port, ssl=_any_certificate(), limit=MAX_ANSWER_BYTES
                )
        except (OSError, TimeoutError) as error:
            failed[address] = error
            continue
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if shown and hmac.compare_digest(codes.digest_of(shown), code.digest):
            return reader, writer
        failed[address] = None
        writer.transport.abort()
    raise _unreached(failed)


def _any_certificate() -> ssl.SSLContext:
    """The certificate is compared with the code, not with an authority: this Mac has none yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _unreached(failed: dict[str, Exception | None]) -> HerdError:
    if None in failed.values():
        return _not_the_one(tuple(address for address, error in failed.items() if error is None))
    for address, error in failed.items():
        unreachable = isinstance(error, OSError) and error.errno == errno.EHOSTUNREACH
        if unreachable and sys.platform == "darwin" and ipaddress.ip_address(address).is_private:
            return HerdError(
                ErrorCode.LOCAL_NETWORK_DENIED,
                f"macOS does not let the node reach {address}.",
                "Allow it in System Settings, Privacy & Security, Local Network; or end the node (`herd-mcp stop`) and "
                "run `herd-mcp up` in a terminal.",
            )
    tried = ", ".join(f"{address} ({_words(error)})" for address, error in failed.items())
    refused = any(isinstance(error, ConnectionRefusedError) for error in failed.values())
    return HerdError(
        ErrorCode.NO_NODE,
        f"No invite is open where the code points to: {tried}.",
        "It was used or has expired: run `herd-mcp invite` on the other Mac again."
        if refused
        else "See that both Macs are in the same network and that no firewall is between, then invite again.",
        retryable=True,
    )


def _words(error: Exception | None) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ssl.SSLError):
        return "something else answers there"
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number).lower() if number else type(error).__name__


def _not_the_one(addresses: tuple[str, ...]) -> HerdError:
    return HerdError(
        ErrorCode.UNAUTHORIZED,
        f"At {', '.join(addresses)} answers something that is not the Mac which made the code; it was told nothing.",
        "Invite again. If it stays so, another program or somebody in this network is in between.",
    )
