"""The owner of the jobs that were asked here: from acceptance to the one outcome, whoever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial

from herd_mcp.changes import Changes
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
    Progress,
    Queued,
    Routed,
)
from herd_mcp.node.gallery import Gallery
from herd_mcp.node.history import History
from herd_mcp.node.words import interrupted
from herd_mcp.orders import Accepted, Ending, Order, Placed, Placer, Returned
from herd_mcp.owner.ended import Ended
from herd_mcp.owner.live import LiveJob
from herd_mcp.owner.record import Outcome, attempt_over, internal, job_over, taken_up
from herd_mcp.owner.retry import (
    MAX_RETURNS,
    NO_PLACE_NOW,
    OF_THE_NODE,
    after_failure,
    after_restart,
    after_return,
    alone_after,
    died_on,
)
from herd_mcp.owner.writing import Writing
from herd_mcp.state import Change

log = logging.getLogger(__name__)

AGAIN_S, AGAIN_MOST_S = 0.5, 4.0
"""Between two tries to find a place for a job that was accepted: at first, and at most."""
MOVED_S = 2.0
"""How long a job that was placed again because it waited stays where it is, the first time; it doubles each time: a
node that is not what it tells would have it run to and fro."""
CANCEL_S = 60.0
"""How long `cancel` waits for the engine to let go: one step of the slowest image."""


class Owner:
    """Jobs that were accepted and are not over, and the last that ended."""

    def __init__(
        self, node_id: str, placer: Placer, history: History, gallery: Gallery, changes: Changes, chat_keep_s: float
    ) -> None:
        self._node_id = node_id
        self.placer = placer
        self._history = history
        self._gallery = gallery
        self._changes = changes
        self._live: dict[str, LiveJob] = {}
        self._writing = Writing(history)
        self.ended = Ended(history, chat_keep_s)
        """Jobs that are over."""

    def find(self, job_id: str) -> LiveJob | None:
        """A job that is not over, or one of the last that ended."""
        return self._live.get(job_id) or self.ended.find(job_id)

    async def accept(self, job: Job) -> Job:
        """Reserve a place, write the job down, let it run. Raises HerdError."""
        live = LiveJob(job)
        await self._reserve(live, forced=False)
        self._live[job.id] = live
        try:
            await self._history.save(live.job)
        except BaseException:
            del self._live[job.id]
            live.give_back()
            raise
        self._let_run(live)
        self._changes.tell(Change(kind="job", id=job.id))
        return live.job

    async def cancel(self, live: LiveJob) -> Job:
        """End a job at its next token or step; one that is over stays as it is. Raises HerdError(timeout)."""
        live.cancel.set()
        live.stop()
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
            error = after_restart(job, self._node_id)
            if error is None:
                log.info("taking up %s again", job.id)
                try:
                    if not self._ask_again(job):
                        await self._take_up(job)
                    continue
                except Exception as refused:
                    log.exception("%s cannot be taken up", job.id)
                    error = internal(refused)
            await self._writing.write(job_over(job, Failed(error=error)))

    async def _take_up(self, job: Job) -> None:
        """Let a job run again that was accepted before. Raises HerdError."""
        live = LiveJob(taken_up(job, self._node_id))
        try:
            await self._reserve(live, forced=True, avoid=died_on(live.job))
        except HerdError as error:
            if not self._may_wait(error):
                raise
        await self._writing.write(live.job)  # it stands on the disk as it was accepted; its new state may come late
        self._let_run(live)

    def _ask_again(self, job: Job) -> bool:
        """Whether the last attempt of a job may still run on another node, which is then asked for its end."""
        last = job.attempts[-1] if job.attempts else None
        if last is None or last.outcome or last.node_id in ("", self._node_id):
            return False
        runner = self.placer.runner(last.node_id)
        if runner is None:
            return False
        live = LiveJob(job)
        live.spool = self._gallery.spool_file() if job.kind == "image" else None
        order = Order(job=job, attempt=last.number, forced=True, spool=str(live.spool or ""))
        live.placed = Placed(order, runner, Accepted(model=job.model), ())
        self._let_run(live)
        return True

    def _let_run(self, live: LiveJob) -> None:
        self._live[live.job.id] = live
        live.task = asyncio.create_task(self._drive(live))

    async def rebalance(self) -> None:
        """Ask the jobs back that have not begun and would be done much sooner on another node by now: they are placed
        again."""
        now = asyncio.get_running_loop().time()
        moving = [live for live in self._live.values() if self._moves(live, now)]
        # Not one by one: a node that is cut off holds up no other.
        await asyncio.gather(*(live.ask_back() for live in moving))

    def _moves(self, live: LiveJob, now: float) -> bool:
        """Whether to ask a job back; it stays where it is for a while then."""
        if live.placed is None or live.cancelled:
            return False
        if live.job.status not in ("queued", "loading"):  # loading is told to all who wait for the model
            return False
        if live.returns >= MAX_RETURNS or now < live.stays_until:
            return False
        if not self.placer.elsewhere(live.placed, avoid=died_on(live.job)):
            return False
        live.stays_until = now + MOVED_S * 2.0**live.moves
        live.moves += 1
        return True

    async def wait(self, timeout_s: float) -> None:
        """Until every job is over, or the time is."""
        tasks = [live.task for live in self._live.values() if live.task]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    # ── one job ──

    async def _reserve(
        self, live: LiveJob, *, forced: bool, alone: bool = False, avoid: frozenset[str] = frozenset()
    ) -> None:
        """Take a place for the next attempt. Raises HerdError."""
        job = live.job
        live.spool = self._gallery.spool_file() if job.kind == "image" else None
        number = job.attempts[-1].number + 1 if job.attempts else 1
        fresh = job.model_copy(update={"status": "queued", "progress": None})
        order = Order(job=fresh, attempt=number, forced=forced, alone=alone, spool=str(live.spool or ""))
        placed = live.placed = await self.placer.place(order, avoid=avoid)
        node, model = placed.runner, placed.accepted.model
        attempt = Attempt(number=placed.order.attempt, node=node.name, node_id=node.node_id, started_at=time.time())
        update = {
            "attempts": (*job.attempts, attempt), "model": model,
            "routed": Routed(node=node.name, model=model, estimates=placed.estimates),
            # An attempt that has not begun is not charged with a death of the node.
            "status": "queued", "progress": None,
        }  # fmt: skip
        live.job = job.model_copy(update=update)

    async def _drive(self, live: LiveJob) -> None:
        """Run attempts until the job has its outcome; write it down, then tell it."""
        try:
            if live.placed is None:
                await self._again(live)
            outcome = await self._attempts(live)
        except HerdError as error:  # no node takes it
            outcome = Failed(error=error.info)
            if live.cancelled and not _interrupted(outcome):
                outcome = Cancelled()
        except Exception as error:
            log.exception("job %s", live.job.id)
            outcome = Failed(error=internal(error))
        if live.job.kind == "image" and isinstance(outcome, Failed) and outcome.error.code == ErrorCode.INTERRUPTED:
            await self._leave_for_later(live)
        else:
            await self._finish(live, outcome)

    async def _attempts(self, live: LiveJob) -> Outcome:
        """Raises HerdError where there is no place for another."""
        while True:
            assert live.job.routed is not None
            live.log.append(live.job.routed)
            if live.cancelled:
                live.stop()
            alone = live.placed is not None and live.placed.order.alone
            outcome = await self._attempt(live)
            if live.spool is not None:
                self._gallery.discard(live.spool)
            if live.cancelled and not isinstance(outcome, Completed) and not _interrupted(outcome):
                return Cancelled()  # an engine that had to be ended for it is no failure of the job
            if isinstance(outcome, Completed | Cancelled) or (live.cancelled and not isinstance(outcome, Returned)):
                return outcome
            told_tokens = live.ttft_s is not None
            if isinstance(outcome, Failed) and outcome.error.code in OF_THE_NODE and live.placed is not None:
                self.placer.note_failure(live.placed.runner.node_id)
            live.job = attempt_over(live.job, outcome)
            if isinstance(outcome, Returned):
                if refused := after_return(live.job, outcome, live.returns, told_tokens=told_tokens):
                    return Failed(error=refused)
                live.returns += 1
                log.info("job %s is placed again: %s", live.job.id, outcome.reason)
            else:
                if not after_failure(live.job, outcome.error, told_tokens=told_tokens):
                    return outcome
                log.info("job %s is tried again: %s", live.job.id, outcome.error.message)
            await self._again(live, alone=alone or (isinstance(outcome, Failed) and alone_after(outcome.error)))

    async def _again(self, live: LiveJob, *, alone: bool = False) -> None:
        """Take a place for another attempt, not where one died if there is another node; write it down. Where no node
        takes it now, one that is started anew or comes back may: that is waited for. Raises HerdError."""
        now = asyncio.get_running_loop().time
        until, pause_s, live.placed = None, AGAIN_S, None
        while True:
            try:
                await self._reserve(live, forced=True, alone=alone, avoid=died_on(live.job))
                break
            except HerdError as error:
                if not self._may_wait(error):
                    raise
                if until is None:
                    until = now() + self.placer.patience_s
                    log.info("job %s waits for a node: %s", live.job.id, error)
                    self._mark(live, {"status": "queued", "progress": None})
                    live.log.append(Queued(position=0, message=error.info.message))
                if now() + pause_s > until:
                    raise
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await live.cancel.wait()
                if live.cancelled:
                    raise
                pause_s = min(pause_s * 2, AGAIN_MOST_S)
        try:
            await self._writing.save(live.job)
        except HerdError:
            live.give_back()
            raise

    def _may_wait(self, error: HerdError) -> bool:
        return bool(self.placer.patience_s) and error.info.code in NO_PLACE_NOW

    async def _attempt(self, live: LiveJob) -> Ending:
        """One attempt, wherever it has its place: its events go to the log, its end is returned."""
        assert live.placed is not None
        outcome = await live.placed.runner.run(live.placed.order, partial(self._note, live))
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
                live.ttft_s = round(asyncio.get_running_loop().time() - live.accepted_at, 4)
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
        self._writing.mark(live.job)
        self._changes.tell(Change(kind="job", id=live.job.id))

    async def _finish(self, live: LiveJob, outcome: Outcome) -> None:
        """Write the outcome down, then tell it."""
        job = job_over(
            live.job, outcome, ttft_s=live.ttft_s, total_s=asyncio.get_running_loop().time() - live.accepted_at
        )
        if isinstance(outcome, Completed) and job.result is not None:
            outcome = Completed(result=job.result)
        forget = isinstance(job.result, ChatResult) and not self.ended.chat_keep_s
        await self._writing.write(job.model_copy(update={"result": None}) if forget else job)
        if isinstance(job.result, ChatResult) and not forget:
            self.ended.answered(job.id)
        live.job = job
        live.log.append(outcome)
        live.ended.set()
        del self._live[job.id]
        self.ended.add(live)
        for change in (Change(kind="job", id=job.id), Change(kind="stats"), Change(kind="health")):
            self._changes.tell(change)

    async def leave(self) -> None:
        """This node ends: what runs on others, or has no place yet, is let go. An image is asked for again at the next
        start, while its node still has it; a chat is interrupted."""
        for live in [live for live in self._live.values() if not self._is_here(live)]:
            if live.task is not None:
                live.task.cancel()
                await asyncio.wait({live.task})
            if live.job.kind == "image":
                live.log.abandon()
                live.ended.set()
                self._live.pop(live.job.id, None)
            elif live.job.id in self._live:
                live.stop()
                await self._finish(live, Failed(error=interrupted()))

    def _is_here(self, live: LiveJob) -> bool:
        return live.placed is not None and live.placed.runner.node_id == self._node_id

    async def close(self) -> None:
        """The last chance of outcomes that the disk did not take."""
        await self._writing.close()

    async def _leave_for_later(self, live: LiveJob) -> None:
        """The node ends in good order: the image goes back to the queue on disk, and the next start draws it."""
        with contextlib.suppress(HerdError):  # logged by the history; it still stands there as running
            await self._writing.save(taken_up(live.job.model_copy(update={"status": "queued"}), self._node_id))
        live.log.abandon()
        live.ended.set()
        del self._live[live.job.id]


def _interrupted(outcome: Ending) -> bool:
    return isinstance(outcome, Failed) and outcome.error.code == ErrorCode.INTERRUPTED
