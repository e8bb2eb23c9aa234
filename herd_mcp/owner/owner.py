"""The owner of the jobs that were asked here: from acceptance to the one outcome, whoever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from pathlib import Path

from herd_mcp.changes import Changes
from herd_mcp.clock import steady_s
from herd_mcp.jobs import (
    Attempt,
    Cancelled,
    ChatResult,
    Completed,
    Delta,
    ErrorCode,
    Failed,
    HerdError,
    ImageResult,
    Job,
    JobEvent,
    Loading,
    NodeEstimate,
    Progress,
    Routed,
)
from herd_mcp.node.gallery import Gallery
from herd_mcp.node.history import History
from herd_mcp.node.node import Node
from herd_mcp.owner.joblog import JobLog
from herd_mcp.owner.record import Outcome, attempt_over, internal, job_over, taken_up
from herd_mcp.owner.retry import after_failure, after_restart, alone_after
from herd_mcp.state import Change

log = logging.getLogger(__name__)

ENDED_LOGS = 256
"""Ended jobs whose events can still be read; of older ones only the outcome."""
ENDED_EVENTS = 20_000
"""Their events together, of 700 bytes each: 256 answers of 4,096 tokens would take the node 700 MB. The last job that
ended has all of its own."""
REWRITE_S = 2.0
CANCEL_S = 60.0
"""How long `cancel` waits for the engine to let go: one step of the slowest image."""


class LiveJob:
    """A job with what its owner needs while it runs."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.log = JobLog(job.id)
        self.accepted_at = time.monotonic()
        self.ttft_s: float | None = None
        self.spool: Path | None = None
        """Where the engine of the attempt under way puts the picture."""
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False
        self.ended = asyncio.Event()


class Owner:
    """Jobs that were accepted and are not over, and the last that ended."""

    def __init__(self, node: Node, history: History, gallery: Gallery, changes: Changes, chat_keep_s: float) -> None:
        self._node = node
        self._history = history
        self._gallery = gallery
        self._changes = changes
        self._chat_keep_s = chat_keep_s
        self._live: dict[str, LiveJob] = {}
        self._over: dict[str, LiveJob] = {}
        self._unwritten: dict[str, Job] = {}
        """What the disk has not taken: outcomes that were told, and jobs that were taken up again."""
        self._rewriting: asyncio.Task[None] | None = None
        self._answered: dict[str, float] = {}
        """Chats that ended since this process began and whose answers are kept, with steady seconds of their end."""
        self._began_s, self._began_at = steady_s(), time.time()

    def find(self, job_id: str) -> LiveJob | None:
        """A job that is not over, or one of the last that ended."""
        return self._live.get(job_id) or self._over.get(job_id)

    async def accept(self, job: Job, *, forced: bool = False) -> Job:
        """Reserve a place, write the job down, let it run. `forced`: it was accepted before, no limit refuses it."""
        live = LiveJob(job)
        await self._reserve(live, forced=forced)
        self._live[job.id] = live
        try:
            if forced:  # it stands on the disk as it was accepted; its new state may come late
                await self._write_down(live.job)
            else:
                await self._history.save(live.job)
        except BaseException:
            del self._live[job.id]
            self._node.give_back(job.id, len(live.job.attempts))
            raise
        live.task = asyncio.create_task(self._drive(live))
        self._changes.tell(Change(kind="job", id=job.id))
        return live.job

    async def cancel(self, live: LiveJob) -> Job:
        """End a job at its next token or step; one that is over stays as it is. Raises HerdError(timeout)."""
        live.cancelled = True
        self._node.cancel(live.job.id)
        try:
            await asyncio.wait_for(live.ended.wait(), CANCEL_S)
        except TimeoutError:
            raise HerdError(
                ErrorCode.TIMEOUT,
                f"{live.job.id} will be cancelled, but its engine has not come to the end of its step yet.",
                "Ask again in a while with `herd-mcp jobs`.",
                retryable=True,
            ) from None
        return live.job

    async def restore(self) -> None:
        """Take up what a killed node left: images run again, chats end as interrupted."""
        for job in await self._history.unfinished():
            error = after_restart(job)
            if error is None:
                log.info("taking up %s again", job.id)
                try:
                    await self.accept(taken_up(job), forced=True)
                    continue
                except Exception as refused:
                    log.exception("%s cannot be taken up", job.id)
                    error = internal(refused)
            await self._write_down(job_over(job, Failed(error=error)))

    async def wait(self, timeout_s: float) -> None:
        """Until every job is over, or the time is."""
        tasks = [live.task for live in self._live.values() if live.task]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    async def forget_answers(self) -> None:
        """Drop the answers of chats that ended more than chat_keep_s ago. Raises HerdError(disk).

        The ends in the records are of the Mac's clock, which may have been set since: they count only for chats of
        earlier starts, and up to the moment of this one.
        """
        now = steady_s()
        over = [job_id for job_id, ended in self._answered.items() if now - ended > self._chat_keep_s]
        before = self._began_at + (now - self._began_s) - self._chat_keep_s
        while await self._history.forget_answers(before, keep=self._answered, also=over):
            pass
        for job_id in over:
            del self._answered[job_id]

    # ── one job ──

    async def _reserve(self, live: LiveJob, *, forced: bool, alone: bool = False) -> None:
        """Place the next attempt on a node. Raises HerdError."""
        job = live.job
        assert job.request is not None
        plan = await self._node.plan(job.request)
        attempt = Attempt(number=len(job.attempts) + 1, node=self._node.name, started_at=time.time())
        live.spool = self._gallery.spool_file() if job.kind == "image" else None
        self._node.reserve(job, attempt.number, plan, spool=str(live.spool or ""), forced=forced, alone=alone)
        routed = Routed(node=self._node.name, model=plan.spec.model, estimates=(NodeEstimate(node=self._node.name),))
        update = {
            "attempts": (*job.attempts, attempt), "model": plan.spec.model, "routed": routed,
            # An attempt that has not begun is not charged with a death of the node.
            "status": "queued", "progress": None,
        }  # fmt: skip
        live.job = job.model_copy(update=update)

    async def _drive(self, live: LiveJob) -> None:
        """Run attempts until the job has its outcome; write it down, then tell it."""
        try:
            outcome = await self._attempts(live)
        except Exception as error:
            log.exception("job %s", live.job.id)
            outcome = Failed(error=internal(error))
        if live.job.kind == "image" and isinstance(outcome, Failed) and outcome.error.code == ErrorCode.INTERRUPTED:
            await self._leave_for_later(live)
        else:
            await self._finish(live, outcome)

    async def _attempts(self, live: LiveJob) -> Outcome:
        while True:
            assert live.job.routed is not None
            live.log.append(live.job.routed)
            if live.cancelled:
                self._node.cancel(live.job.id)
            outcome = await self._attempt(live)
            if live.spool is not None:
                self._gallery.discard(live.spool)
            if live.cancelled and isinstance(outcome, Failed) and outcome.error.code != ErrorCode.INTERRUPTED:
                return Cancelled()  # an engine that had to be ended for it is no failure of the job
            if not isinstance(outcome, Failed) or live.cancelled:
                return outcome
            live.job = attempt_over(live.job, outcome)
            if not after_failure(live.job, outcome.error, told_tokens=live.ttft_s is not None):
                return outcome
            log.info("job %s is tried again: %s", live.job.id, outcome.error.message)
            try:
                await self._reserve(live, forced=True, alone=alone_after(outcome.error))
            except HerdError as error:
                return Failed(error=error.info)
            try:
                await self._history.save(live.job)
            except HerdError as error:
                self._node.give_back(live.job.id, len(live.job.attempts))
                return Failed(error=error.info)

    async def _attempt(self, live: LiveJob) -> Outcome:
        """One attempt on this node: its events go to the log, its outcome is returned."""
        outcome = await self._node.run(live.job.id, len(live.job.attempts), partial(self._note, live))
        if isinstance(outcome, Completed) and isinstance(outcome.result, ImageResult):
            return await self._keep(outcome.result)
        return outcome

    async def _keep(self, result: ImageResult) -> Outcome:
        """The picture is on this disk before anybody hears of it."""
        try:
            return Completed(result=await self._gallery.keep(result))
        except HerdError as error:
            return Failed(error=error.info)

    def _note(self, live: LiveJob, event: JobEvent) -> None:
        """What an event means for the job's record; then to the readers."""
        match event:
            case Delta() if live.ttft_s is None:
                live.ttft_s = round(time.monotonic() - live.accepted_at, 4)
            case Loading() if live.job.status == "queued":
                self._mark(live, {"status": "loading"})
            case Progress() if live.job.status != "running":
                self._mark(live, {"status": "running", "started_at": time.time(), "progress": event})
            case Progress():
                live.job = live.job.model_copy(update={"progress": event})
                self._changes.tell(Change(kind="job", id=live.job.id))
        live.log.append(event)

    def _mark(self, live: LiveJob, update: dict[str, object]) -> None:
        """A new status, written down beside the run: after a crash it tells whether an engine had begun."""
        live.job = live.job.model_copy(update=update)
        # A failed write is logged by the history, and the outcome is written again.
        self._history.write(live.job).add_done_callback(lambda future: future.exception())
        self._changes.tell(Change(kind="job", id=live.job.id))

    async def _finish(self, live: LiveJob, outcome: Outcome) -> None:
        """Write the outcome down, then tell it."""
        job = job_over(live.job, outcome, ttft_s=live.ttft_s, total_s=time.monotonic() - live.accepted_at)
        if isinstance(outcome, Completed) and job.result is not None:
            outcome = Completed(result=job.result)
        forget = isinstance(job.result, ChatResult) and not self._chat_keep_s
        await self._write_down(job.model_copy(update={"result": None}) if forget else job)
        if isinstance(job.result, ChatResult) and not forget:
            self._answered[job.id] = steady_s()
        live.job = job
        live.log.append(outcome)
        live.ended.set()
        del self._live[job.id]
        self._over[job.id] = live
        self._forget_logs()
        for change in (Change(kind="job", id=job.id), Change(kind="stats"), Change(kind="health")):
            self._changes.tell(change)

    def _forget_logs(self) -> None:
        """Let go of the oldest ended jobs, as far as the bounds ask."""
        events = sum(len(live.log.events) for live in self._over.values())
        while len(self._over) > ENDED_LOGS or (events > ENDED_EVENTS and len(self._over) > 1):
            events -= len(self._over.pop(next(iter(self._over))).log.events)

    async def _write_down(self, job: Job) -> None:
        """Write what stands fast. What the disk does not take now is tried again until it does, at the latest when the
        node ends: an outcome that was told must not be another one after the next start."""
        try:
            await self._history.save(job)
            self._unwritten.pop(job.id, None)
        except HerdError as error:
            log.error("%s is not on disk as it is now: %s", job.id, error)
            self._unwritten[job.id] = job
            if self._rewriting is None or self._rewriting.done():
                self._rewriting = asyncio.create_task(self._rewrite())

    async def _rewrite(self) -> None:
        while self._unwritten:
            await asyncio.sleep(REWRITE_S)
            await self._try_unwritten()

    async def _try_unwritten(self) -> None:
        for job_id, job in list(self._unwritten.items()):
            try:
                await self._history.save(job)
            except HerdError:
                return
            if self._unwritten.get(job_id) is job:  # else it has gone on meanwhile
                del self._unwritten[job_id]

    async def close(self) -> None:
        """The last chance of outcomes that the disk did not take."""
        if self._rewriting is not None:
            self._rewriting.cancel()
        await self._try_unwritten()
        for job_id in self._unwritten:
            log.error("the outcome of %s could not be written", job_id)

    async def _leave_for_later(self, live: LiveJob) -> None:
        """The node ends in good order: the image goes back to the queue on disk, and the next start draws it."""
        with contextlib.suppress(HerdError):  # logged by the history; it still stands there as running
            await self._history.save(taken_up(live.job.model_copy(update={"status": "queued"})))
        live.log.abandon()
        live.ended.set()
        del self._live[live.job.id]
