"""A timer that is called late says how long nothing ran."""

from __future__ import annotations

import asyncio
import time

import pytest

from herd_mcp.node import timer
from herd_mcp.node.timer import Timer
from tests.conftest import until


@pytest.mark.parametrize(("late_s", "slept"), [(0.05, True), (30.0, False)])
async def test_only_a_timer_that_is_late_tells_of_a_sleep(
    monkeypatch: pytest.MonkeyPatch, late_s: float, slept: bool
) -> None:
    monkeypatch.setattr(timer, "LATE_S", late_s)
    told: list[float] = []
    Timer(told.append).set(asyncio.get_running_loop().time(), busy=True)
    time.sleep(0.1)  # nothing runs here meanwhile
    await until(lambda: bool(told), "it is called")
    assert (told[0] > late_s) == slept
    assert slept or told == [0.0]
