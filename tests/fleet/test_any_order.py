"""Whole herds through losses, cuts, deaths, new starts and sleeps in any order; afterwards all is well again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.parts.mesh import Mac, MemoryTrust, Net, node_id, state_of, statuses, virtually
from herd_mcp.fleet.fleet import CONTACT_S
from herd_mcp.fleet.membership import LONGEST_BACKOFF_S
from herd_mcp.fleet.trust import Trust
from herd_mcp.jobs import HerdError
from herd_mcp.settings import load_settings
from tests.fleet.herds import member

COUNT = 4
WAIT_S = LONGEST_BACKOFF_S + CONTACT_S + 6
"""After it everybody was called again, whatever was before."""

Step = st.tuples(
    st.sampled_from(["kill", "start", "cut", "silence", "mend", "sleep", "change", "lose", "stop"]),
    st.integers(0, COUNT - 1),
    st.integers(0, COUNT - 1),
    st.sampled_from([0.03, 1.0, 7.0, 40.0]),
)


class Chaos:
    def __init__(self, seed: int) -> None:
        self.net = Net(delay_s=0.01)
        self.macs: list[Mac | None] = [None] * COUNT
        self.trusts = [MemoryTrust() for _ in range(COUNT)]
        self.starts = 0
        self.cuts: set[tuple[str, str]] = set()
        self.silent: set[tuple[str, str]] = set()
        self.loss = 0.0
        self.chance = Random(seed)
        self.net.cut = lambda asker, target: (asker, target) in self.cuts or self.chance.random() < self.loss
        self.net.silent = lambda asker, target: (asker, target) in self.silent

    async def start(self, n: int) -> None:
        if self.macs[n] is None:
            self.starts += 1
            knows = [m + 1 for m in range(COUNT) if m != n]
            self.macs[n] = await self.net.mac(n + 1, knows=knows, incarnation=self.starts, trust=self.trusts[n])

    async def step(self, kind: str, n: int, m: int) -> None:
        mac, pair = self.macs[n], (node_id(n + 1), node_id(m + 1))
        if kind == "start":
            await self.start(n)
        elif kind == "cut":
            self.cuts.add(pair)
        elif kind == "silence":
            self.silent.add(pair)
        elif kind == "mend":
            self.mend()
        elif kind == "lose":
            self.loss = 0.5
        elif mac and kind == "sleep":
            mac.steady_s += 100.0 * (m + 1)
        elif mac and kind == "change":
            mac.state = mac.state.model_copy(update={"queued": mac.state.queued + 1})
            mac.fleet.changed()
        elif mac and kind in ("kill", "stop"):
            self.macs[n] = None
            if kind == "stop":
                await mac.fleet.close()
            await self.net.kill(mac)

    def mend(self) -> None:
        self.cuts.clear()
        self.silent.clear()
        self.loss = 0.0

    def running(self) -> list[Mac]:
        return [mac for mac in self.macs if mac]


@given(st.lists(Step, max_size=25), st.integers(0, 99))
@settings(max_examples=25)
def test_in_any_order_nobody_is_seen_as_older_and_all_is_well_soon_after(
    steps: list[tuple[str, int, int, float]], seed: int
) -> None:
    async def main() -> None:
        chaos = Chaos(seed)
        newest: dict[tuple[str, int, str], tuple[int, int]] = {}
        for n in range(COUNT):
            await chaos.start(n)
        for kind, n, m, pause_s in steps:
            await chaos.step(kind, n, m)
            await asyncio.sleep(pause_s)
            for mac in chaos.running():
                for view in mac.fleet.views():
                    key = mac.fleet.node_id, id(mac), view.node_id
                    age = view.incarnation, view.revision
                    assert newest.get(key, age) <= age
                    newest[key] = age
                    # a change beside it may have been told since; the age is of the last report
                    assert view.status in ("degraded", "offline") or (view.heard_s or 0) < 15
        chaos.mend()
        for n in range(COUNT):
            await chaos.start(n)
        await asyncio.sleep(WAIT_S)
        for mac in chaos.running():
            assert set(statuses(mac).values()) == {"online"}
            queued = {view.node_id: view.queued for view in mac.fleet.views()}
            assert queued == {m.fleet.node_id: m.state.queued for m in chaos.running() if m is not mac}
        assert chaos.net.most_open <= COUNT * (COUNT - 1), "one call at a time from each to each"
        for mac in chaos.running():
            await chaos.net.kill(mac)

    virtually(main())


async def test_a_disk_that_takes_nothing_does_not_part_the_herd(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trust = member(tmp_path, node_id(1))
    trust.folder.rename(tmp_path / "elsewhere")
    one = await Net().mac(1, trust=cast(MemoryTrust, trust))
    gone = [node_id(9 + revision) for revision in range(20)]
    for revision in range(20):
        told = {"addresses": (f"a:{revision + 1}",), "revoked": tuple(gone[: revision + 1])}
        one.fleet.heard(node_id(2), state_of(2, revision=revision, **told))
        with pytest.raises(HerdError, match="cannot be written"):
            await trust.saved()
    assert statuses(one) == {node_id(2): "online"}
    assert trust.revoked == set(gone)
    (tmp_path / "elsewhere").rename(trust.folder)
    await trust.saved()
    again = Trust.open(trust.folder, node_id(1))
    assert (again.revoked, again.known) == (trust.revoked, trust.known)
    await Net().kill(one)
    assert len([record for record in caplog.records if "not kept" in record.message]) == 1


def test_a_node_that_tells_all_the_time_is_called_too_so_that_it_is_known_whether_it_is_reached() -> None:
    async def main() -> None:
        net = Net()
        one, two = await net.herd(2)
        net.cut = lambda asker, target: asker == node_id(1)
        for _ in range(400):
            two.state = two.state.model_copy(update={"queued": two.state.queued + 1})
            two.fleet.changed()
            await asyncio.sleep(0.1)
        assert statuses(one) == {node_id(2): "degraded"}

    virtually(main())


def test_one_list_of_addresses_for_all_macs_may_name_each_of_them() -> None:
    async def main() -> None:
        net = Net()
        asked: list[str] = []

        async def identify(address: str) -> str:
            asked.append(address)
            return net.at[address].fleet.node_id

        peers = ("10.0.0.1:11436", "10.0.0.2:11436", "../etc:99999")
        both = [await net.mac(n, settings=load_settings(bonjour=False, peers=peers), identify=identify) for n in (1, 2)]
        await asyncio.sleep(5)
        assert [statuses(mac) for mac in both] == [{node_id(2): "online"}, {node_id(1): "online"}]
        assert set(asked) == {"10.0.0.1:11436", "10.0.0.2:11436"}
        assert len(asked) == 2
        assert [stranger.who for stranger in both[0].fleet.refused] == ["../etc:99999"]

    virtually(main())


@pytest.mark.parametrize("lease_s", [1.0, 15.0])
def test_two_that_are_well_are_never_silent_for_as_long_as_a_lease_however_short(lease_s: float) -> None:
    async def main() -> None:
        net = Net()
        settings = load_settings(bonjour=False, lease_s=lease_s)
        one, two = [await net.mac(n, knows=[3 - n], settings=settings) for n in (1, 2)]
        await asyncio.sleep(5)
        for _ in range(1000):
            await asyncio.sleep(0.1)
            assert one.fleet.silent_s(node_id(2)) < lease_s / 2
            assert two.fleet.silent_s(node_id(1)) < lease_s / 2
        assert one.fleet.silent_s(node_id(3)) == float("inf")

    virtually(main())
