"""Herd: the one object that surfaces talk to. It joins the owner of the jobs with the node, later with the peers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from importlib.metadata import version
from pathlib import Path

from herd_mcp.changes import Changes
from herd_mcp.health import fleet_health
from herd_mcp.jobs import ErrorCode, HerdError, Job, JobEvent, Kind, Request, new_job_id
from herd_mcp.node.choose import find
from herd_mcp.node.gallery import Gallery
from herd_mcp.node.history import History
from herd_mcp.node.identity import node_id
from herd_mcp.node.image_families import find_family
from herd_mcp.node.node import Node
from herd_mcp.node.pressure import ReadMemory, read
from herd_mcp.node.statistics import day_figures, image_stats
from herd_mcp.owner.owner import Owner
from herd_mcp.owner.record import outcome_of, without_picture
from herd_mcp.settings import Settings, home
from herd_mcp.state import Change, FleetHealth, ImageStats, ModelInfo, NodeState

log = logging.getLogger(__name__)

FORGET_EVERY_S = 600.0
CLOSE_S = 30.0


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
        self._changes = Changes()
        self._owner = Owner(node, history, gallery, self._changes, settings.chat_keep_s)
        node.on_change = self._engines_changed

    # ── jobs ──

    async def submit(self, request: Request, *, client: str, stream: bool = False, patient: bool = True) -> Job:
        """Accept a request: when this returns, the job is on disk and will have exactly one outcome.

        `client` names the surface. `stream`: the asker shows the answer while it comes, so a chat is not repeated
        after its first token. Not `patient`: busy is raised where a model must be loaded first, which begins then.
        Raises HerdError: model_not_found, model_incomplete, kind_not_supported, invalid_request, busy,
        insufficient_memory, draining, disk.
        """
        if not patient:
            await self._begin_loading(request)
        job = Job(
            id=new_job_id(self.node_id),
            kind=request.kind,
            tags=request.tags,
            client=client,
            request=request,
            stream=stream,
            created_at=time.time(),
        )
        return await self._owner.accept(job)

    async def watch(self, job_id: str, after_seq: int = 0) -> AsyncGenerator[JobEvent, None]:
        """The job's events after `after_seq`, then those to come, to the terminal one. Of a job long over only that.

        Raises HerdError: job_not_found, or interrupted when the node ends before the job does.
        """
        async with contextlib.aclosing(self.watch_batches(job_id, after_seq)) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    async def watch_batches(self, job_id: str, after_seq: int = 0) -> AsyncGenerator[Sequence[JobEvent], None]:
        """As `watch`, for those who pass many events on: what has come meanwhile at once, never empty. One that keeps
        up gets every event alone and at once."""
        live = self._owner.find(job_id)
        if live is None:
            yield (outcome_of(await self.job(job_id)),)
            return
        async for batch in live.log.read(after_seq):
            yield batch

    async def cancel(self, job_id: str, *, disconnected: bool = False) -> Job:
        """End a job at its next token or step and return it as it ended. One that is over stays as it is.

        `disconnected`: because its asker went away. Raises HerdError(job_not_found), or timeout when the engine does
        not let go in time; the job is cancelled all the same.
        """
        live = self._owner.find(job_id)
        if live is None:
            return await self.job(job_id)
        if disconnected and not live.ended.is_set():
            live.job = live.job.model_copy(update={"disconnected": True})
        return await self._owner.cancel(live)

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

    async def _begin_loading(self, request: Request) -> None:
        plan = await self._node.plan(request)
        if not self._node.loads.loaded(plan.key):
            self._node.loads.check_fit(plan)
            self._node.loads.check_level(plan)
            self._node.loads.warm(plan)
            raise self._node.loads.loading(plan)

    # ── loading ──

    async def load(self, name: str, *, wait: bool = True) -> ModelInfo:
        """Load a model, as it is loaded for requests that ask for nothing special, and return it when it takes work;
        without `wait` at once. Raises HerdError: model_not_found, model_incomplete, kind_not_supported,
        insufficient_memory, busy with the numbers when there is no room now, or why it does not load."""
        plan = await self._node.plan_model(name)
        self._node.loads.check_fit(plan)
        if wait:
            await self._node.loads.load(plan)
        else:
            self._node.loads.warm(plan)
        return await self.model(plan.spec.model)

    async def unload(self, name: str) -> ModelInfo:
        """End the engines of a model and return it when they are gone. Raises HerdError: model_not_found, busy with the
        jobs that run or wait in one."""
        model = await self.model(name)
        await self._node.loads.unload(model.name)
        return await self.model(model.name)

    async def preload(self) -> None:
        """Begin to load what the settings name. What cannot be loaded is logged, and told by `health`."""
        for name in self.settings.preload:
            try:
                await self.load(name, wait=False)
            except HerdError as error:
                log.warning("%s, which `preload` names, is not loaded: %s", name, error)

    # ── what there is ──

    async def model(self, name: str) -> ModelInfo:
        """The model that a name means. Raises HerdError(model_not_found)."""
        return find(await self._node.models(), name)

    async def models(self, kind: Kind | None = None) -> list[ModelInfo]:
        """The models of this node."""
        return [model for model in await self._node.models() if kind in (None, model.kind)]

    def repository(self, name: str) -> str | None:
        """The Hugging Face repository that a name means, where that is known."""
        family = find_family(name)
        return family.repo or None if family else name if "/" in name else None

    async def nodes(self) -> list[NodeState]:
        """Every node of the herd: in this build, this one."""
        return [self._node.state()]

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
            disk_free_bytes=shutil.disk_usage(self._gallery.folder.parent).free,
            damaged_history=self._history.moved_aside.name if self._history.moved_aside else "",
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

    # ── life ──

    @property
    def draining(self) -> bool:
        return self._node.draining

    async def drain(self, timeout_s: float) -> None:
        """Take no new jobs, let the running ones end within `timeout_s`."""
        self._node.drain()
        self._changes.tell(Change(kind="health"))
        await self._owner.wait(timeout_s)

    async def tidy(self) -> None:
        """Forget the answers of chats that are older than chat_keep_s, for ever."""
        while True:
            with contextlib.suppress(HerdError):
                await self._owner.forget_answers()
            await asyncio.sleep(FORGET_EVERY_S)

    async def restore(self) -> None:
        """Take up what a killed node left."""
        await self._owner.restore()

    async def close(self) -> None:
        """End the node and wait for the owners of its jobs."""
        await self._node.close()
        await self._owner.wait(CLOSE_S)
        await self._owner.close()

    def _engines_changed(self) -> None:
        self._changes.tell(Change(kind="health"))
        self._changes.tell(Change(kind="models"))


@contextlib.asynccontextmanager
async def open_herd(settings: Settings, read_memory: ReadMemory = read) -> AsyncIterator[Herd]:
    """The herd of this home, with its node running and what a killed one left taken up again.

    `read_memory` is how the node asks its system about memory.
    """
    folder = home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    node = Node(settings, folder, node_id(folder), version("herd-mcp"), read_memory)
    gallery = Gallery(folder / "images")
    history = await History.open(folder / "herd.db")
    node.learning.measured.load(await history.measured())
    node.learning.on_learned = history.write_measured
    herd = Herd(settings, node, history, gallery)
    node.start()
    beside = [asyncio.create_task(herd.tidy())]
    try:
        await herd.restore()
        beside.append(asyncio.create_task(herd.preload()))
        yield herd
    finally:
        for task in beside:
            task.cancel()
        await herd.close()
        await history.close()
