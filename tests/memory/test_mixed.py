"""Images and chats over three models that do not fit together, in a group that the kernel limits: nobody is killed, and
every request gets its own end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.parts import jobs
from benchmarks.parts.jobs import Ask
from tests.memory.stage import LETTERS, Stage, all_over, mixed, running

PROPER = {"completed", "failed", "cancelled", "refused", "left"}
ERRORS = {"busy", "insufficient_memory", "engine_crashed", "timeout"}
"""What may be told to one who asked well, while memory is short."""


async def nothing_is_lost(stage: Stage, asks: Sequence[Ask], count: int) -> None:
    """Every request had an end of its own, and by the node's records too."""
    assert len(asks) == count
    assert Counter(one.end for one in asks if one.end not in PROPER) == {}
    assert {one.code for one in asks if one.end in ("failed", "refused")} <= ERRORS
    assert jobs.mixed_up(asks, LETTERS) == []
    ends = await all_over(stage, asks)
    assert ends["completed"] >= sum(one.end == "completed" for one in asks)
    assert ends.total() == sum(bool(one.job_id) for one in asks)


async def stays_within(folder: Path, count: int) -> None:
    async with running(folder) as stage:
        asks = await stage.run(mixed(count))
        print(stage.report(asks))
        await nothing_is_lost(stage, asks, count)
        assert {one.model for one in asks if one.end == "completed"} == {*LETTERS, jobs.IMAGE}
        assert stage.seen.reserved_bytes <= stage.budget_bytes
        assert stage.seen.engines <= 2
        assert stage.group.kills == 0
        assert not any("killed by" in why for why in stage.ends())
        assert not [one.code for one in asks if one.end == "failed"]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_20_requests_over_three_models_with_room_for_two(tmp_path: Path) -> None:
    await stays_within(tmp_path, 20)


@pytest.mark.slow
@pytest.mark.timeout(2400)
async def test_200_requests_over_three_models_with_room_for_two(tmp_path: Path) -> None:
    await stays_within(tmp_path, 200)
