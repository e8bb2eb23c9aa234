"""A node that answers by a script, and its port: what the tests of the wire ask."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from herd_mcp.fleet.app import make_app
from herd_mcp.fleet.listener import Listener
from herd_mcp.fleet.peers import HttpPeer, Peers
from herd_mcp.jobs import (
    ChatRequest,
    ChatResult,
    Completed,
    Delta,
    ErrorCode,
    HerdError,
    ImageResult,
    Job,
    JobEvent,
    Message,
    Queued,
    Usage,
)
from herd_mcp.orders import Accepted, Line, Order
from herd_mcp.serving.server import bind
from herd_mcp.state import MemoryState, NodeState, OwnStats

from .certificates import Authority, Member

ALPHA, BETA, GAMMA = "aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc"
LEASE_S = 3.0
"""Beats every half second."""
LIMIT_S = 60.0
SHA256 = "ab" * 32
IMAGE_ID = f"img-{BETA}-0123456789ab"
NO_STATS = OwnStats(
    total=0,
    completed=0,
    failed=0,
    cancelled=0,
    avg_generation_ms=0,
    p50_generation_ms=None,
    p95_generation_ms=None,
    avg_queue_ms=None,
    avg_load_ms=None,
    by_node={},
    by_model={},
    by_tag={},
    by_day={},
    recent=(),
)


def state_of(node_id: str, **fields: Any) -> NodeState:
    return NodeState(
        node_id=node_id,
        name=f"node-{node_id[0]}",
        version="0.1.0",
        status="online",
        platform="Darwin",
        chip="Apple M1",
        cpu_cores=8,
        memory=MemoryState(total_bytes=16, available_bytes=8, budget_bytes=8, reserved_bytes=0),
        started_at=1.0,
        **fields,
    )


def job_id_of(node_id: str, number: int = 1) -> str:
    return f"job-{node_id}-{number:012x}"


def order_of(owner: str, number: int = 1, **fields: Any) -> Order:
    request = ChatRequest(messages=(Message(role="user", content="hello\u2028\x85 wörld 🐑"),))
    job = Job(id=job_id_of(owner, number), kind="chat", client="test", request=request, created_at=1.0)
    return Order(job=job, **{"attempt": 1, **fields})


def completed(text: str) -> Completed:
    return Completed(result=ChatResult(text=text, finish_reason="stop", usage=Usage(), model="m", node="n"))


@dataclass
class Scripted:
    """A `PeerApi`. `calls` are the questions it got; `script` is what `follow` tells, a number being a pause in
    seconds."""

    node_id: str = BETA
    script: list[JobEvent | float] = field(
        default_factory=lambda: [Queued(position=0), Delta(text="a"), completed("a")]
    )
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    error: Exception | None = None
    picture: bytes = b"picture" * 100_000
    closed: int = 0
    """Streams that came to their end, one way or another."""

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    async def exchange(self, state: NodeState) -> NodeState:
        self._called("exchange", state)
        return state_of(self.node_id)

    async def submit(self, order: Order) -> Accepted:
        self._called("submit", order)
        return Accepted(model="m", incarnation=1, revision=2)

    async def follow(self, job_id: str, attempt: int, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        self._called("follow", job_id, attempt, after_seq)
        seq = 0
        try:
            for step in self.script:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    seq += 1
                    if seq > after_seq:
                        yield Line(attempt=attempt, seq=seq, event=step)
        finally:
            self.closed += 1

    async def cancel(self, job_id: str, attempt: int) -> None:
        self._called("cancel", job_id, attempt)

    async def take_back(self, job_id: str, attempt: int) -> bool:
        self._called("take_back", job_id, attempt)
        return True

    async def blob(self, sha256: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        self._called("blob", sha256, offset)
        if sha256 != SHA256:
            raise HerdError(ErrorCode.IMAGE_NOT_FOUND, "No such picture.")
        for start in range(offset, len(self.picture), 65536):
            yield self.picture[start : start + 65536]

    async def job(self, job_id: str) -> Job:
        self._called("job", job_id)
        result = ImageResult(
            image_id=IMAGE_ID, model="m", node="n", width=64, height=64, steps=1, seed=1, path="/home/me/x.png"
        )
        return Job(id=job_id, kind="image", client="test", created_at=1.0, status="completed", result=result)

    async def watch(self, job_id: str, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        self._called("watch", job_id, after_seq)
        async with contextlib.aclosing(self.follow(job_id, 0, after_seq)) as lines:
            async for line in lines:
                assert line.event is not None
                assert line.event.type != "returned"
                yield line.model_copy(update={"event": line.event.model_copy(update={"seq": line.seq})})

    async def cancel_job(self, job_id: str) -> Job:
        self._called("cancel_job", job_id)
        return (await self.job(job_id)).model_copy(update={"status": "cancelled"})

    async def image(self, image_id: str) -> bytes:
        self._called("image", image_id)
        return self.picture

    async def stats(self) -> OwnStats:
        self._called("stats")
        return NO_STATS


@dataclass
class Pair:
    """Alpha asks beta."""

    authority: Authority
    api: Scripted
    listener: Listener
    port: int
    peers: Peers
    callers: list[str]
    refused: list[tuple[str, HerdError]]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def beta(self) -> HttpPeer:
        return self.peers.peer(BETA, [self.address])

    @contextlib.asynccontextmanager
    async def as_(self, member: Member) -> AsyncIterator[HttpPeer]:
        """Beta, asked by another."""
        peers = Peers(member.client(), LEASE_S)
        try:
            yield peers.peer(BETA, [self.address])
        finally:
            await peers.aclose()


@contextlib.asynccontextmanager
async def pair(api: Scripted | None = None, lease_s: float = LEASE_S) -> AsyncIterator[Pair]:
    """A port of beta in this loop, and what alpha asks it with."""
    authority = Authority()
    callers: list[str] = []
    refused: list[tuple[str, HerdError]] = []
    answers = api or Scripted()

    def api_of(caller: str) -> Scripted:
        callers.append(caller)
        return answers

    app = make_app(api_of, authority.caller_of, refused=lambda caller, error: refused.append((caller, error)))
    listener = Listener(app, authority.member(BETA).server(), authority.caller_of, lease_s)
    sock = bind(0, setting="peer_port")
    serving = asyncio.create_task(listener.run_on(sock))
    peers = Peers(authority.member(ALPHA).client(), lease_s)
    try:
        await listener.ready.wait()
        yield Pair(authority, answers, listener, sock.getsockname()[1], peers, callers, refused)
    finally:
        await peers.aclose()
        listener.should_exit = True
        await serving
        sock.close()


async def all_of(lines: AsyncGenerator[Line, None]) -> list[Line]:
    async with asyncio.timeout(LIMIT_S), contextlib.aclosing(lines):
        return [line async for line in lines]


def reason_of(error: HerdError) -> object:
    return error.info.details.get("reason")
