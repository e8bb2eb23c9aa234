"""What this node answers another member of its herd: `orders.PeerApi` for one caller, over TLS or in memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable

from herd_mcp.jobs import ErrorCode, HerdError, Job, owner_of
from herd_mcp.orders import Accepted, Line, Order
from herd_mcp.owner.guests import Guests
from herd_mcp.owner.own import OwnJobs
from herd_mcp.state import NodeState, OwnStats

Heard = Callable[[str, NodeState], NodeState]
"""Takes the state of another node, by its id, and gives this one's."""


class Answers:
    """`caller_id` is the node id in the certificate of the connection."""

    def __init__(self, caller_id: str, heard: Heard, guests: Guests, own: OwnJobs) -> None:
        self._caller_id = caller_id
        self._heard = heard
        self._guests = guests
        self._own = own

    async def exchange(self, state: NodeState) -> NodeState:
        return self._heard(self._caller_id, state)

    async def submit(self, order: Order) -> Accepted:
        if owner_of(order.job.id) != self._caller_id:
            raise HerdError(ErrorCode.FORBIDDEN, "Only the owner of a job places its attempts.")
        return await self._guests.submit(self._caller_id, order)

    async def follow(self, job_id: str, attempt: int, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        async with contextlib.aclosing(self._guests.follow(self._caller_id, job_id, attempt, after_seq)) as lines:
            async for line in lines:
                yield line

    async def cancel(self, job_id: str, attempt: int) -> None:
        self._guests.cancel(self._caller_id, job_id, attempt)

    async def take_back(self, job_id: str, attempt: int) -> bool:
        return await self._guests.take_back(self._caller_id, job_id, attempt)

    async def blob(self, sha256: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(self._guests.blob(self._caller_id, sha256, offset)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def job(self, job_id: str) -> Job:
        return await self._own.job(job_id)

    async def watch(self, job_id: str, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        async with contextlib.aclosing(self._own.watch_batches(job_id, after_seq)) as batches:
            async for batch in batches:
                for event in batch:
                    yield Line(attempt=0, seq=event.seq, event=event)

    async def cancel_job(self, job_id: str) -> Job:
        return await self._own.cancel(job_id)

    async def image(self, image_id: str) -> bytes:
        return await self._own.image(image_id)

    async def stats(self) -> OwnStats:
        return await self._own.stats()
