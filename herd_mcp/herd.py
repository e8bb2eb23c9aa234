"""Herd: the one object that surfaces talk to. It owns the jobs that were asked here, from acceptance to the outcome."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path

from herd_mcp.changes import Changes
from herd_mcp.health import fleet_health
from herd_mcp.joblog import JobLog
from herd_mcp.jobs import (
    Attempt,
    Cancelled,
    ChatRequest,
    ChatResult,
    Completed,
    Delta,
    ErrorCode,
    ErrorInfo,
    Failed,
    HerdError,
    ImageRequest,
    ImageResult,
    Job,
    JobEvent,
    Kind,
    Loading,
    NodeEstimate,
    Progress,
    Queued,
    Request,
    Routed,
    new_job_id,
)
from herd_mcp.node.gallery import Gallery
from herd_mcp.node.history import History
from herd_mcp.node.identity import node_id
from herd_mcp.node.node import Node
from herd_mcp.node.statistics import day_figures, image_stats
from herd_mcp.retry import after_failure, after_restart
from herd_mcp.settings import Settings, home
from herd_mcp.state import Change, FleetHealth, ImageStats, ModelInfo, NodeState

log = logging.getLogger(__name__)

ENDED_LOGS = 256
"""Ended jobs whose events can still be read; of older ones only the outcome."""
CANCEL_S = 60.0
"""How long `cancel` waits for the engine to let go: one step of the slowest image."""
FORGET_EVERY_S = 600.0


class _Live:
    """A job that was accepted and is not over, with what its owner needs while it runs."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.log = JobLog(job.id)
        self.accepted_at = time.monotonic()
        self.ttft_s: float | None = None
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False
        self.ended = asyncio.Event()


class Herd:
    """Submit, watch, cancel; models, nodes, statistics, health. Open with `open_herd`."""

    def __init__(self, settings: Settings, node: Node, history: History, gallery: Gallery) -> None:
        self.settings = settings
        self.node_id = node.node_id
        self.node_name = node.name
        self.version = node.version
        self._node = node
        self._history = history
        self._gallery = gallery
        self._live: dict[str, _Live] = {}
        self._over: dict[str, _Live] = {}
        """The last jobs that ended, oldest first."""
        self._changes = Changes()
        node.on_change = self._engines_changed

    # ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, request: Request, *, client: str, stream: bool = False) -> Job:
        """Accept a request: when this returns, the job is on disk and will have exactly one outcome.

        `client` names the surface. `stream`: the asker shows the answer while it comes, so a chat is not repeated
        after its first token. Raises HerdError: model_not_found, kind_not_supported, invalid_request, busy,
        insufficient_memory, draining, disk.
        """
        job = Job(
            id=new_job_id(self.node_id),
            kind=request.kind,
            tags=request.tags,
            request=request,
            client=client,
            stream=stream,
            created_at=time.time(),
        )
        return await self._accept(job)

    async def watch(self, job_id: str, after_seq: int = 0) -> AsyncIterator[JobEvent]:
        """The job's events after `after_seq`, then those to come, to the terminal one. Of a job long over only that.

        Raises HerdError(job_not_found).
        """
        live = self._live.get(job_id) or self._over.get(job_id)
        if live is None:
            yield _outcome(await self.job(job_id))
            return
        async for event in live.log.read(after_seq):
            yield event

    async def cancel(self, job_id: str, *, disconnected: bool = False) -> Job:
        """End a job at its next token or step and return it as it ended. One that is over stays as it is.

        `disconnected`: because its asker went away. Raises HerdError(job_not_found), or timeout when the engine does
        not let go in time; the job is cancelled all the same.
        """
        live = self._live.get(job_id)
        if live is None:
            return await self.job(job_id)
        live.cancelled = True
        if disconnected:
            live.job = live.job.model_copy(update={"disconnected": True})
        self._node.cancel(job_id)
        try:
            await asyncio.wait_for(live.ended.wait(), CANCEL_S)
        except TimeoutError:
            raise HerdError(
                ErrorCode.TIMEOUT,
                f"{job_id} will be cancelled, but its engine has not come to the end of its step yet.",
                "Ask again in a while with `herd-mcp jobs`.",
                retryable=True,
            ) from None
        return live.job

    async def job(self, job_id: str) -> Job:
        """One job as it is now. Raises HerdError(job_not_found)."""
        live = self._live.get(job_id) or self._over.get(job_id)
        job = live.job if live else await self._history.get(job_id)
        if job is None:
            raise HerdError(
                ErrorCode.JOB_NOT_FOUND, "There is no job with this id on this node.", "`herd-mcp jobs` lists them."
            )
        return job

    async def jobs(self, *, limit: int = 50, status: str | None = None) -> list[Job]:
        """The newest jobs first, live ones as they are now."""
        stored = await self._history.newest(limit, status)
        now = {job.id: self._live[job.id].job if job.id in self._live else job for job in stored}
        return [job for job in now.values() if status is None or job.status == status]

    # ── what there is ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def models(self, kind: Kind | None = None) -> list[ModelInfo]:
        """The models of this node."""
        return [model for model in await self._node.models() if kind in (None, model.kind)]

    async def nodes(self) -> list[NodeState]:
        """Every node of the herd: in this build, this one."""
        return [await asyncio.to_thread(self._node.state)]

    async def stats(self) -> ImageStats:
        """Figures of all image jobs."""
        return await self._history.read(image_stats)

    async def health(self) -> FleetHealth:
        """Figures of the last 24 hours and what to do about trouble."""
        return fleet_health(
            await self.nodes(),
            await self.models(),
            await self._history.read(day_figures),
            settings=self.settings,
            gallery_bytes=await self._gallery.total_bytes(),
            disk_free_bytes=shutil.disk_usage(self._gallery.folder).free,
            damaged_history=str(self._history.moved_aside or ""),
        )

    async def image(self, image_id: str) -> bytes:
        """The PNG. Raises HerdError(image_not_found)."""
        return await self._gallery.read(image_id)

    async def thumbnail(self, image_id: str) -> bytes:
        """A JPEG of at most 512 px and 64 KiB. Raises HerdError(image_not_found)."""
        return await self._gallery.thumbnail(image_id)

    def image_path(self, image_id: str) -> Path:
        """Where the PNG lies, for people on this Mac. Raises HerdError(image_not_found)."""
        return self._gallery.path(image_id)

    def subscribe(self) -> AsyncIterator[Change]:
        """What changes from now on, coalesced."""
        return self._changes.read()

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def draining(self) -> bool:
        return self._node.draining

    async def drain(self, timeout_s: float) -> None:
        """Take no new jobs, let the running ones end within `timeout_s`."""
        self._node.drain()
        self._changes.tell(Change(kind="health"))
        tasks = [live.task for live in self._live.values() if live.task]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    async def restore(self) -> None:
        """Take up what a killed node left: images run again, chats end as interrupted."""
        for job in await self._history.unfinished():
            error = after_restart(job)
            if error is None:
                log.info("taking up %s again", job.id)
                try:
                    await self._accept(_taken_up(job), forced=True)
                    continue
                except HerdError as refused:
                    error = refused.info
            await self._history.save(_closed(job, Failed(error=error)))

    async def tidy(self) -> None:
        """Forget the answers of chats that are older than chat_keep_s, for ever."""
        while True:
            with contextlib.suppress(HerdError):
                while await self._history.forget_answers(time.time() - self.settings.chat_keep_s):
                    pass
            await asyncio.sleep(FORGET_EVERY_S)

    async def close(self) -> None:
        """End the node and wait for the owners of its jobs."""
        await self._node.close()
        tasks = [live.task for live in self._live.values() if live.task]
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_S)

    # ── one job, from acceptance to outcome ───────────────────────────────────────────────────────────────────────────

    async def _accept(self, job: Job, *, forced: bool = False) -> Job:
        """Reserve a place, write the job down, then let it run."""
        assert job.request is not None
        live = _Live(job)
        await self._reserve(live, forced=forced)
        self._live[job.id] = live
        try:
            await self._history.save(live.job)
        except BaseException:
            del self._live[job.id]
            self._node.cancel(job.id)
            raise
        live.task = asyncio.create_task(self._drive(live))
        self._changes.tell(Change(kind="job", id=job.id))
        return live.job

    async def _reserve(self, live: _Live, *, forced: bool) -> None:
        """Place the next attempt of the job on a node. Raises HerdError."""
        job = live.job
        assert job.request is not None
        plan = await self._node.plan(job.request)
        attempt = Attempt(number=len(job.attempts) + 1, node=self.node_name, started_at=time.time())
        spool = str(self._gallery.spool_file()) if job.kind == "image" else ""
        self._node.reserve(job, attempt.number, plan, spool=spool, forced=forced)
        routed = Routed(node=self.node_name, model=plan.spec.model, estimates=(NodeEstimate(node=self.node_name),))
        live.job = job.model_copy(
            update={"attempts": (*job.attempts, attempt), "model": plan.spec.model, "routed": routed}
        )

    async def _drive(self, live: _Live) -> None:
        """Run attempts until the job has its outcome; write it down, then tell it."""
        try:
            outcome = await self._attempts(live)
        except Exception as error:
            log.exception("job %s", live.job.id)
            outcome = Failed(error=_internal(error))
        if live.job.kind == "image" and isinstance(outcome, Failed) and outcome.error.code == ErrorCode.INTERRUPTED:
            await self._leave_for_later(live)
        else:
            await self._finish(live, outcome)

    async def _attempts(self, live: _Live) -> Completed | Failed | Cancelled:
        while True:
            assert live.job.routed is not None
            live.log.append(live.job.routed)
            if live.cancelled:
                self._node.cancel(live.job.id)
            outcome = await self._attempt(live)
            if not isinstance(outcome, Failed) or live.cancelled:
                return outcome
            live.job = _attempt_over(live.job, outcome)
            if not after_failure(live.job, outcome.error, told_tokens=live.ttft_s is not None):
                return outcome
            log.info("job %s is tried again: %s", live.job.id, outcome.error.message)
            try:
                await self._reserve(live, forced=True)
                await self._history.save(live.job)
            except HerdError as error:
                return Failed(error=error.info)

    async def _attempt(self, live: _Live) -> Completed | Failed | Cancelled:
        """One attempt on this node: its events go to the log, its outcome is returned."""
        async with contextlib.aclosing(self._node.run(live.job.id, len(live.job.attempts))) as events:
            async for event in events:
                match event:
                    case Completed(result=ImageResult() as result):
                        return await self._keep(result)
                    case Completed() | Failed() | Cancelled():
                        return event
                    case _:
                        self._note(live, event)
        raise AssertionError("a run ended without an outcome")

    async def _keep(self, result: ImageResult) -> Completed | Failed:
        """The picture is on this disk before anybody hears of it."""
        try:
            return Completed(result=await self._gallery.keep(result))
        except HerdError as error:
            return Failed(error=error.info)

    def _note(self, live: _Live, event: JobEvent) -> None:
        """What an event means for the job's record; then to the readers."""
        match event:
            case Delta():
                if live.ttft_s is None:
                    live.ttft_s = round(time.monotonic() - live.accepted_at, 4)
            case Loading() if live.job.status == "queued":
                self._mark(live, {"status": "loading"})
            case Progress():
                if live.job.status != "running":
                    self._mark(live, {"status": "running", "started_at": time.time(), "progress": event})
                else:
                    live.job = live.job.model_copy(update={"progress": event})
                self._changes.tell(Change(kind="job", id=live.job.id))
            case Queued():
                pass
        live.log.append(event)

    def _mark(self, live: _Live, update: dict[str, object]) -> None:
        """A new status, written down beside the run: after a crash it tells whether an engine had begun."""
        live.job = live.job.model_copy(update=update)
        # A failed write is logged by the history, and the outcome is written again.
        self._history.write(live.job).add_done_callback(lambda future: future.exception())

    async def _finish(self, live: _Live, outcome: Completed | Failed | Cancelled) -> None:
        """Write the outcome down, then tell it."""
        job = _closed(_attempt_over(live.job, outcome), outcome, live.ttft_s, time.monotonic() - live.accepted_at)
        if isinstance(outcome, Completed) and job.result is not None:
            outcome = Completed(result=job.result)
        stored = job
        if isinstance(job.result, ChatResult) and not self.settings.chat_keep_s:
            stored = job.model_copy(update={"result": None})
        try:
            await self._history.save(stored)
        except HerdError as error:
            log.error("the outcome of %s is not on disk: %s", job.id, error)
        live.job = job
        live.log.append(outcome)
        live.ended.set()
        self._live.pop(job.id, None)
        self._over[job.id] = live
        while len(self._over) > ENDED_LOGS:
            del self._over[next(iter(self._over))]
        self._changes.tell(Change(kind="job", id=job.id))
        self._changes.tell(Change(kind="stats"))
        self._changes.tell(Change(kind="health"))

    async def _leave_for_later(self, live: _Live) -> None:
        """The node ends in good order: the image goes back to the queue on disk, and the next start draws it."""
        with contextlib.suppress(HerdError):  # logged by the history; it still stands there as running
            await self._history.save(_taken_up(live.job.model_copy(update={"status": "queued"})))
        live.log.abandon()
        live.ended.set()
        self._live.pop(live.job.id, None)

    def _engines_changed(self) -> None:
        self._changes.tell(Change(kind="health"))
        self._changes.tell(Change(kind="models"))


def _attempt_over(job: Job, outcome: Completed | Failed | Cancelled) -> Job:
    """The job with its last attempt closed; one that is closed stays."""
    last = job.attempts[-1]
    if last.ended_at is not None:
        return job
    word = outcome.error.code if isinstance(outcome, Failed) else outcome.type
    ended = last.model_copy(update={"ended_at": time.time(), "outcome": str(word)})
    return job.model_copy(update={"attempts": (*job.attempts[:-1], ended)})


def _closed(
    job: Job, outcome: Completed | Failed | Cancelled, ttft_s: float | None = None, total_s: float | None = None
) -> Job:
    """The job at its end: a chat without its prompt, an image without the picture it started from."""
    update: dict[str, object] = {
        "status": outcome.type,
        "finished_at": time.time(),
        "progress": None,
        "request": None if isinstance(job.request, ChatRequest) else _without_picture(job.request),
    }
    timings = job.timings.model_copy(
        update={"ttft_s": ttft_s, "total_s": None if total_s is None else round(total_s, 4)}
    )
    if isinstance(outcome, Completed):
        timings = outcome.result.timings.model_copy(update={"ttft_s": ttft_s, "total_s": timings.total_s})
        update["result"] = outcome.result.model_copy(update={"timings": timings})
    if isinstance(outcome, Failed):
        update["error"] = outcome.error
    return job.model_copy(update={**update, "timings": timings})


def _taken_up(job: Job) -> Job:
    """A job of a killed node, as it is queued again: an attempt that had begun ended with the node."""
    begun = job.status != "queued" and job.attempts and job.attempts[-1].ended_at is None
    if begun:
        lost = job.attempts[-1].model_copy(update={"ended_at": time.time(), "outcome": ErrorCode.NODE_LOST.value})
        job = job.model_copy(update={"attempts": (*job.attempts[:-1], lost)})
    else:
        job = job.model_copy(update={"attempts": job.attempts[:-1]})
    return job.model_copy(update={"status": "queued", "progress": None})


def _without_picture(request: ImageRequest | None) -> ImageRequest | None:
    return None if request is None else request.model_copy(update={"image": None})


def _outcome(job: Job) -> JobEvent:
    """The terminal event of a job out of the history."""
    if job.status == "completed" and job.result is not None:
        event: JobEvent = Completed(result=job.result)
    elif job.status == "cancelled":
        event = Cancelled()
    elif job.error is not None:
        event = Failed(error=job.error)
    else:
        event = Failed(error=_forgotten())
    return event.model_copy(update={"job_id": job.id, "seq": 1})


def _forgotten() -> ErrorInfo:
    return ErrorInfo(
        code=ErrorCode.JOB_NOT_FOUND,
        message="The job is over and its answer is not kept any more.",
        hint="Ask again; chat_keep_s says how long answers are kept.",
    )


def _internal(error: Exception) -> ErrorInfo:
    if isinstance(error, HerdError):
        return error.info
    return ErrorInfo(
        code=ErrorCode.INTERNAL,
        message="herd-mcp made a mistake with this job.",
        hint="logs/node.log says more; please report it.",
        retryable=True,
    )


@contextlib.asynccontextmanager
async def open_herd(settings: Settings) -> AsyncIterator[Herd]:
    """The herd of this home, with its node running and what a killed one left taken up again."""
    folder = home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    node = Node(settings, folder, node_id(folder), version("herd-mcp"))
    history = await History.open(folder / "herd.db")
    herd = Herd(settings, node, history, Gallery(folder / "images"))
    tidying = asyncio.create_task(herd.tidy())
    try:
        await herd.restore()
        yield herd
    finally:
        tidying.cancel()
        await herd.close()
        await history.close()
