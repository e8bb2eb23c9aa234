"""Herd: the one object that surfaces talk to. It joins the owner of the jobs with the node and with the other nodes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from herd_mcp.catalog import of_herd
from herd_mcp.changes import Changes
from herd_mcp.figures import all_days, all_images
from herd_mcp.fleet.alone import Alone
from herd_mcp.fleet.trust import Trust
from herd_mcp.fleet.watching import watched
from herd_mcp.health import fleet_health
from herd_mcp.jobs import ErrorCode, HerdError, Job, JobEvent, Kind, Request, new_job_id, owner_of
from herd_mcp.mesh import Mesh
from herd_mcp.node.choose import find, not_found
from herd_mcp.node.gallery import Gallery, thumbnail
from herd_mcp.node.history import History
from herd_mcp.node.identity import node_id
from herd_mcp.node.image_families import find_family
from herd_mcp.node.node import Node
from herd_mcp.node.pressure import ReadMemory, read
from herd_mcp.node.statistics import day_figures
from herd_mcp.node.words import draining
from herd_mcp.orders import PeerApi
from herd_mcp.owner.local import LocalRunner
from herd_mcp.owner.own import OwnJobs
from herd_mcp.owner.owner import Owner
from herd_mcp.settings import Settings, home
from herd_mcp.state import Change, FleetHealth, ImageStats, ModelInfo, NodeState

log = logging.getLogger(__name__)

FORGET_EVERY_S = 600.0
CLOSE_S = 30.0
IN_HERD = "on any Mac of the herd"


class Herd:
    """Submit, watch, cancel; models, nodes, statistics, health. Open with `open_herd`."""

    def __init__(self, settings: Settings, node: Node, history: History, gallery: Gallery, trust: Trust) -> None:
        self.settings = settings
        self.node_id = node.node_id
        self.node_name = node.name
        self.version = node.version
        self._node = node
        self._history = history
        self._gallery = gallery
        self._changes = Changes()
        local = LocalRunner(node)
        self._owner = Owner(node.node_id, Alone(local), history, gallery, self._changes, settings.chat_keep_s)
        self._own = OwnJobs(self._owner, history, gallery)
        self.mesh = Mesh(settings, trust, node, local, gallery, self._owner, self._own, self._changes)
        """The other nodes."""
        self.admin = self.mesh.admin
        """What a person does with the herd."""
        node.on_change = self._engines_changed

    # ── jobs ──

    async def submit(self, request: Request, *, client: str, stream: bool = False, patient: bool = True) -> Job:
        """Accept a request: when this returns, the job is on disk and will have exactly one outcome.

        `client` names the surface. `stream`: the asker shows the answer while it comes, so a chat is not repeated
        after its first token. Not `patient`: busy is raised where a model must be loaded first, which begins then.
        Raises HerdError: model_not_found, model_incomplete, kind_not_supported, invalid_request, busy,
        insufficient_memory, draining, disk.
        """
        if self.draining:  # though another node could run it: who watches this one would lose it
            raise HerdError.of(draining())
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
        try:
            return await self._owner.accept(job)
        except HerdError as error:
            if error.info.code == ErrorCode.MODEL_NOT_FOUND and request.model and self.mesh.views():
                raise not_found(await self.models(), request.kind, request.model, IN_HERD) from None
            raise

    async def watch(self, job_id: str, after_seq: int = 0) -> AsyncGenerator[JobEvent, None]:
        """The job's events after `after_seq`, then those to come, to the terminal one. Of a job long over only that.

        Raises HerdError: job_not_found, interrupted when the node ends before the job does, or node_lost where another
        node owns the job and was not reached for `lease_s`.
        """
        async with contextlib.aclosing(self.watch_batches(job_id, after_seq)) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    async def watch_batches(self, job_id: str, after_seq: int = 0) -> AsyncGenerator[Sequence[JobEvent], None]:
        """As `watch`, for those who pass many events on: what has come meanwhile at once, never empty. One that keeps
        up gets every event alone and at once."""
        if api := self._elsewhere(job_id):
            async with contextlib.aclosing(watched(api, job_id, after_seq, lease_s=self.settings.lease_s)) as events:
                async for event in events:
                    yield (event,)
            return
        async for batch in self._own.watch_batches(job_id, after_seq):
            yield batch

    async def cancel(self, job_id: str, *, disconnected: bool = False) -> Job:
        """End a job at its next token or step and return it as it ended. One that is over stays as it is.

        `disconnected`: because its asker went away. Raises HerdError(job_not_found), node_lost where its owner is not
        reached, or timeout when the engine does not let go in time; the job is cancelled all the same.
        """
        if api := self._elsewhere(job_id):
            return await api.cancel_job(job_id)
        return await self._own.cancel(job_id, disconnected=disconnected)

    async def job(self, job_id: str) -> Job:
        """One job as it is now, without the picture it started from. Raises HerdError: job_not_found, node_lost where
        its owner is not reached."""
        if api := self._elsewhere(job_id):
            return await api.job(job_id)
        return await self._own.job(job_id)

    async def jobs(self, *, limit: int = 50, status: str | None = None) -> list[Job]:
        """The newest jobs first that were asked here, live ones as they are now."""
        return await self._own.jobs(limit=limit, status=status)

    def _elsewhere(self, some_id: str) -> PeerApi | None:
        """Whom to ask about a job or an image: the owner in its id. None where that is this node, or no node that is
        known; this one then says that there is no such thing."""
        owner_id = owner_of(some_id)
        return None if owner_id in ("", self.node_id) else self.mesh.api(owner_id)

    async def _begin_loading(self, request: Request) -> None:
        if self.mesh.others.warm(request):
            return
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
        return await self._model_here(plan.spec.model)

    async def unload(self, name: str) -> ModelInfo:
        """End the engines of a model and return it when they are gone. Raises HerdError: model_not_found, busy with the
        jobs that run or wait in one."""
        model = await self._model_here(name)
        await self._node.loads.unload(model.name)
        return await self._model_here(model.name)

    async def preload(self) -> None:
        """Begin to load what the settings name. What cannot be loaded is logged, and told by `health`."""
        for name in self.settings.preload:
            try:
                await self.load(name, wait=False)
            except HerdError as error:
                log.warning("%s, which `preload` names, is not loaded: %s", name, error)

    # ── what there is ──

    async def model(self, name: str) -> ModelInfo:
        """The model that a name means, on whatever node. Raises HerdError(model_not_found)."""
        where = {"where": IN_HERD} if self.mesh.views() else {}
        return find(await self.models(), name, **where)

    async def models(self, kind: Kind | None = None) -> list[ModelInfo]:
        """The models of the herd."""
        found, others = await self._node.models(), self.mesh.views()
        if others:
            defaults = {name for each in get_args(Kind) if (name := self.mesh.others.default(each))}
            found = of_herd(found, self.mesh.state(), others, defaults)
        return [model for model in found if kind in (None, model.kind)]

    async def _model_here(self, name: str) -> ModelInfo:
        return find(await self._node.models(), name)

    def repository(self, name: str) -> str | None:
        """The Hugging Face repository that a name means, where that is known."""
        family = find_family(name)
        return family.repo or None if family else name if "/" in name else None

    async def nodes(self) -> list[NodeState]:
        """Every node of the herd, this one first."""
        return [self.mesh.state(), *self.mesh.others.everyone()]

    @property
    def strangers(self) -> list[str]:
        """Who was not let into the herd of late, and why, for people."""
        return self.mesh.strangers

    async def stats(self) -> ImageStats:
        """Figures of all image jobs of the herd, as far as its nodes tell theirs in time."""
        own, (others, absent) = await asyncio.gather(self._own.stats(), self.mesh.others.figures())
        return all_images([own, *others], absent)

    async def health(self) -> FleetHealth:
        """Figures of the last 24 hours and what to do about trouble."""
        own, (others, absent) = await asyncio.gather(self._history.read(day_figures), self.mesh.others.figures())
        return fleet_health(
            await self.nodes(),
            await self.models(),
            all_days([own, *(part.day for part in others)]),
            absent=absent,
            apart=self.mesh.apart,
            settings=self.settings,
            gallery_bytes=await self._gallery.total_bytes(),
            disk_free_bytes=shutil.disk_usage(self._gallery.folder.parent).free,
            damaged_history=self._history.moved_aside.name if self._history.moved_aside else "",
        )

    async def image(self, image_id: str) -> bytes:
        """The PNG. Raises HerdError: image_not_found, node_lost where its owner is not reached."""
        if api := self._elsewhere(image_id):
            return await api.image(image_id)
        return await self._own.image(image_id)

    async def thumbnail(self, image_id: str) -> bytes:
        """A JPEG of at most 512 px and 64 KiB. Raises HerdError as `image`."""
        if self._elsewhere(image_id):
            return await asyncio.to_thread(thumbnail, await self.image(image_id))
        return await self._gallery.thumbnail(image_id)

    def image_path(self, image_id: str) -> Path:
        """Where the PNG lies, for people on this Mac. Raises HerdError(image_not_found)."""
        return self._gallery.path(image_id)

    def subscribe(self) -> AsyncIterator[Change]:
        """What changes from now on, coalesced."""
        return self._changes.read()

    # ── what the owner allows ──

    async def pause(self, for_s: float | None = None) -> NodeState:
        """Do nothing for other nodes for so many seconds, None until `resume`; over restarts too. What is asked here is
        done as before. Raises HerdError(disk)."""
        await self._node.pauses.begin(for_s)
        return self._paused()

    async def resume(self) -> NodeState:
        """End the pause by hand. `paused` of what comes back tells what else is left. Raises HerdError(disk)."""
        await self._node.pauses.end()
        return self._paused()

    def _paused(self) -> NodeState:
        self._engines_changed()
        return self._node.state()

    # ── life ──

    @property
    def draining(self) -> bool:
        return self._node.draining

    async def drain(self, timeout_s: float) -> None:
        """Take no new jobs, give others' jobs back that have not begun, let the running ones end within `timeout_s`."""
        self._node.drain()
        self._changes.tell(Change(kind="health"))
        self.mesh.changed()
        await asyncio.gather(self.mesh.drain(timeout_s), self._owner.wait(timeout_s))

    async def tidy(self) -> None:
        """Forget the answers of chats that are older than chat_keep_s, for ever."""
        while True:
            with contextlib.suppress(HerdError):
                await self._owner.ended.forget_answers()
            await asyncio.sleep(FORGET_EVERY_S)

    async def restore(self) -> None:
        """Take up what a killed node left."""
        await self._owner.restore()

    async def close(self) -> None:
        """End the node, wait for the owners of its jobs, and part from the other nodes."""
        await self._node.close()
        await self._owner.leave()
        await asyncio.gather(self.mesh.drain(CLOSE_S), self._owner.wait(CLOSE_S))
        await self._owner.close()
        await self.mesh.close()

    def _engines_changed(self) -> None:
        self._changes.tell(Change(kind="health"))
        self._changes.tell(Change(kind="models"))
        self.mesh.engines_changed()


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
    node.learning.rates.load(await history.rates())
    node.learning.on_rate = history.write_rate
    herd = Herd(settings, node, history, gallery, Trust.open(folder / "trust", node.node_id))
    node.start()
    beside = [asyncio.create_task(herd.tidy())]
    try:
        await herd.mesh.open()
        await herd.restore()
        beside.append(asyncio.create_task(herd.preload()))
        yield herd
    finally:
        for task in beside:
            task.cancel()
        await herd.close()
        await history.close()
