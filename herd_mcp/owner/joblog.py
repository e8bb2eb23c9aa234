"""The events of one job, for any number of readers. A reader holds a place in a shared list, so a slow one costs
nothing; the list is bounded by the job itself (steps, max_tokens)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Generic, TypeVar

from herd_mcp.jobs import ErrorCode, HerdError, JobEvent
from herd_mcp.orders import Returned

MAX_BATCH = 64
"""Events that a reader gets at once: what a surface writes at once for a slow client stays small."""

E = TypeVar("E", JobEvent, JobEvent | Returned)


class JobLog(Generic[E]):
    """Append-only; `seq` rises by one from 1. Closed by its last event."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.events: list[E] = []
        self._more = asyncio.Event()
        self.closed = asyncio.Event()
        self.abandoned = False

    def append(self, event: E) -> E:
        """Number the event and wake the readers."""
        numbered = event.model_copy(update={"job_id": self.job_id, "seq": len(self.events) + 1})
        self.events.append(numbered)
        self._more.set()
        self._more = asyncio.Event()
        if numbered.type in ("completed", "failed", "cancelled", "returned"):
            self.closed.set()
        return numbered

    def abandon(self) -> None:
        """The node ends while the job is not over: readers leave with HerdError(interrupted)."""
        self.abandoned = True
        self.closed.set()
        self._more.set()

    async def read(self, after_seq: int = 0) -> AsyncGenerator[Sequence[E], None]:
        """Every event after `after_seq`, then those to come, to the terminal one: those that wait together, at most
        MAX_BATCH. A place that is not here yet is one of an earlier start of the node: all is told then. The terminal
        event is told in any case, since such a place may also be the end of a shorter log."""
        place = after_seq if 0 < after_seq <= len(self.events) else 0
        if self.closed.is_set() and not self.abandoned:
            place = min(place, len(self.events) - 1)
        while True:
            while batch := self.events[place : place + MAX_BATCH]:
                place += len(batch)
                yield batch
            if self.abandoned:
                raise HerdError(
                    ErrorCode.INTERRUPTED,
                    "The node is ending; the image is drawn when it is back.",
                    f"Ask for {self.job_id} then: `herd-mcp jobs`, or the tool get_job.",
                    retryable=True,
                )
            if self.closed.is_set():
                return
            await self._more.wait()
