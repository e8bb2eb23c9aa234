"""What readers of a job's events get."""

from __future__ import annotations

import asyncio

import pytest

from herd_mcp.jobs import Cancelled, Delta, ErrorCode, HerdError, JobEvent
from herd_mcp.owner.joblog import MAX_BATCH, JobLog

pytestmark = pytest.mark.anyio


async def test_a_reader_that_keeps_up_gets_every_event_alone() -> None:
    log: JobLog[JobEvent] = JobLog("job")
    reader = log.read()
    for number in range(1, 4):
        waiting = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0)  # it waits before the event comes
        log.append(Delta(text="word"))
        assert [event.seq for event in await waiting] == [number]


async def test_a_reader_that_is_behind_gets_what_waits_at_once_and_never_too_much() -> None:
    log: JobLog[JobEvent] = JobLog("job")
    for _ in range(MAX_BATCH + 5):
        log.append(Delta(text="word"))
    log.append(Cancelled())
    batches = [[event.seq for event in batch] async for batch in log.read(after_seq=2)]
    assert [len(batch) for batch in batches] == [MAX_BATCH, 4]
    assert [seq for batch in batches for seq in batch] == list(range(3, MAX_BATCH + 7))


async def test_a_reader_that_comes_from_an_earlier_start_of_the_node_gets_all_of_this_one() -> None:
    log: JobLog[JobEvent] = JobLog("job")
    log.append(Delta(text="word"))
    log.append(Cancelled())
    (batch,) = [batch async for batch in log.read(after_seq=50)]
    assert [event.seq for event in batch] == [1, 2]
    (last,) = [batch async for batch in log.read(after_seq=2)]
    assert [event.type for event in last] == ["cancelled"], "the end is told to who did not see this one"


async def test_a_reader_that_has_all_of_a_log_that_was_left_is_told_that_and_nothing_twice() -> None:
    log: JobLog[JobEvent] = JobLog("job")
    log.append(Delta(text="word"))
    log.abandon()
    with pytest.raises(HerdError) as caught:
        await anext(log.read(after_seq=1))
    assert caught.value.info.code == ErrorCode.INTERRUPTED
