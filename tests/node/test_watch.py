"""The look at memory that a node takes all the time."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from herd_mcp.node import watch
from herd_mcp.node.events import Measured
from herd_mcp.node.lanes import EngineKey
from herd_mcp.node.pressure import Reading
from herd_mcp.node.watch import Watch, held_bytes
from herd_mcp.settings import MIB
from tests.conftest import until

KEY = EngineKey("a")


def test_what_a_process_takes_for_itself_is_seen_and_one_that_is_gone_holds_nothing() -> None:
    before = held_bytes(os.getpid()) or 0
    taken = b"x" * (200 * MIB)
    assert 190 * MIB < (held_bytes(os.getpid()) or 0) - before < 220 * MIB
    assert len(taken) == 200 * MIB
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert held_bytes(gone.pid) is None


def test_a_look_tells_the_level_and_what_each_engine_holds() -> None:
    told: list[Measured] = []
    Watch(lambda _: Reading(100, 1), lambda: [(KEY, 7, os.getpid()), (KEY, 8, 2**22 + 1)], told.append).look()
    (measured,) = told
    assert measured.level == "critical"
    ((key, generation, held),) = measured.held_bytes
    assert (key, generation) == (KEY, 7)
    assert held > MIB


async def test_a_system_that_tells_nothing_for_once_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EMPTY_S", 0.01)
    told: list[Measured] = []
    seen: list[Reading | None] = []

    def read(before: Reading | None) -> Reading:
        seen.append(before)
        if len(seen) < 3:
            raise OSError("not now")
        return Reading(100, 50)

    task = asyncio.create_task(Watch(read, list, told.append).run())
    await until(lambda: len(told) >= 2, "the watch went on")
    task.cancel()
    await asyncio.wait({task})
    assert seen[:4] == [None, None, None, Reading(100, 50)]
    assert told[0] == Measured("normal")
