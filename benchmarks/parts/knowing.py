"""What it costs many nodes to know of each other: fleets in memory and in virtual time, and a choice among them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.parts.mesh import GIB, Net, virtually
from herd_mcp.fleet import wire
from herd_mcp.fleet.fleet import Fleet
from herd_mcp.fleet.placer import HerdPlacer
from herd_mcp.jobs import ImageRequest, Job, JobEvent, new_job_id
from herd_mcp.orders import Accepted, Ending, Order
from herd_mcp.state import ChatRates, ImageRates, ModelState, NodeState

IDLE_S = 60.0
CHANGES = 20
PLACED = 200


def models(count: int) -> tuple[ModelState, ...]:
    """Half of each kind, with all that a node tells of them."""
    image = ImageRates(step_s_per_mpx=2.13, fixed_s_per_mpx=1.07)
    chat = ChatRates(prefill_tokens_per_s=812, decode_tokens_per_s=41.3, answer_tokens=287, tokens_per_byte=0.271)
    return tuple(
        ModelState(
            name=f"somebody/some-model-{number}-4bit",
            aliases=(f"some-model-{number}", f"some-{number}"),
            kind="image" if number % 2 else "chat",
            bytes=(number + 3) * GIB + 12_345_678,
            loaded=number < 3,
            load_s=2.5 + number,
            capacity=1 if number % 2 else 32,
            context_tokens=None if number % 2 else 32_768,
            largest_px=2048 if number % 2 else None,
            default_px=1024 if number % 2 else None,
            default_steps=4 if number % 2 else None,
            image=image if number % 2 else None,
            chat=None if number % 2 else chat,
        )
        for number in range(count)
    )


@dataclass(frozen=True, slots=True)
class Told:
    bytes_per_s: float
    """Of states that one node sends and gets."""
    cpu_percent: float
    """Of a core, for one node: its fleet, and its states packed and read."""
    known_s: list[float]
    state_bytes: int
    placing_ms: list[float]
    """Milliseconds to choose a node for one job."""


def told(size: int, count: int) -> Told:
    """A herd without work for IDLE_S, then changes of single nodes, each watched until all others know it."""

    async def play() -> Told:
        loop = asyncio.get_running_loop()
        net = Net()

        def through(state: NodeState) -> int:
            packed = wire.pack_state(state)
            wire.unpack_state(packed)
            return len(packed)

        net.size = through
        every = range(1, size + 1)
        macs = [await net.mac(n, knows=set(every) - {n}, models=models(count)) for n in every]
        await asyncio.sleep(10)
        net.bytes, used_s = 0, time.process_time()
        await asyncio.sleep(IDLE_S)
        passed, used_s = net.bytes, time.process_time() - used_s
        known = []
        for change in range(CHANGES):
            mac = macs[change % size]
            others = [other for other in macs if other is not mac]
            mac.state = mac.state.model_copy(update={"paused": f"pause {change}"})
            mac.fleet.changed()
            began = loop.time()
            while not all(  # noqa: ASYNC110  # virtual time: to look costs none
                view.paused == f"pause {change}"
                for other in others
                for view in other.fleet.views()
                if view.node_id == mac.fleet.node_id
            ):
                await asyncio.sleep(0.005)
            known.append(loop.time() - began)
        packed = wire.pack_state(macs[0].fleet.state())
        placing_ms = await _placing_ms(macs[0].fleet)
        for mac in macs:
            await net.kill(mac)
        # A state is sent by one and got by another: each node has both ends of as many.
        return Told(2 * passed / IDLE_S / size, 100 * used_s / IDLE_S / size, known, len(packed), placing_ms)

    return virtually(play())


class Taker:
    """A node that takes all."""

    def __init__(self, node_id: str) -> None:
        self.node_id = self.name = node_id

    async def reserve(self, order: Order) -> Accepted:
        return Accepted(model="", incarnation=1, revision=1)

    async def run(self, order: Order, listener: Callable[[JobEvent], None]) -> Ending:
        raise NotImplementedError

    def give_back(self, job_id: str, attempt: int) -> None:
        raise NotImplementedError

    def cancel(self, job_id: str, attempt: int) -> None:
        raise NotImplementedError

    async def take_back(self, job_id: str, attempt: int) -> bool:
        raise NotImplementedError


async def _placing_ms(fleet: Fleet) -> list[float]:
    """Milliseconds from an order to its place by what a fleet knows, with nodes that take all at once."""
    rng = random.Random(1)
    placer = HerdPlacer(
        Taker(fleet.node_id), fleet.state, fleet.views, Taker, preferred=lambda kind: None, prefix_key=b"key", rng=rng
    )
    request = ImageRequest(prompt="a hill", model=models(2)[1].name, width=512, height=512, steps=4)
    took = []
    for _ in range(PLACED):
        job = Job(id=new_job_id(fleet.node_id), kind="image", request=request, client="cli", created_at=0)
        began = time.perf_counter()
        await placer.place(Order(job=job, attempt=1))
        took.append((time.perf_counter() - began) * 1000)
    return took
