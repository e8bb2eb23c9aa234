"""A node that is killed, stopped, or has several addresses: what its askers hear, and when."""

from __future__ import annotations

import asyncio
import errno
import signal
import ssl
from pathlib import Path

import httpx
import pytest

from herd_mcp.fleet import dial, trouble
from herd_mcp.fleet.peers import HttpPeer
from herd_mcp.fleet.places import merged
from herd_mcp.jobs import ErrorCode, HerdError

from .certificates import Authority
from .remote import remote
from .scripted import ALPHA, BETA, LEASE_S, all_of, job_id_of, pair, reason_of, state_of

JOB = job_id_of(ALPHA)


async def failure_of(lines: object) -> HerdError:
    with pytest.raises(HerdError) as caught:
        await all_of(lines)  # type: ignore[arg-type]
    assert caught.value.info.code == ErrorCode.NODE_LOST
    assert caught.value.info.retryable
    return caught.value


async def test_a_node_that_is_stopped_and_killed_is_lost_and_its_streams_too(tmp_path: Path) -> None:
    async with remote(tmp_path) as other:
        lines = other.beta.follow(JOB, 1)
        seq = (await anext(lines)).seq
        other.send(signal.SIGSTOP)
        try:
            assert reason_of(await failure_of(lines)) == "silent"
        finally:
            other.send(signal.SIGCONT)
        await other.closed()
        lines = other.beta.follow(JOB, 1, seq)
        assert (await anext(lines)).seq == seq + 1, "it goes on when the node is back"
        other.send(signal.SIGKILL)
        assert reason_of(await failure_of(lines)) == "broken"
        await other.process.wait()
        with pytest.raises(HerdError, match="the connection was refused") as caught:
            await other.beta.exchange(state_of(ALPHA))
        assert reason_of(caught.value) == "gone"


async def test_of_several_addresses_the_one_that_works_is_found_and_kept() -> None:
    async with pair() as herd:
        dead = ["127.0.0.1:1", "[::1]:1", "nonsense", "../x:1", "a:99999", "127.0.0.1:1"]
        beta = herd.peers.peer(BETA, [*dead, herd.address])
        assert await beta.exchange(state_of(ALPHA)) == state_of(BETA)
        assert beta._addresses[0] == herd.address
        assert herd.peers.peer(BETA, [*dead, herd.address]) is beta
        assert beta._addresses[0] == herd.address, "the same addresses again do not change what worked"
        herd.peers.peer(BETA, ["127.0.0.1:1"])
        with pytest.raises(HerdError):
            await beta.exchange(state_of(ALPHA))


async def test_a_node_that_moved_is_found_where_another_answers_at_its_old_address() -> None:
    async with pair() as herd, pair() as stranger:
        beta = herd.peers.peer(BETA, [stranger.address, herd.address])
        assert await beta.exchange(state_of(ALPHA)) == state_of(BETA)
        assert stranger.api.calls == []
        await herd.peers.forget(BETA)
        lonely = herd.peers.peer(BETA, ["127.0.0.1:1", stranger.address])
        with pytest.raises(HerdError) as caught:
            await lonely.exchange(state_of(ALPHA))
        assert reason_of(caught.value) == "another_herd", "the reason that says most"


async def test_a_node_without_addresses_is_not_reached() -> None:
    beta = HttpPeer(BETA, Authority().member(ALPHA).client(), LEASE_S)
    with pytest.raises(HerdError, match="no address that is known"):
        await beta.exchange(state_of(ALPHA))
    await beta.aclose()


def connect_error(number: int) -> httpx.ConnectError:
    error = httpx.ConnectError("All connection attempts failed")
    error.__cause__ = OSError(number, "why")
    return error


@pytest.mark.parametrize(
    ("number", "address", "platform", "code", "reason"),
    [
        (errno.EHOSTUNREACH, "192.168.1.5:11436", "darwin", ErrorCode.LOCAL_NETWORK_DENIED, "local_network"),
        (errno.EHOSTUNREACH, "[fd00::1]:11436", "darwin", ErrorCode.LOCAL_NETWORK_DENIED, "local_network"),
        (errno.EHOSTUNREACH, "studio.local:11436", "darwin", ErrorCode.LOCAL_NETWORK_DENIED, "local_network"),
        (errno.EHOSTUNREACH, "8.8.8.8:11436", "darwin", ErrorCode.NODE_LOST, "unreachable"),
        (errno.EHOSTUNREACH, "192.168.1.5:11436", "linux", ErrorCode.NODE_LOST, "unreachable"),
        (errno.ENETUNREACH, "192.168.1.5:11436", "darwin", ErrorCode.NODE_LOST, "unreachable"),
        (errno.ECONNREFUSED, "192.168.1.5:11436", "darwin", ErrorCode.NODE_LOST, "gone"),
        (errno.ECONNRESET, "192.168.1.5:11436", "linux", ErrorCode.NODE_LOST, "broken"),
    ],
)
def test_what_the_system_says_becomes_a_reason(
    number: int, address: str, platform: str, code: ErrorCode, reason: str
) -> None:
    error = trouble.of_failure(connect_error(number), address, platform)
    assert (error.info.code, reason_of(error), error.info.retryable) == (code, reason, True)
    assert address in error.info.message
    if code == ErrorCode.LOCAL_NETWORK_DENIED:
        assert "Local Network" in error.info.hint


@pytest.mark.parametrize(
    ("number", "reason"), [(9, "expired"), (10, "expired"), (19, "another_herd"), (62, "name"), (23, "tls")]
)
def test_what_tls_says_of_a_certificate_becomes_a_reason(number: int, reason: str) -> None:
    behind = ssl.SSLCertVerificationError(1, "x")
    behind.verify_code, behind.verify_message = number, "x"
    error = httpx.ConnectError("x")
    error.__cause__ = behind
    assert reason_of(trouble.of_failure(error, "a:1")) == reason


def test_only_addresses_that_are_ones_are_dialled() -> None:
    fit = ("10.0.0.1:1", "[fe80::1]:65535", "[fe80::1%en0]:1", "studio.local:11436", "a:1")
    assert merged(fit, fit) == fit
    for wrong in (
        "a",
        "a:0",
        "a:65536",
        ":1",
        "a b:1",
        "a:1\r\nx: y",
        "a:1\n",
        "[fe80::1%en0/]:1",
        "u@a:1",
        "a/b:1",
        "-a:1",
        "a..b:1",
        "[x]:1",
        "::1:1",
        "a:１",
    ):
        assert merged([wrong]) == (), wrong


async def test_nobody_waits_for_who_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "CONNECT_S", 0.2)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    beta = HttpPeer(BETA, Authority().member(ALPHA).client(), LEASE_S)
    beta.reach_at([f"127.0.0.1:{port}"])
    with pytest.raises(HerdError, match="did not answer") as caught:
        await beta.exchange(state_of(ALPHA))
    assert reason_of(caught.value) == "unreachable"
    await beta.aclose()
    server.close()
    await server.wait_closed()
