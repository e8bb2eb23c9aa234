"""Who may ask what: strangers, members that were put out, members that claim to be others, and what they may send."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator

import pytest

from herd_mcp.fleet import app, listener, wire
from herd_mcp.fleet.dial import who_answers
from herd_mcp.jobs import ErrorCode, HerdError
from tests.conftest import until

from .certificates import Authority, Member
from .scripted import ALPHA, BETA, GAMMA, LEASE_S, LIMIT_S, Pair, all_of, job_id_of, order_of, pair, reason_of, state_of


@contextlib.asynccontextmanager
async def dialled(herd: Pair, member: Member) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    name = f"{BETA}.herd.internal"
    reader, writer = await asyncio.open_connection("127.0.0.1", herd.port, ssl=member.client(), server_hostname=name)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def head(method: str, path: str, *more: str) -> bytes:
    lines = [f"{method} {wire.ROOT}{path} HTTP/1.1", "host: x", f"{wire.VERSION_HEADER}: {wire.VERSION}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(LIMIT_S):
        return int((await reader.readline()).split()[1])


async def refusal(herd: Pair, member: Member) -> HerdError:
    async with herd.as_(member) as beta:
        with pytest.raises(HerdError) as caught:
            await beta.exchange(state_of(member.node_id))
    return caught.value


# ── strangers ──


async def test_a_node_of_another_herd_is_refused_and_both_sides_know_why(caplog: pytest.LogCaptureFixture) -> None:
    async with pair() as herd:
        error = await refusal(herd, Authority().member(ALPHA))
        assert (error.info.code, reason_of(error)) == (ErrorCode.NODE_LOST, "another_herd")
        assert "is of another herd" in error.info.message
        await until(lambda: "as nodes of another herd do" in caplog.text, "the log names the stranger")
        assert herd.api.calls == []


async def test_a_node_with_an_expired_certificate_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    async with pair() as herd:
        error = await refusal(herd, herd.authority.member(ALPHA, days=(-2, -1)))
        assert reason_of(error) == "refused"
        assert "does not accept this node's certificate" in error.info.message
        await until(lambda: "certificate has expired" in caplog.text, "the log says why")


async def test_a_program_without_a_certificate_does_not_get_in(caplog: pytest.LogCaptureFixture) -> None:
    async with pair() as herd:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=herd.authority.pem)
        name = f"{BETA}.herd.internal"
        reader, writer = await asyncio.open_connection("127.0.0.1", herd.port, ssl=context, server_hostname=name)
        writer.write(head("GET", "/stats"))
        got = b""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(LIMIT_S):
                got = await reader.read()
        writer.transport.abort()
        assert got == b""
        await until(lambda: "showed no certificate" in caplog.text, "the log says why")


async def test_a_flood_of_strangers_writes_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    strangers = listener.Strangers()
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            strangers.refused("10.0.0.1", "why", number / 1000)
        assert len(caplog.records) == listener.TOLD_EACH_MINUTE
        strangers.refused("10.0.0.1", "why", 120.0)
    assert "990 more were refused before" in caplog.text


async def test_those_who_hang_in_the_handshake_make_room_for_a_member(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_HANDSHAKES", 8)
    async with pair() as herd:
        hanging = [socket.create_connection(("127.0.0.1", herd.port)) for _ in range(50)]
        try:
            assert await herd.beta.exchange(state_of(ALPHA)) == state_of(BETA)
            assert len(herd.listener._handshakes) <= 8
        finally:
            for sock in hanging:
                sock.close()


async def test_a_handshake_that_does_not_come_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_S", 0.2)
    async with pair() as herd:
        reader, writer = await asyncio.open_connection("127.0.0.1", herd.port)
        async with asyncio.timeout(LIMIT_S):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()


async def test_the_id_of_a_node_is_read_from_its_certificate_where_only_its_address_is_known() -> None:
    async with pair() as herd:
        context = herd.authority.member(ALPHA).client()
        context.check_hostname = False
        assert await who_answers(herd.address, context, herd.authority.caller_of) == BETA
        other = Authority().member(ALPHA).client()
        other.check_hostname = False
        with pytest.raises(HerdError) as caught:
            await who_answers(herd.address, other, herd.authority.caller_of)
        assert reason_of(caught.value) == "another_herd"


async def test_a_node_that_has_the_address_of_another_is_not_taken_for_it() -> None:
    async with pair() as herd:
        assert await herd.beta.exchange(state_of(ALPHA)) == state_of(BETA)  # with a connection that is kept
        with pytest.raises(HerdError) as caught:
            await herd.peers.peer(GAMMA, [herd.address]).exchange(state_of(ALPHA))
        assert reason_of(caught.value) == "name"
        assert len(herd.api.calls) == 1


# ── members that were put out ──


async def test_a_revoked_node_is_refused_over_a_connection_that_is_kept() -> None:
    async with pair() as herd:
        await herd.beta.exchange(state_of(ALPHA))
        async with dialled(herd, herd.authority.member(ALPHA)) as (reader, writer):
            herd.authority.revoked.add(ALPHA)
            writer.write(head("GET", "/stats"))
            assert await status_of(reader) == 401
            async with asyncio.timeout(LIMIT_S):
                assert b"connection: close" in (await reader.read()).lower()
        with pytest.raises(HerdError):
            await herd.beta.exchange(state_of(ALPHA))
        assert len(herd.api.calls) == 1


async def test_a_revoked_node_loses_the_streams_that_are_open() -> None:
    async with pair() as herd:
        herd.api.script = [herd.api.script[0], 600.0]
        lines = herd.beta.follow(job_id_of(ALPHA), 1)
        await anext(lines)
        herd.authority.revoked.add(ALPHA)
        with pytest.raises(HerdError) as caught:
            await all_of(lines)
        assert caught.value.info.code == ErrorCode.NODE_LOST
        await until(lambda: herd.api.closed == 1, "the stream ended at its source")


async def test_a_certificate_that_runs_out_ends_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair() as herd:
        await herd.beta.exchange(state_of(ALPHA))
        assert len(herd.listener.server_state.connections) == 1
        monkeypatch.setattr(time, "time", lambda: 4e9)
        await until(lambda: not herd.listener.server_state.connections, "the kept connection is cut")


# ── members that claim what is not theirs ──


async def test_a_node_tells_its_own_state_only() -> None:
    async with pair() as herd:
        with pytest.raises(HerdError, match="its own state only") as caught:
            await herd.beta.exchange(state_of(GAMMA))
        assert caught.value.info.code == ErrorCode.FORBIDDEN
        assert herd.api.calls == []


async def test_a_node_orders_and_asks_about_its_own_attempts_only() -> None:
    async with pair() as herd:
        theirs = job_id_of(GAMMA)
        for question in (
            herd.beta.submit(order_of(GAMMA)),
            herd.beta.cancel(theirs, 1),
            herd.beta.take_back(theirs, 1),
            all_of(herd.beta.follow(theirs, 1)),
        ):
            with pytest.raises(HerdError) as caught:
                await question
            assert caught.value.info.code == ErrorCode.FORBIDDEN
        assert herd.api.calls == []


async def test_names_with_paths_in_them_reach_nobody() -> None:
    async with pair() as herd, dialled(herd, herd.authority.member(ALPHA)) as (reader, writer):
        writer.write(
            head("GET", "/blobs/..%2f..%2fetc%2fpasswd")
            + head("GET", "/blobs/" + "a" * 63)
            + head("GET", "/images/..%2fx")
            + head("GET", "/jobs/job-..%2fx")
            + head("GET", f"/jobs/{job_id_of(ALPHA)}/events?attempt=1e9")
            + head("GET", f"/jobs/{job_id_of(ALPHA)}/events?attempt=-1")
            + head("DELETE", f"/jobs/{job_id_of(ALPHA)}?attempt=99999999999999999999")
        )
        assert await status_of(reader) in (400, 404)
    assert herd.api.calls == []


# ── what may be sent ──


async def test_another_major_version_is_refused_and_told_to_this_node_too() -> None:
    async with pair() as herd, dialled(herd, herd.authority.member(ALPHA)) as (reader, writer):
        writer.write(head("GET", "/stats").replace(wire.VERSION.encode(), b"2.0"))
        assert await status_of(reader) == 403
        async with asyncio.timeout(LIMIT_S):
            answer = await reader.read()
        assert wire.VERSION_HEADER.encode() + b": " + wire.VERSION.encode() in answer
        assert b"Update herd-mcp on this node" in answer
        assert [(caller, error.info.details["wire"]) for caller, error in herd.refused] == [(ALPHA, [2, 0])]
        assert herd.api.calls == []


async def test_a_node_of_another_major_version_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair() as herd:
        monkeypatch.setattr(wire, "VERSION", "2.3")  # what both sides of this process write from now on
        with pytest.raises(HerdError, match="one speaks version 2") as caught:
            await herd.beta.exchange(state_of(ALPHA))
        assert reason_of(caught.value) == "wire"


LONG = b"x" * 100


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (head("POST", "/state", f"content-length: {wire.STATE_BYTES + 1}"), 413),
        (head("POST", "/jobs", f"content-length: {wire.ORDER_BYTES + 1}"), 413),
        (head("POST", "/jobs", "content-length: 100000000") + LONG, 413),
        (head("GET", "/stats", "content-length: 100000000") + LONG, 413),
        (head("GET", "/stats", "transfer-encoding: chunked") + b"64\r\n" + LONG, 413),
        (head("DELETE", f"/jobs/{job_id_of(ALPHA)}", "content-length: 100") + LONG, 413),
        (head("POST", f"/jobs/{job_id_of(ALPHA)}/take-back?attempt=1", "content-length: 100") + LONG, 413),
        (head("POST", "/state", "transfer-encoding: chunked") + (b"fff0\r\n" + b"x" * 0xFFF0 + b"\r\n") * 2, 413),
        (head("POST", "/state", "content-length: 100") + LONG, 400),
        (head("POST", "/jobs", "content-length: 100") + LONG, 400),
        (head("POST", "/jobs", "content-length: 2") + b"[]", 400),
        (head("GET", "/jobs", "content-length: 0"), 405),
        (head("GET", "/nothing"), 404),
        (head("GET", "/blobs/" + "ab" * 32, "range: bytes=0-1,2-3"), 400),
    ],
    ids=range(14),
)
async def test_what_is_too_long_or_no_message_is_refused_at_once(request_: bytes, status: int) -> None:
    async with pair() as herd, dialled(herd, herd.authority.member(ALPHA)) as (reader, writer):
        writer.write(request_)
        assert await status_of(reader) == status
        assert herd.api.calls == []


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "STATE_BODY_S", 0.2)
    async with pair() as herd, dialled(herd, herd.authority.member(ALPHA)) as (reader, writer):
        writer.write(head("POST", "/state", "content-length: 100") + b"x")
        assert await status_of(reader) == 400
        assert b"did not come within" in await reader.read()


async def test_what_all_bodies_together_hold_is_bounded_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "HELD_BYTES", 1000)
    big = zlib.compress(bytes(range(256)) * 100, 0)[:2000]
    async with pair() as herd:
        async with dialled(herd, herd.authority.member(ALPHA)) as (reader, writer):
            writer.write(head("POST", "/state", f"content-length: {len(big)}") + big)
            assert await status_of(reader) == 503
        assert await herd.beta.exchange(state_of(ALPHA)) == state_of(BETA)


async def test_idle_connections_do_not_hold_the_end() -> None:
    async with pair() as herd:
        await herd.beta.exchange(state_of(ALPHA))
        async with dialled(herd, herd.authority.member(GAMMA)):
            began = asyncio.get_running_loop().time()
            herd.listener.should_exit = True
            await until(lambda: not herd.listener.server_state.connections, "all are closed")
            assert asyncio.get_running_loop().time() - began < listener.GRACE_S


async def test_a_connection_ends_when_the_system_finds_the_other_side_silent() -> None:
    from herd_mcp.fleet.silence import socket_options

    assert socket_options(1.5, "darwin") == [(socket.IPPROTO_TCP, 0x80, 2)]
    assert socket_options(1.5, "other") == []
    with socket.socket() as sock:
        for option in socket_options(1.5):
            sock.setsockopt(*option)
            assert sock.getsockopt(*option[:2]) == option[2]
    async with pair() as herd:
        await herd.beta.exchange(state_of(ALPHA))
        (connection,) = herd.listener.server_state.connections
        for option in socket_options(wire.BEATS_MISSED * wire.beat_s(LEASE_S)):
            theirs = connection.transport.get_extra_info("socket")
            assert theirs.getsockopt(*option[:2]) == option[2]
