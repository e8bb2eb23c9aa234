"""Fleets in one process: a loop whose time is virtual, a network in memory that can be cut and slowed, and states."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar, cast

from herd_mcp.fleet.fleet import Fleet
from herd_mcp.fleet.found import Identify
from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.orders import PeerApi
from herd_mcp.settings import Settings, load_settings
from herd_mcp.state import MemoryState, NodeState

T = TypeVar("T")
GIB = 1024**3


class _Jump(selectors.SelectSelector):
    """Nothing is waited for: time goes on by as much."""

    ahead_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if timeout is None and not ready:
            raise RuntimeError("nothing will ever happen any more")
        if not ready:
            self.ahead_s += timeout or 0.0
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.ahead_s


def virtually(main: Coroutine[Any, Any, T], limit_s: float = 100_000.0) -> T:
    """Run with virtual time, at most so much of it."""

    async def bounded() -> T:
        async with asyncio.timeout(limit_s):
            return await main

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(bounded())


def node_id(number: int) -> str:
    return f"{number:010x}"


def state_of(number: int, **update: Any) -> NodeState:
    base = NodeState(
        node_id=node_id(number),
        name=f"mac-{number}",
        version="0.1.0",
        status="online",
        platform="macOS 26.1",
        chip="Apple M4 Pro",
        cpu_cores=14,
        gpu_cores=20,
        memory=MemoryState(total_bytes=48 * GIB, available_bytes=30 * GIB, budget_bytes=36 * GIB, reserved_bytes=0),
        started_at=1_790_000_000.0,
    )
    return base.model_copy(update=update)


@dataclass
class OneKnown:
    name: str
    addresses: tuple[str, ...]


@dataclass
class MemoryTrust:
    """Who is of the herd, kept in memory."""

    herd_id: str = "ab" * 32
    revoked: frozenset[str] = frozenset()
    known: dict[str, OneKnown] = field(default_factory=dict)
    writes: int = 0

    def revoke(self, node_ids: Iterable[str], /) -> bool:
        before, self.revoked = self.revoked, self.revoked | set(node_ids)
        for gone in self.revoked:
            self.known.pop(gone, None)
        return self.revoked != before

    def remember(self, node_id: str, name: str, addresses: Iterable[str], /) -> None:
        self.known[node_id] = OneKnown(name, tuple(addresses))
        self.writes += 1


class Way:
    """To one node through the network in memory."""

    def __init__(self, net: Net, asker: str, target: str, addresses: tuple[str, ...]) -> None:
        self._net, self._asker, self._target, self._addresses = net, asker, target, addresses

    async def exchange(self, state: NodeState) -> NodeState:
        net = self._net
        net.calls.append((self._asker, self._target))
        net.open += 1
        net.most_open = max(net.most_open, net.open)
        try:
            await asyncio.sleep(net.delay_s)
            if net.silent(self._asker, self._target):
                await asyncio.sleep(3600)
            for address in self._addresses[:1]:
                mac = net.at.get(address)
                if mac and mac.fleet.node_id == self._target and not net.cut(self._asker, self._target):
                    answer = mac.fleet.heard(self._asker, state)
                    net.bytes += net.size(state) + net.size(answer)
                    await asyncio.sleep(net.delay_s)
                    return answer
            raise HerdError(ErrorCode.NODE_LOST, "Connection refused.")
        finally:
            net.open -= 1


@dataclass
class Mac:
    """A node's fleet with what it would get from the rest of the node."""

    fleet: Fleet
    trust: MemoryTrust
    state: NodeState
    address: str
    changes: int = 0
    steady_s: float = 0.0


class Net:
    """Macs by address. `cut` and `silent` say which pairs (asker, target) do not reach each other."""

    def __init__(self, delay_s: float = 0.001) -> None:
        self.delay_s = delay_s
        self.at: dict[str, Mac] = {}
        self.calls: list[tuple[str, str]] = []
        self.open = self.most_open = self.bytes = 0
        self.cut: Callable[[str, str], bool] = lambda asker, target: False
        self.silent: Callable[[str, str], bool] = lambda asker, target: False
        self.size: Callable[[NodeState], int] = lambda state: 0

    async def mac(
        self,
        number: int,
        *,
        knows: Iterable[int] = (),
        incarnation: int = 1,
        trust: MemoryTrust | None = None,
        settings: Settings | None = None,
        identify: Identify | None = None,
        **update: Any,
    ) -> Mac:
        """A running fleet of node `number`, at 10.0.0.`number`."""
        address = f"10.0.0.{number}:11436"
        trust = trust or MemoryTrust()
        for other in knows:
            trust.known[node_id(other)] = OneKnown(f"mac-{other}", (f"10.0.0.{other}:11436",))
        loop = asyncio.get_running_loop()
        box: list[Mac] = []

        def changed() -> None:
            if box:
                box[0].changes += 1

        first = state_of(number, **update)
        fleet = Fleet(
            settings or load_settings(bonjour=False),
            trust,
            lambda: box[0].state if box else first,
            lambda target, addresses: cast(PeerApi, Way(self, node_id(number), target, addresses)),
            changed,
            identify=identify,
            incarnation=incarnation,
            steady=lambda: loop.time() + (box[0].steady_s if box else 0.0),
            chance=Random(number),
        )
        mac = Mac(fleet, trust, first, address)
        box.append(mac)
        self.at[address] = mac
        await fleet.start(lambda: (address,))
        return mac

    async def herd(self, count: int) -> list[Mac]:
        """So many that know each other, after they have met."""
        macs = [await self.mac(n, knows=[m for m in range(1, count + 1) if m != n]) for n in range(1, count + 1)]
        await asyncio.sleep(6)
        return macs

    async def kill(self, mac: Mac) -> None:
        """End it without a word."""
        self.at.pop(mac.address, None)
        tasks = [*mac.fleet._tasks, *(link.task for link in mac.fleet._links if link.task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def statuses(mac: Mac) -> dict[str, str]:
    return {view.node_id: view.status for view in mac.fleet.views()}
