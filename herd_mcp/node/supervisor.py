"""The engine processes that there are: each one started, spoken to and ended as was decided, and its end told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from herd_mcp import pipe
from herd_mcp.node.engines import RunningEngine, StartProcess
from herd_mcp.node.lanes import EngineKey
from herd_mcp.node.loads import END_S

log = logging.getLogger(__name__)


class Supervisor:
    """Carries out what was decided of engine processes. What they bring about is told on the event loop: `came` when a
    process is there, `heard` with each message, `gone` with the reason, however it ended."""

    def __init__(
        self,
        start: StartProcess,
        hub_cache: Path,
        came: Callable[[], None],
        heard: Callable[[EngineKey, int, pipe.Message], None],
        gone: Callable[[EngineKey, int, str], None],
    ) -> None:
        self._start = start
        self._hub_cache = hub_cache
        self._came = came
        self._heard = heard
        self._gone = gone
        self._engines: dict[tuple[EngineKey, int], RunningEngine | None] = {}
        """None until the process is there."""
        self._ended: dict[tuple[EngineKey, int], str] = {}
        """Engines whose end was ordered before their process was there."""
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, key: EngineKey, generation: int, spec: pipe.EngineSpec) -> None:
        self._engines[key, generation] = None
        task = asyncio.create_task(self._run(key, generation, spec))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def send(self, key: EngineKey, generation: int, command: pipe.Start | pipe.Cancel | pipe.Limit) -> None:
        if engine := self._engines.get((key, generation)):
            engine.send(command)

    def end(self, key: EngineKey, generation: int, reason: str) -> None:
        """Order its end, also where its process is only being started."""
        if engine := self._engines.get((key, generation)):
            engine.end(reason)
        else:
            self._ended[key, generation] = reason

    def processes(self) -> list[tuple[EngineKey, int, int]]:
        """Key, generation and pid of each."""
        return [(key, generation, engine.pid) for (key, generation), engine in self._engines.items() if engine]

    async def close(self) -> None:
        """End all, and wait until they are gone, at most END_S."""
        for key, generation in self._engines:
            self.end(key, generation, "the node ended")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_S)

    async def _run(self, key: EngineKey, generation: int, spec: pipe.EngineSpec) -> None:
        """One engine process from its start to its end, however it ends."""
        reason = "it could not be started"
        try:
            engine = await self._start(spec, lambda message: self._heard(key, generation, message), self._hub_cache)
            self._engines[key, generation] = engine
            log.info("engine of %s started, pid %d", spec.model, engine.pid)
            if early := self._ended.pop((key, generation), None):
                engine.end(early)
            self._came()
            reason = await engine.run()
        except Exception as error:
            log.exception("the engine of %s", spec.model)
            reason = f"{type(error).__name__}: {error}"
        finally:
            self._engines.pop((key, generation), None)
            self._ended.pop((key, generation), None)
            log.info("engine of %s is gone: %s", spec.model, reason)
            self._gone(key, generation, reason)
