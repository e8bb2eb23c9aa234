"""Fleets over real sockets of loopback in real time, with the simplest way there is between them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from benchmarks.parts.mesh import MemoryTrust, OneKnown, node_id, state_of
from herd_mcp.fleet.fleet import Fleet
from herd_mcp.fleet.places import parts_of
from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.orders import PeerApi
from herd_mcp.settings import load_settings
from herd_mcp.state import NodeState
from tests.conftest import until


class LineWay:
    """A connection per exchange; the caller's word is taken for who it is."""

    def __init__(self, asker: str, addresses: tuple[str, ...]) -> None:
        self._asker, self._addresses = asker, addresses

    async def exchange(self, state: NodeState) -> NodeState:
        place = parts_of(self._addresses[0])
        assert place
        try:
            reader, writer = await asyncio.open_connection(*place, limit=2**20)
            try:
                writer.write(self._asker.encode() + state.model_dump_json().encode() + b"\n")
                return NodeState.model_validate_json(await reader.readline())
            finally:
                writer.close()
        except (OSError, ValueError) as error:
            raise HerdError(ErrorCode.NODE_LOST, f"No connection ({error}).") from error


class RealMac:
    def __init__(self, number: int, **settings: Any) -> None:
        self.state = state_of(number)
        self.trust = MemoryTrust()
        self.address = ""
        self.changed_at = 0.0
        self._server: asyncio.Server | None = None
        self.fleet = Fleet(
            load_settings(**{"bonjour": False, "peer_bind": "127.0.0.1"} | settings),
            self.trust,
            lambda: self.state,
            lambda target, addresses: cast(PeerApi, LineWay(node_id(number), addresses)),
            self._changed,
        )

    def _changed(self) -> None:
        self.changed_at = time.monotonic()

    async def start(self, *knows: RealMac) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        for other in knows:
            self.trust.known[other.fleet.node_id] = OneKnown(other.fleet.name, (other.address,))
        await self.fleet.start(lambda: (self.address,))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, HerdError):
            line = await reader.readline()
            answer = self.fleet.heard(line[:10].decode(), NodeState.model_validate_json(line[10:]))
            writer.write(answer.model_dump_json().encode() + b"\n")
            await writer.drain()
        writer.close()

    def stop_listening(self) -> None:
        if self._server:
            self._server.close()

    async def close(self) -> None:
        await self.fleet.close()
        self.stop_listening()


@pytest.fixture
async def three() -> AsyncIterator[list[RealMac]]:
    macs = [RealMac(n) for n in (1, 2, 3)]
    for n, mac in enumerate(macs):
        await mac.start(*macs[:n])
    try:
        yield macs
    finally:
        for mac in macs:
            await mac.close()


def statuses(mac: RealMac) -> list[str]:
    return [view.status for view in mac.fleet.views()]


async def test_three_meet_and_a_change_is_known_everywhere_at_once(three: list[RealMac]) -> None:
    await until(lambda: all(statuses(mac) == ["online"] * 2 for mac in three), "all know all")
    for n in range(1, 4):
        three[0].state = three[0].state.model_copy(update={"queued": n})
        three[0].fleet.changed()
        await until(lambda n=n: all(mac.fleet.views()[0].queued == n for mac in three[1:]), "they know")  # type: ignore[misc]


async def test_a_node_that_leaves_says_so_and_one_that_is_gone_is_noticed(three: list[RealMac]) -> None:
    one, two, three_ = three
    await until(lambda: all(statuses(mac) == ["online"] * 2 for mac in three), "all know all")
    await three_.fleet.close("it left the herd")
    assert [view.reason for view in one.fleet.views()] == ["", "it left the herd"]
    two.stop_listening()
    one.fleet.ask(two.fleet.node_id)
    await until(lambda: statuses(one)[0] == "degraded", "the second try failed too")
    assert "No connection" in one.fleet.views()[0].reason


async def test_two_that_know_nothing_of_each_other_meet_by_bonjour_once_one_invites() -> None:
    # Multicast reaches every program of this machine, also other runs of this test: ids and a herd of its own.
    one, two = (RealMac(secrets.randbelow(16**10), bonjour=True) for _ in range(2))
    one.trust.herd_id = two.trust.herd_id = secrets.token_hex(8)
    try:
        await one.start()
        await two.start()
        await until(lambda: one.fleet._bonjour is not None and one.fleet._bonjour._browser is not None, "it looks")
    except pytest.fail.Exception:
        pytest.skip("NOT RUN: this machine allows no multicast")
    try:
        assert one.fleet._announced() is None, "a lone node is not announced"
        assert one.fleet._bonjour
        assert one.fleet._bonjour._told is None
        one.fleet.inviting = True
        await until(lambda: statuses(one) == statuses(two) == ["online"], "they know each other")
        assert two.fleet._announced() is not None
    finally:
        await one.close()
        await two.close()
