"""Writing what stands fast of a job, though the disk may not take it at first."""

from __future__ import annotations

import asyncio
import logging

from herd_mcp.jobs import HerdError, Job
from herd_mcp.node.history import History

log = logging.getLogger(__name__)

REWRITE_S = 2.0


class Writing:
    """What the disk does not take now is tried again until it does, at the latest when the node ends: an outcome that
    was told must not be another one after the next start."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._unwritten: dict[str, Job] = {}
        """Outcomes that were told, and jobs that were taken up again."""
        self._rewriting: asyncio.Task[None] | None = None

    async def write(self, job: Job) -> None:
        """Returns when it is on the disk, or could not be written yet."""
        try:
            await self.save(job)
        except HerdError as error:
            log.error("%s is not on disk as it is now: %s", job.id, error)
            self._unwritten[job.id] = job
            if self._rewriting is None or self._rewriting.done():
                self._rewriting = asyncio.create_task(self._rewrite())

    async def save(self, job: Job) -> None:
        """Returns when it is on the disk. Raises HerdError(disk)."""
        self._replaces(job)
        await self._history.save(job)
        if self._unwritten.get(job.id) is job:
            del self._unwritten[job.id]

    def mark(self, job: Job) -> None:
        """Write it beside what goes on. Where the disk does not take it the outcome is written all the same."""
        self._replaces(job)
        self._history.write(job).add_done_callback(lambda future: future.exception())  # the history logs it

    def _replaces(self, job: Job) -> None:
        """What is older is not written any more: it would come after this."""
        if job.id in self._unwritten:
            self._unwritten[job.id] = job

    async def close(self) -> None:
        """The last chance."""
        if self._rewriting is not None:
            self._rewriting.cancel()
        await self._try_again()
        for job_id in self._unwritten:
            log.error("the outcome of %s could not be written", job_id)

    async def _rewrite(self) -> None:
        while self._unwritten:
            await asyncio.sleep(REWRITE_S)
            await self._try_again()

    async def _try_again(self) -> None:
        for job_id in list(self._unwritten):
            if job := self._unwritten.get(job_id):  # else it was written while another one was
                try:
                    await self.save(job)
                except HerdError:
                    return
