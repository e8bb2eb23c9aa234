"""What can be asked about the jobs that this node owns, by its own surfaces and by the other nodes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from herd_mcp.jobs import ENDED, ErrorCode, HerdError, Job, JobEvent
from herd_mcp.node.gallery import Gallery
from herd_mcp.node.history import History
from herd_mcp.node.statistics import own_stats
from herd_mcp.owner.owner import Owner
from herd_mcp.owner.record import outcome_of, without_picture
from herd_mcp.state import OwnStats


class OwnJobs:
    """Jobs, images and figures, live and stored."""

    def __init__(self, owner: Owner, history: History, gallery: Gallery) -> None:
        self._owner = owner
        self._history = history
        self._gallery = gallery

    async def job(self, job_id: str) -> Job:
        """One job as it is now, without the picture it started from. Raises HerdError(job_not_found)."""
        live = self._owner.find(job_id)
        job = without_picture(live.job) if live else await self._history.get(job_id)
        if job is None:
            raise HerdError(
                ErrorCode.JOB_NOT_FOUND, "There is no job with this id on this node.", "`herd-mcp jobs` lists them."
            )
        return job

    async def jobs(self, *, limit: int = 50, status: str | None = None) -> list[Job]:
        """The newest jobs first, live ones as they are now."""
        stored = await self._history.newest(limit, status)
        now = [without_picture(live.job if (live := self._owner.find(job.id)) else job) for job in stored]
        return [job for job in now if status is None or job.status == status]

    async def watch_batches(self, job_id: str, after_seq: int = 0) -> AsyncGenerator[Sequence[JobEvent], None]:
        """The job's events after `after_seq` to the terminal one: those that wait at once, never empty. Of a job long
        over only the last. Raises HerdError: job_not_found, node_lost while this node does not have the job in hand
        again, or interrupted when it ends before the job does."""
        live = self._owner.find(job_id)
        if live is None:
            yield (outcome_of(await self._over(job_id)),)
            return
        async for batch in live.log.read(after_seq):
            yield batch

    async def cancel(self, job_id: str, *, disconnected: bool = False) -> Job:
        """End a job at its next token or step and return it as it ended. One that is over stays as it is. Raises
        HerdError: job_not_found, node_lost while this node does not have the job in hand again, timeout."""
        live = self._owner.find(job_id)
        if live is None:
            return await self._over(job_id)
        if disconnected and not live.ended.is_set():
            live.job = live.job.model_copy(update={"disconnected": True})
        return await self._owner.cancel(live)

    async def _over(self, job_id: str) -> Job:
        job = await self.job(job_id)
        if job.status not in ENDED:  # the other nodes may ask before all that this one left is taken up
            raise HerdError(
                ErrorCode.NODE_LOST,
                "This node was started a moment ago, and takes up what it left.",
                "Ask again.",
                retryable=True,
            )
        return job

    async def image(self, image_id: str) -> bytes:
        """The PNG. Raises HerdError(image_not_found)."""
        return await self._gallery.read(image_id)

    async def stats(self) -> OwnStats:
        """Figures of the jobs that were asked here."""
        return await self._history.read(own_stats)
