"""A job of another node is watched from here, and the connections to its owner break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from herd_mcp.fleet import watching
from herd_mcp.herd import Herd
from herd_mcp.jobs import Delta, ErrorCode, Failed, HerdError, JobEvent, Progress, Queued
from herd_mcp.orders import GONE, PARTED, Line

from .scripted import BETA, LIMIT_S, Scripted, completed, job_id_of, pair

JOB_ID = job_id_of(BETA)
LEASE_S = 0.5
EVENTS: list[JobEvent | float] = [Queued(position=0), *(Delta(text=f"{n} ") for n in range(8)), completed("all")]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "RETRY_S", 0.01)
    monkeypatch.setattr(watching, "RETRY_MOST_S", 0.01)


class Breaking(Scripted):
    """Every connection brings so many events and breaks; of `failing` ones in a row it is not reached at all."""

    def __init__(self, each: int, failing: int = 0, reason: str = GONE) -> None:
        super().__init__(script=list(EVENTS))
        self.each, self.failing, self.reason = each, failing, reason
        self.watched: list[int] = []

    async def watch(self, job_id: str, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        self.watched.append(after_seq)
        if len(self.watched) > 1 and self.failing:
            self.failing -= 1
            raise HerdError(ErrorCode.NODE_LOST, "It is not there.", details={"reason": self.reason})
        left = self.each
        async for line in super().watch(job_id, after_seq):
            yield line
            left -= 1
            if not left:
                raise HerdError(ErrorCode.NODE_LOST, "The connection broke.", details={"reason": "broken"})


async def watch(herd: Herd, api: object, monkeypatch: pytest.MonkeyPatch) -> list[JobEvent]:
    monkeypatch.setattr(herd.mesh, "api", lambda node_id: api if node_id == BETA else None)
    async with asyncio.timeout(LIMIT_S):
        return [event async for event in herd.watch(JOB_ID)]


@pytest.mark.parametrize(("each", "failing"), [(2, 0), (3, 5)])
async def test_every_event_is_seen_once_though_the_connection_breaks_again_and_again(
    warm: Herd, monkeypatch: pytest.MonkeyPatch, each: int, failing: int
) -> None:
    api = Breaking(each, failing)
    told = await watch(warm, api, monkeypatch)
    assert [event.seq for event in told] == list(range(1, len(EVENTS) + 1))
    assert told[-1].type == "completed"
    assert len(api.watched) > 2


async def test_over_tls_too() -> None:
    api = Breaking(2)
    async with pair(api) as both, asyncio.timeout(LIMIT_S):
        told = [event async for event in watching.watched(both.beta, JOB_ID, 3, lease_s=60)]
    assert [event.seq for event in told] == list(range(4, len(EVENTS) + 1))
    assert api.watched == [3, 5, 7, 9]


async def test_an_owner_that_does_not_come_back_within_the_lease_is_lost(
    warm: Herd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "settings", warm.settings.model_copy(update={"lease_s": 0.2}))
    api = Breaking(2, failing=10_000)
    with pytest.raises(HerdError) as caught:
        await watch(warm, api, monkeypatch)
    assert caught.value.info.code == ErrorCode.NODE_LOST
    assert 2 < len(api.watched) < 100


class Quiet(Breaking):
    """An owner that has nothing to tell for longer than the lease, and is there."""

    async def watch(self, job_id: str, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        async for line in super().watch(job_id, after_seq):
            yield line
            for _ in range(20 if len(self.watched) == 1 else 0):
                await asyncio.sleep(LEASE_S / 10)
                yield Line(attempt=0)


async def test_the_lease_of_a_lost_connection_begins_when_it_is_lost_and_not_with_the_last_event() -> None:
    api = Quiet(1, failing=2)
    async with asyncio.timeout(LIMIT_S):
        told = [event async for event in watching.watched(api, JOB_ID, lease_s=LEASE_S)]
    assert [event.seq for event in told] == list(range(1, len(EVENTS) + 1))


async def test_a_lost_connection_is_made_again_once_however_long_nothing_came() -> None:
    async with asyncio.timeout(LIMIT_S):  # it may be this node that stood still
        told = [event async for event in watching.watched(Breaking(1), JOB_ID, lease_s=0)]
    assert [event.seq for event in told] == list(range(1, len(EVENTS) + 1))


async def test_who_left_the_herd_is_not_asked_again() -> None:
    api = Breaking(2, failing=10_000, reason=PARTED)
    with pytest.raises(HerdError):
        async with asyncio.timeout(LIMIT_S):
            [event async for event in watching.watched(api, JOB_ID, lease_s=3600)]
    assert api.watched == [0, 2]


async def test_what_the_owner_says_is_told_at_once() -> None:
    interrupted = HerdError(ErrorCode.INTERRUPTED, "It ends.")
    api = Scripted(error=interrupted)
    with pytest.raises(HerdError) as caught:
        [event async for event in watching.watched(api, JOB_ID, lease_s=3600)]
    assert caught.value is interrupted
    assert len(api.calls) == 1


async def test_a_failed_job_is_no_lost_connection() -> None:
    failed = Failed(error=HerdError(ErrorCode.NODE_LOST, "Its runner was lost.").info)
    api = Scripted(script=[Progress(step=1, steps=2), failed])
    told = [event async for event in watching.watched(api, JOB_ID, lease_s=3600)]
    assert [event.type for event in told] == ["progress", "failed"]
    assert [call[0] for call in api.calls].count("watch") == 1
