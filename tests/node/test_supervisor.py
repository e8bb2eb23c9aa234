"""The engine processes of a node, where their end is ordered at the worst moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from herd_mcp import pipe
from herd_mcp.node.lanes import EngineKey
from herd_mcp.node.supervisor import Supervisor

pytestmark = pytest.mark.anyio
KEY = EngineKey("a")
SPEC = pipe.EngineSpec(kind="chat", model="a", path="/a")


class Scripted:
    """An engine that is there when `let` is set and runs until its end is ordered."""

    pid = 7

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.gone: list[str] = []
        self.supervisor = Supervisor(
            self.start, Path("/"), lambda: None, lambda key, n, message: None, lambda key, n, why: self.gone.append(why)
        )

    async def start(self, spec: pipe.EngineSpec, heard: Callable[[pipe.Message], None], hub: Path) -> Scripted:
        await self.let.wait()
        return self

    def send(self, command: object) -> None: ...

    def end(self, reason: str) -> None:
        self.reason.set_result(reason)

    async def run(self) -> str:
        return await self.reason


async def test_an_end_that_is_ordered_while_the_process_is_started_ends_it_when_it_is_there() -> None:
    engine = Scripted()
    engine.supervisor.start(KEY, 1, SPEC)
    engine.supervisor.end(KEY, 1, "wanted no more")
    assert engine.supervisor.processes() == []
    engine.let.set()
    assert await asyncio.wait_for(engine.reason, 30) == "wanted no more"


async def test_a_node_that_ends_waits_for_a_process_that_is_just_started() -> None:
    engine = Scripted()
    engine.supervisor.start(KEY, 1, SPEC)
    closing = asyncio.create_task(engine.supervisor.close())
    await asyncio.sleep(0)
    assert not closing.done()
    engine.let.set()
    await asyncio.wait_for(closing, 30)
    assert engine.gone == ["the node ended"]


async def test_an_engine_that_cannot_be_started_is_told_as_gone_once() -> None:
    engine = Scripted()

    async def fail(spec: pipe.EngineSpec, heard: Callable[[pipe.Message], None], hub: Path) -> Scripted:
        raise OSError("no more processes")

    supervisor = Supervisor(
        fail, Path("/"), lambda: None, lambda key, n, message: None, lambda key, n, why: engine.gone.append(why)
    )
    supervisor.start(KEY, 1, SPEC)
    await asyncio.wait_for(supervisor.close(), 30)
    assert engine.gone == ["OSError: no more processes"]
    assert supervisor.processes() == []
