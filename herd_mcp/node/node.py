"""The one owner of this Mac's state: it feeds `decide` with what happened and carries out what it says."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from herd_mcp import pipe
from herd_mcp.jobs import (
    ErrorInfo,
    Failed,
    HerdError,
    ImageRequest,
    Job,
    JobEvent,
    Request,
)
from herd_mcp.node import memory, plans, power, pressure
from herd_mcp.node.awake import Awake
from herd_mcp.node.awake import command as keeps_awake
from herd_mcp.node.caps import begun_px, begun_tokens
from herd_mcp.node.choose import choose, find, not_usable
from herd_mcp.node.decide import decide, next_tick_at
from herd_mcp.node.engines import EngineProcess, StartProcess
from herd_mcp.node.events import (
    Cancel,
    Close,
    Drain,
    Effect,
    EndEngine,
    Event,
    Exited,
    Heard,
    Measured,
    Refuse,
    Release,
    Send,
    Slept,
    StartEngine,
    Submit,
    TakeBack,
    Tell,
    Tick,
)
from herd_mcp.node.hardware import available_bytes, hardware
from herd_mcp.node.inbox import Inbox
from herd_mcp.node.lanes import EngineKey, Limits, Plan, State
from herd_mcp.node.learning import Learning
from herd_mcp.node.loads import Loads
from herd_mcp.node.models import hub_cache
from herd_mcp.node.offers import told
from herd_mcp.node.pause import Pauses
from herd_mcp.node.shelf import LIST_FRESH_S, Shelf
from herd_mcp.node.supervisor import Supervisor
from herd_mcp.node.surroundings import Surroundings
from herd_mcp.node.timer import Timer
from herd_mcp.node.watch import Watch, held_bytes
from herd_mcp.node.words import interrupted
from herd_mcp.node.work import work_of
from herd_mcp.orders import Ending
from herd_mcp.settings import Settings
from herd_mcp.state import EngineState, MemoryState, ModelInfo, NodeState, Power

log = logging.getLogger(__name__)


class Node:
    """Runs jobs on this Mac. Use as an async context manager; `reserve`, then `run`."""

    def __init__(
        self,
        settings: Settings,
        home: Path,
        node_id: str,
        version: str,
        read_memory: pressure.ReadMemory = pressure.read,
        read_power: Callable[[], Power] = power.read,
        start_engine: StartProcess = EngineProcess.start,
    ) -> None:
        self.settings = settings
        self.node_id = node_id
        self.name = settings.node_name
        self.version = version
        self.home = home
        self.started_at = time.time()
        self.budget_bytes = memory.budget_bytes(settings, hardware().total_bytes)
        self._state = State(settings.node_name, Limits.of(settings, self.budget_bytes))
        self._inboxes: dict[tuple[str, int], Inbox] = {}
        self._supervisor = Supervisor(start_engine, hub_cache(settings), self._engines_changed, self._heard, self._gone)
        self._todo: deque[Event] = deque()
        self._deciding = False
        self._timer = Timer(self._tick)
        self._surroundings = Surroundings(home, read_power)
        self.pauses = Pauses(home, settings)
        self._awake = Awake(keeps_awake(os.getpid()))
        self._watch = Watch(read_memory, self._supervisor.processes, self._measured)
        self._watching: asyncio.Task[None] | None = None
        self.loads = Loads(self._state, self._dispatch, settings.load_timeout_s)
        self.on_change: Callable[[], None] = lambda: None
        """Called when an engine comes or goes, and when memory gets shorter or less so."""
        self.on_decided: Callable[[], None] = lambda: None
        """Called after everything that happened to this node but a step of an engine."""
        self.learning = Learning(self._state, _now)
        self._plans = plans.Plans(settings, home, self.budget_bytes)
        self._shelf = Shelf(settings, home, self.budget_bytes, self._state, self.learning.measured)
        self._shelf.on_look = self._plans.forget

    # ── jobs ──

    async def plan(self, request: Request) -> Plan:
        """Which engine serves the request. Raises HerdError: model_not_found, model_incomplete, kind_not_supported,
        invalid_request for a size over the model's or max_image_px, or for more steps than max_steps."""
        preferred = self._shelf.preferred(request.kind)
        model = await self._shelf.known(lambda models: choose(models, request.kind, request.model, preferred))
        asked = None
        if isinstance(request, ImageRequest):
            plans.check_image(request, model, self.settings)
            asked = request.quantize
        return await self._plan(model, asked)

    async def plan_model(self, name: str) -> Plan:
        """How the model is loaded when no request asks for something else. Raises HerdError as `plan`."""
        model = await self._shelf.known(lambda models: find(models, name))
        if not model.usable:
            raise not_usable(model)
        return await self._plan(model)

    async def _plan(self, model: ModelInfo, asked: int | None = None) -> Plan:
        quantize = plans.quantize_for(model, self.settings, asked)
        return await self._plans.of(model, quantize, self.learning.measured.get(model.name, quantize))

    def reserve(
        self, job: Job, attempt: int, plan: Plan, *, spool: str = "", forced: bool = False, alone: bool = False
    ) -> None:
        """Take a place for the job, or raise HerdError (busy, insufficient_memory, draining, interrupted). It waits for
        `run`. `alone`: it shares its engine with nobody."""
        assert job.request is not None
        request = plans.with_limits(job.request, plan)
        refusals: list[ErrorInfo] = []
        timeout_s = self.settings.job_timeout_s
        self._inboxes[job.id, attempt] = Inbox()
        size = plans.size_of(request, plan)
        self._dispatch(Submit(job.id, attempt, request, plan, spool, timeout_s, forced, alone, size), refusals)
        if refusals:
            del self._inboxes[job.id, attempt]
            raise HerdError.of(refusals[0])

    def give_back(self, job_id: str, attempt: int) -> None:
        """Undo `reserve` for a job that will not run."""
        self.cancel(job_id, attempt)
        self._inboxes.pop((job_id, attempt), None)

    async def run(self, job_id: str, attempt: int, listener: Callable[[JobEvent], None]) -> Ending:
        """Run one reserved attempt to its end, which is returned; `Returned` if it was taken back. Every event before
        it goes to `listener`, inside the node's step: it must return at once and ask nothing of the node. Leaving early
        cancels the attempt."""
        inbox = self._inboxes[job_id, attempt]
        ended = False
        try:
            inbox.listen(listener)
            self._dispatch(Release(job_id, attempt))
            outcome = await inbox.outcome
            ended = True
            return outcome
        finally:
            if not ended:
                self.cancel(job_id, attempt)
            self._inboxes.pop((job_id, attempt), None)

    def cancel(self, job_id: str, attempt: int) -> None:
        """End the attempt at its next token or step; `run` returns the outcome. Unknown ones are fine, and other
        attempts of the job go on."""
        self._dispatch(Cancel(job_id, attempt))

    def take_back(self, job_id: str, attempt: int) -> bool:
        """Whether no engine had begun with the attempt and it is undone: `run` returns `Returned`. Else it goes on."""
        self._dispatch(TakeBack(job_id, attempt))
        inbox = self._inboxes.get((job_id, attempt))
        return inbox is not None and inbox.returned

    # ── what there is ──

    async def models(self, fresh_s: float = LIST_FRESH_S) -> list[ModelInfo]:
        """What is on the disk, looked at no longer than `fresh_s` ago, with what is loaded and the default now."""
        return await self._shelf.models(fresh_s)

    async def looked(self, within_s: float) -> None:
        """Wait until the disk was looked at for the first time, or the time is over."""
        await self._shelf.looked(within_s)

    @property
    def paused(self) -> str:
        """Why nothing is done for other nodes now; empty while it may be."""
        return self.pauses.why(self._surroundings.facts().power, time.time())

    def state(self) -> NodeState:
        """This node as it is now. Called on every change: what takes time to find out is as it was found last."""
        facts = hardware()
        now, unix_now = _now(), time.time()
        surroundings = self._surroundings.facts()
        self._shelf.keep_fresh()
        pids = {(key, generation): pid for key, generation, pid in self._supervisor.processes()}
        engines = [
            EngineState(
                model=lane.plan.key.model,
                kind=lane.plan.spec.kind,
                quantize=lane.plan.key.quantize,
                phase="stopping" if engine.condemned else engine.phase,
                pid=(pid := pids.get((lane.plan.key, engine.generation))),
                reserved_bytes=engine.reserved_bytes,
                resident_bytes=None if pid is None else engine.held_bytes or held_bytes(pid),
                pinned=lane.plan.pinned,
                loading=max(engine.loaded, 0.0) if engine.phase == "starting" else None,
                running=len(engine.running),
                queued=len(lane.waiting),
                idle_s=0.0 if engine.running else round(now - engine.last_used_at, 1),
            )
            for lane, engine in self._state.engines()
        ]
        return NodeState(
            node_id=self.node_id,
            name=self.name,
            version=self.version,
            status="draining" if self._state.draining else "online",
            platform=facts.platform,
            chip=facts.chip,
            cpu_cores=facts.cpu_cores,
            memory=MemoryState(
                total_bytes=facts.total_bytes,
                available_bytes=available_bytes() if (left := self._watch.available_bytes) is None else left,
                budget_bytes=self.budget_bytes,
                reserved_bytes=self._state.reserved_bytes,
                pressure=self._state.level,
                begun_px=begun_px(self._state),
                begun_tokens=begun_tokens(self._state),
            ),
            engines=tuple(engines),
            estimates=self.learning.measured.estimates(),
            models=told(self._shelf.offers, self._state, self.learning.rates, unix_now),
            work=work_of(self._state, self.learning.rates, now, unix_now),
            queued=sum(run.started_at is None for run in self._state.runs.values()),
            running=sum(run.started_at is not None for run in self._state.runs.values()),
            paused=self.paused,
            power=surroundings.power,
            disk_free_bytes=surroundings.disk_free_bytes,
            started_at=self.started_at,
        )

    # ── life ──

    def start(self) -> None:
        """Begin to watch this Mac's memory, and look at what it has."""
        self._watching = asyncio.create_task(self._watch.run())
        self._shelf.start(lambda: self.on_change())
        self._surroundings.facts()
        self._shelf.keep_fresh()

    @property
    def draining(self) -> bool:
        return self._state.draining

    def drain(self) -> None:
        """Take no new jobs from now on."""
        self._dispatch(Drain())

    async def close(self) -> None:
        """End every engine and wait until all are gone. Runs still going fail as `interrupted`."""
        self._dispatch(Close())
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        for inbox in self._inboxes.values():
            inbox.put(Failed(error=interrupted()))
        await self._supervisor.close()
        self._timer.cancel()
        await self._awake.close()
        await self._shelf.close()

    # ── decisions ──

    def _dispatch(self, event: Event, refusals: list[ErrorInfo] | None = None) -> None:
        """One step of the owner. What carrying out an effect brings about is done after it, never inside it."""
        self._todo.append(event)
        if self._deciding:
            return
        self._deciding = True
        try:
            while self._todo:
                for effect in decide(self._state, self._todo.popleft(), _now()):
                    self._carry_out(effect, refusals)
        finally:
            self._deciding = False  # also after a mistake of ours: the next event shall not wait for ever
        if not (isinstance(event, Heard) and isinstance(event.message, pipe.Step)):
            # A step only moves what is due to later: the hot path leaves the timer as it is.
            self._timer.set(next_tick_at(self._state), busy=bool(self._state.runs))
            self.on_decided()
            self._awake.want(bool(self._state.runs))

    def _carry_out(self, effect: Effect, refusals: list[ErrorInfo] | None) -> None:
        match effect:
            case Tell(job_id, attempt, event):
                if inbox := self._inboxes.get((job_id, attempt)):
                    inbox.put(event)
            case Send(key, generation, command):
                self._supervisor.send(key, generation, command)
            case StartEngine(key, generation, spec):
                self._supervisor.start(key, generation, spec)
            case EndEngine(key, generation, reason):
                log.info("ending the engine of %s: %s", key.model, reason)
                self._supervisor.end(key, generation, reason)
            case Refuse(_, error):
                if refusals is not None:
                    refusals.append(error)

    def _heard(self, key: EngineKey, generation: int, message: pipe.Message) -> None:
        self.learning.heard(key, generation, message)
        self._dispatch(Heard(key, generation, message))
        if isinstance(message, pipe.Ready):
            self._engines_changed()

    def _gone(self, key: EngineKey, generation: int, reason: str) -> None:
        self.loads.exiting(key, generation, reason)
        self.learning.exiting(key, generation)
        self._dispatch(Exited(key, generation, reason))
        self._engines_changed()

    def _engines_changed(self) -> None:
        self.loads.engines_changed()
        self.on_change()

    def _measured(self, event: Measured) -> None:
        before = self._state.level
        self._dispatch(event)
        if event.level != before:
            log.info("memory: %s", event.level)
            self._engines_changed()  # who waits for a load is told of it, too

    def _tick(self, slept_s: float) -> None:
        if slept_s:
            log.info("nothing ran here for about %.0f s; nobody's time runs out for that", slept_s)
            self._dispatch(Slept(slept_s))
        self._dispatch(Tick())


def _now() -> float:
    """Seconds of the clock that the timers go by."""
    return asyncio.get_running_loop().time()
