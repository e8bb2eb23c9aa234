"""A job with what its owner needs while it runs."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from herd_mcp.jobs import Job, JobEvent
from herd_mcp.orders import Placed
from herd_mcp.owner.joblog import JobLog

ASK_BACK_S = 2.0
"""How long a node has to answer whether it gives a job back."""


class LiveJob:
    """One job, from its acceptance to its end."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.log: JobLog[JobEvent] = JobLog(job.id)
        self.accepted_at = asyncio.get_running_loop().time()
        self.ttft_s: float | None = None
        self.spool: Path | None = None
        """Where the picture of the attempt under way goes."""
        self.placed: Placed | None = None
        """Where the attempt under way has its place."""
        self.returns = 0
        """How often it came back from a node that did not run it."""
        self.moves = 0
        """How often it was asked back since it waited."""
        self.stays_until = float("-inf")
        """It is not asked back again before."""
        self.task: asyncio.Task[None] | None = None
        self.cancel = asyncio.Event()
        self.ended = asyncio.Event()

    @property
    def cancelled(self) -> bool:
        return self.cancel.is_set()

    def stop(self) -> None:
        """End the attempt under way."""
        if self.placed is not None:
            self.placed.runner.cancel(self.job.id, self.placed.order.attempt)

    def give_back(self) -> None:
        """Give back the place of an attempt that will not run."""
        if self.placed is not None:
            self.placed.runner.give_back(self.job.id, self.placed.order.attempt)

    async def ask_back(self) -> None:
        """Have the attempt returned if it has not begun."""
        if self.placed is not None:
            with contextlib.suppress(TimeoutError):  # where it was heard all the same, the attempt ends as returned
                async with asyncio.timeout(ASK_BACK_S):
                    await self.placed.runner.take_back(self.job.id, self.placed.order.attempt)
