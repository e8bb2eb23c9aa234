"""Engines that are wanted or no more wanted by themselves, without a job: loading, waiting for it, unloading."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from herd_mcp.jobs import ErrorInfo, HerdError
from herd_mcp.node.events import Event, Unload, Warm
from herd_mcp.node.fit import check_fit, check_level, in_use, not_gone, still_loading, unloaded
from herd_mcp.node.lanes import Engine, EngineKey, Plan, State, for_jobs_only
from herd_mcp.node.words import crashed

END_S = 15.0
"""How long an engine that was told to end may take to be gone."""


class Dispatch(Protocol):
    def __call__(self, event: Event, refusals: list[ErrorInfo] | None = None) -> None: ...


class Loads:
    """The part of a node that loads and unloads models. It reads the state and changes it by events alone."""

    def __init__(self, state: State, dispatch: Dispatch, load_timeout_s: float) -> None:
        self._state = state
        self._dispatch = dispatch
        self._load_timeout_s = load_timeout_s
        self._changed = asyncio.Event()
        """Set, and replaced, when an engine came, went or became ready."""
        self._errors: dict[EngineKey, ErrorInfo] = {}
        """Why the last engine of a lane ended before it was ready."""

    def warm(self, plan: Plan) -> None:
        """Want an engine though no job asks for it: it loads when there is room. One that is there stays.
        Raises HerdError(draining)."""
        refusals: list[ErrorInfo] = []
        self._errors.pop(plan.key, None)
        self._dispatch(Warm(plan), refusals)
        if refusals:
            raise HerdError.of(refusals[0])

    async def load(self, plan: Plan) -> None:
        """`warm`, until the engine takes work. Raises HerdError: why it does not, or busy after load_timeout_s, when
        it is unloaded meanwhile, and when memory is short or gets short before it has begun to load."""
        check_level(self._state, plan)
        self.warm(plan)
        key = plan.key
        await self._until(
            lambda: self.loaded(key) or key in self._errors or not self._coming(key) or self._stopped(key),
            self._load_timeout_s,
        )
        if self.loaded(key):
            return
        if key in self._errors:
            raise HerdError.of(self._errors[key])
        if self._stopped(key):
            check_level(self._state, plan)
        raise self.loading(plan) if self._coming(key) else unloaded(plan.spec.model)

    async def unload(self, model: str) -> None:
        """End the model's engines, until they are gone. Raises HerdError(busy) while something runs or waits in one,
        or when one is still there after `END_S`."""
        if jobs := self._jobs(model):
            raise in_use(model, jobs)
        for key in [key for key in self._state.lanes if key.model == model]:
            self._dispatch(Unload(key))
        self.engines_changed()  # who waits for a load waits no more
        ending = {engine.generation for lane, engine in self._state.engines() if lane.plan.key.model == model}
        await self._until(lambda: not ending & {engine.generation for _, engine in self._state.engines()}, END_S)
        if ending & {engine.generation for _, engine in self._state.engines()}:
            raise in_use(model, jobs) if (jobs := self._jobs(model)) else not_gone(model)

    def _jobs(self, model: str) -> list[str]:
        return [run.job_id for run in self._state.runs.values() if run.key.model == model]

    def loaded(self, key: EngineKey) -> bool:
        """Whether an engine is there and takes work."""
        engine = self._engine(key)
        return engine is not None and engine.phase == "ready" and not engine.condemned

    def _coming(self, key: EngineKey) -> bool:
        """Whether an engine is there or on its way."""
        lane = self._state.lanes.get(key)
        if lane is None:
            return False
        engine = lane.engine
        stays = engine is not None and not engine.condemned and not engine.unloading
        return lane.wanted or bool(lane.waiting) or stays

    def _stopped(self, key: EngineKey) -> bool:
        """Whether the engine is not begun with as long as memory is so short."""
        lane = self._state.lanes.get(key)
        return lane is not None and lane.engine is None and lane.head is None and for_jobs_only(self._state.level)

    def loading(self, plan: Plan) -> HerdError:
        """What one is told who does not wait for the engine: how far it is, and when to come back."""
        return still_loading(self._state, plan, self._engine(plan.key), asyncio.get_running_loop().time())

    def check_fit(self, plan: Plan) -> None:
        """Raises HerdError when the engine cannot be loaded now: insufficient_memory if it never can, else busy."""
        check_fit(self._state, plan)

    def check_level(self, plan: Plan) -> None:
        """Raises HerdError(busy) when memory is too short to load the engine without a job."""
        check_level(self._state, plan)

    def engines_changed(self) -> None:
        """An engine came, went or became ready."""
        self._changed.set()
        self._changed = asyncio.Event()

    def exiting(self, key: EngineKey, generation: int, reason: str) -> None:
        """An engine is gone, which the state does not know yet: remember why if it never was ready."""
        engine = self._engine(key)
        if engine is None or engine.generation != generation or (engine.unloading and engine.condemned):
            return
        if engine.phase == "starting":
            self._errors[key] = engine.load_error or crashed(key.model, reason)

    def _engine(self, key: EngineKey) -> Engine | None:
        lane = self._state.lanes.get(key)
        return lane.engine if lane else None

    async def _until(self, held: Callable[[], bool], timeout_s: float) -> None:
        """Until it holds or the time is over; looked at whenever an engine came or went."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not held():
                    await self._changed.wait()
