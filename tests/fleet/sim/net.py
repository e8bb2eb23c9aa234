"""The network between simulated Macs: `orders.PeerApi` in memory, with delay, loss, cut links and cut streams.

What is asked runs on the Mac that is asked. As with TCP, a cut link says nothing to either side, bytes that are under
way arrive when it heals in time, and a process that dies closes its connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import ValidationError

from herd_mcp.answers import Answers
from herd_mcp.fleet import wire
from herd_mcp.fleet.dial import CONNECT_S
from herd_mcp.fleet.peers import ASK_S, END_S, ENDS, EXCHANGE_S, FETCH_S, SUBMIT_S
from herd_mcp.fleet.trouble import lost
from herd_mcp.jobs import ErrorCode, HerdError, Job
from herd_mcp.orders import Accepted, Later, Line, Order
from herd_mcp.state import NodeState, OwnStats
from tests.fleet.sim.clock import Host

if TYPE_CHECKING:
    from tests.fleet.sim.mac import Mac

T = TypeVar("T")
RETRANSMIT_S = 0.4


class Network:
    """Links between Macs, by name. `delay_s` one way; `loss`: how often a packet is lost and sent again; `broken`: how
    often a connection breaks after what was asked arrived and before the answer does."""

    def __init__(self, rng: random.Random, delay_s: float = 0.002, loss: float = 0.0, broken: float = 0.0) -> None:
        self.rng = rng
        self.delay_s, self.loss, self.broken = delay_s, loss, broken
        self.macs: dict[str, Mac] = {}
        self.mistakes: list[str] = []
        self._cut: set[frozenset[str]] = set()
        self._changed = asyncio.Event()
        self._streams: list[_Stream[Any]] = []

    # ── faults ──

    def cut(self, one: str, other: str) -> None:
        self._cut.add(frozenset({one, other}))

    def heal(self) -> None:
        """All links are whole."""
        self._cut.clear()
        self.notify()

    def cut_streams(self) -> None:
        """Every connection that is open breaks."""
        for stream in list(self._streams):
            stream.close()

    def notify(self) -> None:
        """Links are as they were not before."""
        self._changed.set()
        self._changed = asyncio.Event()

    def open(self, one: str, other: str) -> bool:
        """Whether bytes get through: the link is whole and both Macs are up and awake."""
        macs = self.macs[one], self.macs[other]
        return frozenset({one, other}) not in self._cut and not any(mac.silent for mac in macs)

    # ── ways through ──

    async def way(self, one: str, other: str) -> None:
        """The time that a packet takes."""
        slow = max(self.macs[one].net_delay_s, self.macs[other].net_delay_s)
        seconds = (self.delay_s + slow) * self.rng.uniform(0.8, 1.5)
        while self.loss and self.rng.random() < self.loss:
            seconds += RETRANSMIT_S
        await asyncio.sleep(seconds)

    async def opened(self, one: str, other: str) -> None:
        while not self.open(one, other):
            await self._changed.wait()

    async def connect(self, asker: Mac, asked: Mac) -> Host:
        """The process that listens there. Raises HerdError(node_lost)."""
        try:
            async with asyncio.timeout(CONNECT_S):
                await self.opened(asker.name, asked.name)
                await self.way(asker.name, asked.name)
        except TimeoutError:
            raise lost("unreachable", asked.name, "did not answer") from None
        if not asked.listens:
            raise lost("unreachable", asked.name, "refused the connection")
        return asked.host

    async def call(
        self, asker: Mac, asked: Mac, what: Callable[[Answers], Awaitable[T]], limit_s: float, words: str
    ) -> T:
        """Ask something and wait for the answer, at most so long. Raises HerdError, Later."""
        host = await self.connect(asker, asked)
        own = asker.host
        task = host.spawn(_carry_out(asked, asker.node_id, what), words)
        task.add_done_callback(lambda over: over.cancelled() or over.exception())  # its asker may have left
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.wait({task})
                if self.broken and self.rng.random() < self.broken:
                    raise lost("broken", asked.name, "broke the connection off")
                await self.opened(asker.name, asked.name)
                await self.way(asker.name, asked.name)
        except TimeoutError:
            raise lost("silent", asked.name, "fell silent") from None
        finally:
            if not task.done() and (own.dead or self.open(asker.name, asked.name)):
                task.cancel()
        if host.dead or task.cancelled():
            raise lost("broken", asked.name, "broke the connection off: it ended")
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, HerdError | Later):
            raise error
        self.mistakes.append(f"{asked.name}, {words}: {error!r}")
        raise HerdError(ErrorCode.INTERNAL, "The other node failed.")


async def _carry_out(asked: Mac, caller_id: str, what: Callable[[Answers], Awaitable[T]]) -> T:
    return await what(asked.answers(caller_id))


class _Stream(Generic[T]):
    """An answer that comes in parts."""

    def __init__(
        self, net: Network, asker: Mac, asked: Mac, parts: Callable[[Answers], AsyncGenerator[T, None]], beat: T
    ) -> None:
        self._net, self._asker, self._asked = net, asker, asked
        self._parts, self._beat = parts, beat
        self._lease_s = asked.settings.lease_s
        self._kept: deque[tuple[float, T | Exception]] = deque()
        self._more = asyncio.Event()
        self._broken = False
        self._left = False
        """Nobody reads it any more, which the Mac that is asked hears with the first bytes that get there."""
        self._pump: asyncio.Task[None] | None = None
        self._at = 0.0

    async def read(self, silence_s: float, first_s: float) -> AsyncGenerator[T, None]:
        net, loop = self._net, self._asker.host.loop
        host = await net.connect(self._asker, self._asked)
        self._pump = host.spawn(self._run(), "stream")
        net._streams.append(self)
        limit_s = first_s
        try:
            while True:
                try:
                    async with asyncio.timeout(limit_s):
                        while not self._kept and not self._broken and not host.dead:
                            self._more.clear()
                            await self._more.wait()
                        await net.opened(self._asker.name, self._asked.name)
                except TimeoutError:
                    raise lost("silent", self._asked.name, "fell silent") from None
                if not self._kept or self._broken:
                    raise lost("broken", self._asked.name, "broke the connection off")
                at, part = self._kept.popleft()
                if at > loop.now:
                    await asyncio.sleep(at - loop.now)
                limit_s = silence_s
                if isinstance(part, _Over):
                    raise lost("broken", self._asked.name, "ended its answer in the middle")
                if isinstance(part, Exception):
                    raise part
                yield part
        finally:
            self._left = True
            net._streams.remove(self)
            if self._asker.host.dead or net.open(self._asker.name, self._asked.name):
                self._pump.cancel()

    def close(self) -> None:
        self._broken = True
        self._more.set()
        if self._pump is not None:
            self._pump.cancel()

    def _put(self, part: T | Exception) -> None:
        now, net = self._asked.host.loop.now, self._net
        delay_s = net.delay_s + max(self._asker.net_delay_s, self._asked.net_delay_s)
        while net.loss and net.rng.random() < net.loss:
            delay_s += RETRANSMIT_S
        self._at = max(self._at, now + delay_s)
        self._kept.append((self._at, part))
        self._more.set()

    async def _run(self) -> None:
        """On the Mac that is asked: its parts as they come, and beats between them."""
        beat_s = wire.beat_s(self._lease_s)
        silence_s = wire.BEATS_MISSED * beat_s
        parts = self._parts(self._asked.answers(self._asker.node_id))
        coming: asyncio.Task[T] | None = None
        try:
            while True:
                coming = coming or asyncio.create_task(_next(parts))
                done, _ = await asyncio.wait({coming}, timeout=beat_s)
                try:
                    async with asyncio.timeout(silence_s):  # as TCP_USER_TIMEOUT
                        await self._net.opened(self._asker.name, self._asked.name)
                except TimeoutError:
                    return
                if self._left:
                    return
                if not done:
                    self._put(self._beat)
                    continue
                finished, coming = coming, None
                try:
                    self._put(finished.result())
                except (_Over, HerdError, Later) as error:
                    self._put(error)
                    return
                except Exception as error:
                    self._net.mistakes.append(f"{self._asked.name}: {error!r}")
                    self._put(HerdError(ErrorCode.INTERNAL, "The other node failed."))
                    return
        finally:
            self._more.set()
            if coming is not None:
                coming.cancel()
                await asyncio.wait({coming})
            await parts.aclose()


class _Over(Exception):
    """An answer that comes in parts has ended."""


async def _next(parts: AsyncGenerator[T, None]) -> T:
    try:
        return await anext(parts)
    except StopAsyncIteration:
        raise _Over from None


class SimPeer:
    """`orders.PeerApi` from one Mac to another."""

    def __init__(self, net: Network, asker: Mac, node_id: str) -> None:
        self._net = net
        self._asker = asker
        self._asked = next(mac for mac in net.macs.values() if mac.node_id == node_id)
        self._silence_s = wire.BEATS_MISSED * wire.beat_s(asker.settings.lease_s)

    async def exchange(self, state: NodeState) -> NodeState:
        told = self._checked(self._asker.lie(state))
        answer = await self._ask(lambda there: there.exchange(told), EXCHANGE_S, "exchange")
        return self._checked(self._asked.lie(answer))

    def _checked(self, state: NodeState) -> NodeState:
        """As it is read from the wire."""
        try:
            return NodeState.model_validate(state.model_dump())
        except ValidationError:
            raise lost("garbage", self._asked.name, "said what is not understood") from None

    async def submit(self, order: Order) -> Accepted:
        assert not order.spool
        try:
            return await self._ask(lambda there: there.submit(order), SUBMIT_S, "submit")
        except Later as later:
            raise Later(later.finish_s, later.state and self._checked(self._asked.lie(later.state))) from None

    async def follow(self, job_id: str, attempt: int, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        stream = _Stream(
            self._net,
            self._asker,
            self._asked,
            lambda there: there.follow(job_id, attempt, after_seq),
            Line(attempt=attempt),
        )
        async with contextlib.aclosing(stream.read(self._silence_s, ASK_S)) as lines:
            async for line in lines:
                yield line
                if line.event is not None and line.event.type in ENDS:
                    return

    async def watch(self, job_id: str, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        stream = _Stream(
            self._net, self._asker, self._asked, lambda there: there.watch(job_id, after_seq), Line(attempt=0)
        )
        async with contextlib.aclosing(stream.read(self._silence_s, ASK_S)) as lines:
            async for line in lines:
                yield line
                if line.event is not None and line.event.type in ENDS:
                    return

    async def cancel(self, job_id: str, attempt: int) -> None:
        await self._ask(lambda there: there.cancel(job_id, attempt), ASK_S, "cancel")

    async def take_back(self, job_id: str, attempt: int) -> bool:
        return await self._ask(lambda there: there.take_back(job_id, attempt), ASK_S, "take back")

    async def blob(self, sha256: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        stream = _Stream(self._net, self._asker, self._asked, lambda there: _parts(there.blob(sha256, offset)), b"")
        async with contextlib.aclosing(stream.read(ASK_S, ASK_S)) as chunks:
            async for chunk in chunks:
                if chunk == END:
                    return
                yield chunk

    async def job(self, job_id: str) -> Job:
        return await self._ask(lambda there: there.job(job_id), ASK_S, "job")

    async def cancel_job(self, job_id: str) -> Job:
        return await self._ask(lambda there: there.cancel_job(job_id), END_S, "cancel job")

    async def image(self, image_id: str) -> bytes:
        return await self._ask(lambda there: there.image(image_id), FETCH_S, "image")

    async def stats(self) -> OwnStats:
        return await self._ask(lambda there: there.stats(), ASK_S, "stats")

    async def _ask(self, what: Callable[[Answers], Awaitable[T]], limit_s: float, words: str) -> T:
        return await self._net.call(self._asker, self._asked, what, limit_s, words)


END = b"<end>"
"""After the last part of a picture: the end of a body is told, unlike that of a broken connection."""


async def _parts(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            for start in range(0, len(chunk), 4096):
                yield chunk[start : start + 4096]
    yield END
