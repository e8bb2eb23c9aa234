"""One simulated Mac: the real node, owner, guests, fleet and placer on scripted engines, a disk in memory and the
simulated network. It may die and start again, sleep, be stopped, drain, and lie."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from herd_mcp.answers import Answers
from herd_mcp.changes import Changes
from herd_mcp.fleet.alone import Alone
from herd_mcp.fleet.fleet import Fleet
from herd_mcp.fleet.grant import Known
from herd_mcp.fleet.trust import Trust
from herd_mcp.jobs import Job, JobEvent
from herd_mcp.mesh import Mesh
from herd_mcp.node.awake import Awake
from herd_mcp.node.gallery import Gallery
from herd_mcp.node.node import Node
from herd_mcp.node.pressure import Reading
from herd_mcp.orders import PeerApi
from herd_mcp.owner.guests import Guests
from herd_mcp.owner.local import LocalRunner
from herd_mcp.owner.own import OwnJobs
from herd_mcp.owner.owner import Owner
from herd_mcp.settings import GIB, load_settings
from herd_mcp.state import NodeState, Power
from tests.fleet.sim.clock import Host, VirtualLoop
from tests.fleet.sim.disk import Disk, MemoryHistory
from tests.fleet.sim.engines import Gpu, Speed
from tests.fleet.sim.net import Network, SimPeer
from tests.fleet.sim.told import completed

PORT = 11436
TOTAL_BYTES = 16 * GIB


@dataclass
class SimTrust:
    """Who is of the herd, without keys."""

    node_id: str
    known: dict[str, Known]
    herd_id: str = "f" * 32
    has_herd: bool = True
    prefix_key: bytes = b"key of the herd"
    revoked: frozenset[str] = frozenset()
    remembered: list[str] = field(default_factory=list)
    on_revoked: object = None

    def renew_when_due(self) -> None: ...

    async def saved(self) -> None: ...

    def revoke(self, ids: object) -> bool:
        return False

    def remember(self, node_id: str, name: str, addresses: tuple[str, ...]) -> None:
        self.remembered.append(node_id)

    def as_trust(self) -> Trust:
        return cast("Trust", self)


class SimMesh(Mesh):
    """The real one, whose port and peers are the simulated network."""

    def attach(self, mac: Mac, incarnation: int) -> None:
        self._mac, self._incarnation = mac, incarnation
        self._rng = random.Random(mac.rng.random())

    def _make_fleet(self) -> Fleet:
        mac, peers = self._mac, dict[str, SimPeer]()

        def peer(node_id: str, addresses: tuple[str, ...]) -> PeerApi:
            return peers.setdefault(node_id, SimPeer(mac.net, mac, node_id))

        return Fleet(
            self._settings,
            self._trust,
            self._read_state,
            peer,
            self._herd_changed,
            incarnation=self._incarnation,
            steady=lambda: mac.loop.now,
            chance=random.Random(mac.rng.random()),
        )

    async def _open_port(self) -> Callable[[], tuple[str, ...]]:
        return lambda: (f"{self._settings.peer_bind}:{PORT}",)

    def _read_state(self) -> NodeState:
        mac = self._mac
        return completed(super()._read_state(), mac.node._state, mac.speed_told, mac.has, TOTAL_BYTES)


class Mac:
    """Up between `start` and `kill` or `stop`."""

    def __init__(
        self,
        loop: VirtualLoop,
        net: Network,
        number: int,
        folder: Path,
        models: Path,
        speed: Speed,
        *,
        has: frozenset[str],
        budget_bytes: int,
        lease_s: float,
        on_event: Callable[..., None],
    ) -> None:
        self.loop, self.net, self.speed, self.has = loop, net, speed, has
        self.name, self.node_id = f"mac-{number}", f"{number + 1:010x}"
        self.rng = random.Random(net.rng.random())
        self.disk = Disk(folder)
        self.gpu = Gpu(speed)
        self.speed_told = speed
        self.settings = load_settings(
            node_name=self.name,
            model_dirs=[models],
            hf_cache=folder / "hub",
            memory_budget_bytes=budget_bytes,
            bonjour=False,
            lease_s=lease_s,
            peer_bind=f"10.0.0.{number + 1}",
            image_model="painter",
            chat_model="talker",
            chat_batch=8,
            engine_stall_s=30,
            load_timeout_s=60,
            job_timeout_s=900,
        )
        self.net_delay_s = 0.0
        self.up = self.starting = False
        self.asleep = False
        self.powerless = False
        self.draining = False
        self.honest = True
        self.stands = True
        """Whether its clock stands still while it sleeps."""
        self.lie: Callable[[NodeState], NodeState] = lambda state: state
        self.starts = 0
        self._on_event = on_event

    @property
    def silent(self) -> bool:
        """Nothing that is sent to it is heard, or answered."""
        return self.asleep or self.powerless

    @property
    def listens(self) -> bool:
        return self.up

    def answers(self, caller_id: str) -> Answers:
        return self.mesh._answers(caller_id)

    # ── life ──

    async def start(self, others: list[Mac]) -> None:
        """A new start of the node, with what the last one left on the disk."""
        self.starts += 1
        self.powerless = self.draining = False
        self.host = Host(self.loop, f"{self.name}.{self.starts}")
        self.gpu.turn = type(self.gpu.turn)()
        self.net.notify()
        self.starting = True
        opening = self.host.spawn(self._open(others), "open")
        await asyncio.wait({opening})
        self.starting = False
        if not opening.cancelled():  # it was killed in the middle of it
            opening.result()

    async def _open(self, others: list[Mac]) -> None:
        host = self.host
        self.node = Node(
            self.settings,
            self.disk.folder,
            self.node_id,
            "sim",
            lambda _: Reading(TOTAL_BYTES, TOTAL_BYTES),
            Power,
            self.gpu.start,
        )
        self.node._awake = Awake([])  # no process is started here
        gallery = Gallery(self.disk.folder / "images")
        self.history = MemoryHistory(self.disk, lambda: host.dead, self._stored)
        local = LocalRunner(self.node)
        history, changes = self.history.as_history(), Changes()
        self.owner = Owner(self.node_id, Alone(local), history, gallery, changes, self.settings.chat_keep_s)
        self.own = OwnJobs(self.owner, history, gallery)
        known = {mac.node_id: Known(name=mac.name, addresses=(f"{mac.settings.peer_bind}:{PORT}",)) for mac in others}
        trust = SimTrust(self.node_id, known).as_trust()
        self.mesh = SimMesh(self.settings, trust, self.node, local, gallery, self.owner, self.own, changes)
        self.mesh.attach(self, round(self.loop.now * 1000))
        self.node.on_change = self.mesh.changed
        self.node.on_decided = self._decided
        self.up = True
        await self.mesh.open()
        await self.owner.restore()

    @property
    def guests(self) -> Guests:
        return self.mesh.guests

    async def kill(self, *, power: bool = False) -> None:
        """The process is gone; with `power`, the whole Mac, which closes no connection."""
        self.up, self.powerless = False, power
        self.asleep = False
        self.node._state.closed = True  # nothing more is decided
        await self.host.die()
        assert not self.gpu.engines
        self.net.notify()

    async def sleep(self) -> None:
        self.asleep = True
        await self.host.sleep()

    async def wake(self, *, clock_stood: bool = True) -> None:
        await self.host.wake(clock_stood=clock_stood)
        self.asleep = False
        self.net.notify()

    async def drain(self, timeout_s: float = 60.0) -> None:
        """As `Herd.drain` and `Herd.close`, then gone."""
        self.draining = True
        await self.host.spawn(self._close(timeout_s), "close")
        await self.kill()

    async def _close(self, timeout_s: float) -> None:
        self.node.drain()
        self.mesh.changed()
        await asyncio.gather(self.mesh.drain(timeout_s), self.owner.wait(timeout_s))
        await self.node.close()
        await self.owner.leave()
        await asyncio.gather(self.mesh.drain(30), self.owner.wait(30))
        await self.owner.close()
        await self.mesh.close()

    # ── what is looked at ──

    def _decided(self) -> None:
        self.mesh.changed()
        reserved, budget = self.node._state.reserved_bytes, self.node.budget_bytes
        held = sum(engine.held_bytes for engine in self.gpu.engines)
        if max(reserved, held) > budget:
            self.net.mistakes.append(f"{self.name}: {reserved} reserved, {held} held, of {budget}")

    def _stored(self, job: Job) -> None:
        self._on_event(self, "stored", job.id, job.status, tuple(attempt.outcome for attempt in job.attempts))

    def told(self, job_id: str, event: JobEvent) -> None:
        self._on_event(self, "told", job_id, event.seq, event.type)
