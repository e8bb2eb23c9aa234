"""Loading a model that no job asks for, and what one is told who waits for it. No processes: engines are as written."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.node.events import Measured
from herd_mcp.node.lanes import Engine, EngineKey, Lane
from herd_mcp.node.memory import Needs
from herd_mcp.node.node import Node
from herd_mcp.settings import GIB, load_settings
from tests.conftest import until
from tests.node.test_decide import plan_of


async def test_a_load_that_waits_for_room_is_told_when_memory_gets_short_meanwhile(tmp_path: Path) -> None:
    node = Node(load_settings(memory_budget_bytes=GIB), tmp_path, "id", "1")
    leaving = Engine(generation=1, reserved_bytes=GIB, started_at=0.0, phase="ready", condemned=True)
    node._state.lanes[EngineKey("a")] = Lane(plan_of("a", Needs(GIB)), engine=leaving)
    loading = asyncio.create_task(node.loads.load(plan_of("b", Needs(GIB))))

    async def waits() -> bool:
        return EngineKey("b") in node._state.lanes

    await until(waits, "the load waits for the memory of the other", 30)
    node._measured(Measured("moderate"))
    done, _ = await asyncio.wait({loading}, timeout=0.05)
    assert not done, "at this level it still comes"
    node._measured(Measured("high"))
    with pytest.raises(HerdError, match=r"short of memory \(high\)") as told:
        await asyncio.wait_for(loading, 30)
    assert (told.value.info.code, told.value.info.details["retry_after_s"]) == (ErrorCode.BUSY, 30)
    await node.close()
