"""Inviting and joining over real sockets, and strangers at the port of an invite."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from herd_mcp.clock import steady_s
from herd_mcp.fleet import code as codes
from herd_mcp.fleet import invite as inviting
from herd_mcp.fleet.code import Code
from herd_mcp.fleet.grant import MAX_MEMBERS, Grant, Known
from herd_mcp.fleet.invite import Ask, Invite, objection
from herd_mcp.fleet.join import join
from herd_mcp.fleet.trust import Trust
from herd_mcp.jobs import ErrorCode, HerdError
from tests.conftest import until
from tests.fleet.herds import DAY_S, A, B, C, listening, member

ENDED = (ConnectionError, EOFError, ssl.SSLError)


@contextlib.asynccontextmanager
async def invited(trust: Trust, **options: Any) -> AsyncIterator[tuple[Invite, Code]]:
    """An open invite, and what its code says."""
    invite = Invite(trust, lambda: Known(name="alpha", addresses=("127.0.0.1:1",)), **options)
    await invite.open("127.0.0.1")
    try:
        yield invite, codes.read(invite.code)
    finally:
        await invite.close()


async def joined(folder: Path, node_id: str, code: Code) -> Trust:
    """A node that joins by a code."""
    trust = Trust.open(folder / node_id, node_id)

    async def adopt(grant: Grant) -> tuple[str, ...]:
        trust.adopt(grant)
        return ("127.0.0.1:2",)

    await join(code, node_id, "beta", adopt)
    return trust


async def refusal(folder: Path, code: Code, node_id: str = B) -> ErrorCode:
    with pytest.raises(HerdError) as caught:
        await joined(folder, node_id, code)
    assert caught.value.info.hint
    assert code.secret.hex() not in str(caught.value)
    assert not Trust.open(folder / node_id, node_id).has_herd
    return caught.value.info.code


def is_now(invite: Invite, state: str) -> Callable[[], bool]:
    return lambda: invite.invitation.state == state


async def test_who_joins_is_a_member_and_both_know_where_the_other_is(tmp_path: Path) -> None:
    one = member(tmp_path, A)
    one.remember(C, "gamma", ["10.0.0.3:11436"])
    one.revoke(["dddddddddd"])
    async with invited(one) as (invite, code):
        assert code.addresses == ("127.0.0.1",)
        other = await joined(tmp_path, B, code)
        await until(is_now(invite, "joined"), "the invite knows who joined")
        assert (invite.invitation.node_id, invite.invitation.name) == (B, "beta")
    assert other.herd_id == one.herd_id
    assert other.prefix_key == one.prefix_key
    assert other.revoked == one.revoked
    assert one.known[B] == Known(name="beta", addresses=("127.0.0.1:2",))
    assert other.known == {A: Known(name="alpha", addresses=("127.0.0.1:1",)), C: one.known[C]}
    async with listening(one) as listener, listener.line(other.client_context()) as line:
        assert await line.ask() == B


async def test_a_code_lets_one_in_and_no_second(tmp_path: Path) -> None:
    async with invited(member(tmp_path, A)) as (_, code):
        outcomes = await asyncio.gather(*(joined(tmp_path, one, code) for one in (B, C)), return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["HerdError", "Trust"]
        assert await refusal(tmp_path, code, "dddddddddd") == ErrorCode.NO_NODE
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", code.port)


async def test_of_two_that_ask_in_the_same_moment_one_gets_the_keys(tmp_path: Path) -> None:
    async with invited(member(tmp_path, A)) as (invite, code):
        _, writer = await asyncio.open_connection("127.0.0.1", code.port)
        ask = Ask(secret=code.secret.hex(), node_id=B, name="beta", now=time.time())
        answers = [invite._answer(ask.model_copy(update={"node_id": one}), writer) for one in (B, C)]
        assert [answer.grant is not None for answer in answers] == [True, False]
        assert answers[1].error == inviting.REFUSED
        writer.transport.abort()


async def test_a_code_is_good_for_nothing_when_its_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = member(tmp_path, A)
    async with invited(one, valid_s=0.05) as (invite, code):
        await until(is_now(invite, "expired"), "the invite ends by itself")
        assert await refusal(tmp_path, code) == ErrorCode.NO_NODE
    async with invited(one) as (invite, code):  # a Mac that slept: the loop's timer has not come yet
        late = steady_s() + 601
        monkeypatch.setattr("herd_mcp.fleet.invite.steady_s", lambda: late)
        assert await refusal(tmp_path, code) == ErrorCode.UNAUTHORIZED


async def test_an_invite_that_is_taken_back_lets_nobody_in(tmp_path: Path) -> None:
    async with invited(member(tmp_path, A)) as (invite, code):
        await invite.close()
        assert invite.invitation.state == "closed"
        assert await refusal(tmp_path, code) == ErrorCode.NO_NODE


async def test_five_wrong_secrets_close_the_invite(tmp_path: Path) -> None:
    async with invited(member(tmp_path, A)) as (invite, code):
        for number in range(inviting.MAX_TRIES):
            assert invite.invitation.wrong_tries == number
            assert await refusal(tmp_path, replace(code, secret=bytes(10))) == ErrorCode.UNAUTHORIZED
        assert invite.invitation.state == "tries"
        assert await refusal(tmp_path, code) == ErrorCode.NO_NODE


async def test_four_wrong_secrets_do_not(tmp_path: Path) -> None:
    async with invited(member(tmp_path, A)) as (_, code):
        for _ in range(inviting.MAX_TRIES - 1):
            assert await refusal(tmp_path, replace(code, secret=bytes(10))) == ErrorCode.UNAUTHORIZED
        assert (await joined(tmp_path, B, code)).has_herd


async def test_the_secret_is_told_to_nobody_but_who_made_the_code(tmp_path: Path) -> None:
    """Somebody in between answers at the address, with an authority of its own."""
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(*ENDED):
            heard.append(await reader.read(1))
        writer.close()

    impostor = member(tmp_path, C)
    server = await asyncio.start_server(hear, "127.0.0.1", 0, ssl=impostor.invite_context())
    async with invited(member(tmp_path, A)) as (invite, code):
        elsewhere = replace(code, port=server.sockets[0].getsockname()[1])
        assert await refusal(tmp_path, elsewhere) == ErrorCode.UNAUTHORIZED
        await until(lambda: bool(heard), "the impostor sees the end of the connection")
        assert heard == [b""]
        assert invite.invitation.state == "open"
    server.close()


async def test_an_address_of_the_code_where_something_else_is_does_not_keep_out(tmp_path: Path) -> None:
    async with invited(member(tmp_path, A)) as (_, code):
        assert (await joined(tmp_path, B, replace(code, addresses=("127.0.0.2", "::1", "127.0.0.1")))).has_herd


async def test_one_that_was_given_the_keys_and_does_not_join_is_told_of(tmp_path: Path) -> None:
    async def fail(grant: Grant) -> tuple[str, ...]:
        raise HerdError(ErrorCode.DISK, "The disk is full.")

    async with invited(member(tmp_path, A)) as (invite, code):
        with pytest.raises(HerdError, match="full"):
            await join(code, B, "beta", fail)
        await until(is_now(invite, "unconfirmed"), "the invite knows that it was not confirmed")
        assert invite.invitation.name == "beta"
        assert await refusal(tmp_path, code) == ErrorCode.NO_NODE


ASK = Ask(secret="", node_id=B, name="beta", now=0)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (ASK, ""),
        (ASK.model_copy(update={"node_id": A}), "is in the herd now"),
        (ASK.model_copy(update={"node_id": "eeeeeeeeee"}), "is in the herd now"),
        (ASK.model_copy(update={"node_id": C}), "for good"),
        (ASK.model_copy(update={"now": 2.9 * DAY_S}), ""),
        (ASK.model_copy(update={"now": 3.1 * DAY_S}), "3 days apart"),
    ],
)
def test_a_mac_that_cannot_be_a_member_is_told_why(tmp_path: Path, ask: Ask, words: str) -> None:
    trust = member(tmp_path, A)
    trust.remember("eeeeeeeeee", "echo", [])
    trust.revoke([C])
    found = objection(ask, trust, frozenset({"eeeeeeeeee"}), 0)
    assert bool(found) == bool(words)
    if found:
        assert words in found.info.message
        assert found.info.hint


def test_a_full_herd_takes_back_its_own_and_no_other(tmp_path: Path) -> None:
    trust = member(tmp_path, A)
    for number in range(MAX_MEMBERS - 2):
        trust.remember(f"{number:010x}", "one", [])
    assert objection(ASK, trust, frozenset(), 0) is None
    trust.remember("eeeeeeeeee", "last", [])
    found = objection(ASK, trust, frozenset(), 0)
    assert found
    assert "full" in found.info.message
    assert objection(ASK.model_copy(update={"node_id": "eeeeeeeeee"}), trust, frozenset(), 0) is None


async def test_what_the_inviting_mac_objects_to_is_told_and_does_not_use_up_the_code(tmp_path: Path) -> None:
    async with invited(member(tmp_path, A)) as (_, code):
        assert await refusal(tmp_path / "copy", code, A) == ErrorCode.FORBIDDEN
        assert (await joined(tmp_path, B, code)).has_herd


# ── strangers ──


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


GARBAGE = [b"\x00" * 5000, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 5000, b"\n"]


async def test_garbage_at_the_port_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inviting, "CONNECTION_S", 1.0)

    async def throw(noise: bytes, context: ssl.SSLContext | None) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", code.port, ssl=context)
        writer.write(noise)
        async with asyncio.timeout(60):
            with contextlib.suppress(*ENDED):
                assert b"grant" not in await reader.read()
        writer.transport.abort()

    async with invited(member(tmp_path, A)) as (invite, code):
        await asyncio.gather(*(throw(noise, context) for noise in GARBAGE for context in (None, trusting())))
        assert invite.invitation.wrong_tries == 0
        assert (await joined(tmp_path, B, code)).has_herd
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


@pytest.mark.parametrize("tls", [False, True])
async def test_a_body_of_100_mb_is_not_taken(tmp_path: Path, tls: bool) -> None:
    async with invited(member(tmp_path, A)) as (_, code):
        _, writer = await asyncio.open_connection("127.0.0.1", code.port, ssl=trusting() if tls else None)
        sent = 0
        with contextlib.suppress(*ENDED):
            async with asyncio.timeout(60):
                while sent < 100_000_000:
                    writer.write(b"x" * 65_536)
                    await writer.drain()
                    sent += 65_536
        writer.transport.abort()
        assert sent < 20_000_000  # what the system's own buffers of a socket hold
        assert (await joined(tmp_path, B, code)).has_herd


async def test_connections_that_say_nothing_keep_nobody_out_and_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = member(tmp_path, A)
    monkeypatch.setattr(inviting, "CONNECTION_S", 600.0)
    async with invited(one) as (invite, code):
        held = [await asyncio.open_connection("127.0.0.1", code.port) for _ in range(50)]
        for _, writer in held[::2]:
            writer.write(b"\x16\x03")  # the beginning of TLS
        await until(lambda: len(invite._connections) <= inviting.MAX_CONNECTIONS, "there are few connections")
        assert (await joined(tmp_path, B, code)).has_herd
        await until(lambda: not invite._connections, "all are ended with the invite")
        for _, writer in held:
            writer.transport.abort()
    monkeypatch.setattr(inviting, "CONNECTION_S", 0.2)
    async with invited(one) as (invite, code):
        for context in (None, trusting()):
            reader, writer = await asyncio.open_connection("127.0.0.1", code.port, ssl=context)
            async with asyncio.timeout(30):
                with contextlib.suppress(*ENDED):
                    assert await reader.read() == b""
            writer.transport.abort()
        assert invite.invitation.state == "open"


async def test_what_joins_is_checked_before_it_is_remembered(tmp_path: Path) -> None:
    async with invited(member(tmp_path, A)) as (invite, code):
        for wrong in ({"node_id": "../../etc"}, {"name": "../x"}, {"now": 1e30}, {"now": float("nan")}):
            ask = {"secret": code.secret.hex(), "node_id": B, "name": "beta", "now": time.time(), **wrong}
            reader, writer = await asyncio.open_connection("127.0.0.1", code.port, ssl=trusting())
            writer.write(str(ask).replace("'", '"').replace("nan", "NaN").encode() + b"\n")
            async with asyncio.timeout(60):
                with contextlib.suppress(*ENDED):
                    assert await reader.read() == b""
            writer.transport.abort()
        assert invite.invitation.state == "open"
