"""Attempts for other nodes when this node ends, or parts from their owners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from herd_mcp.jobs import (
    Cancelled,
    ChatRequest,
    ChatResult,
    Completed,
    ErrorCode,
    HerdError,
    Job,
    JobEvent,
    Message,
    Usage,
    new_job_id,
)
from herd_mcp.node.gallery import Gallery
from herd_mcp.orders import Accepted, Ending, Order, Returned
from herd_mcp.owner import guests as module
from herd_mcp.owner.guests import Guests
from tests.conftest import until

ALPHA, BETA = "a" * 10, "b" * 10
ANSWER = Completed(result=ChatResult(text="yes", finish_reason="stop", usage=Usage(), model="m", node="n"))


class Talker:
    """A runner that answers at once, or only when it is cancelled."""

    node_id, name = "c" * 10, "c"

    def __init__(self, answer: Completed | None = ANSWER) -> None:
        self._end: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        if answer:
            self._end.set_result(answer)

    async def reserve(self, order: Order) -> Accepted:
        return Accepted()

    async def run(self, order: Order, listener: Callable[[JobEvent], None]) -> Ending:
        return await self._end

    def give_back(self, job_id: str, attempt: int) -> None: ...

    def cancel(self, job_id: str, attempt: int) -> None:
        self._end.set_result(Cancelled())

    async def take_back(self, job_id: str, attempt: int) -> bool:
        return False


def order_of(owner_id: str) -> Order:
    request = ChatRequest(messages=(Message(role="user", content="hello"),))
    job = Job(id=new_job_id(owner_id), kind="chat", client="test", request=request, created_at=1.0)
    return Order(job=job, attempt=1, forced=True)


async def end_of(guests: Guests, order: Order) -> object:
    *_, last = [line async for line in guests.follow(ALPHA, order.job.id, 1)]
    return last.event


async def test_a_node_that_ends_waits_until_owners_have_what_their_attempts_brought(tmp_path: Path) -> None:
    guests, order = Guests(Talker(), Gallery(tmp_path), 60), order_of(ALPHA)
    await guests.submit(ALPHA, order)
    assert isinstance(await end_of(guests, order), Completed)
    closing = asyncio.create_task(guests.close(60))
    done, _ = await asyncio.wait({closing}, timeout=0.2)
    assert not done
    guests.cancel(ALPHA, order.job.id, 1)  # the owner has it
    async with asyncio.timeout(30):
        await closing


async def test_a_node_that_ends_does_not_wait_long_for_owners_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LET_GO_S", 0.1)
    guests, order = Guests(Talker(), Gallery(tmp_path), 60), order_of(ALPHA)
    await guests.submit(ALPHA, order)
    await end_of(guests, order)
    async with asyncio.timeout(30):
        await guests.close(3600)


async def test_what_was_given_back_does_not_come_back_though_it_is_forced(tmp_path: Path) -> None:
    guests = Guests(Talker(), Gallery(tmp_path), 60)
    await guests.drain()
    with pytest.raises(HerdError) as caught:
        await guests.submit(ALPHA, order_of(ALPHA))
    assert caught.value.info.code == ErrorCode.DRAINING


async def test_attempts_of_who_is_of_the_herd_no_more_end_and_are_given_back(tmp_path: Path) -> None:
    guests, order = Guests(Talker(None), Gallery(tmp_path), 60), order_of(ALPHA)
    await guests.submit(ALPHA, order)
    ending = asyncio.create_task(end_of(guests, order))
    await until(lambda: guests._guests[order.job.id, 1].task is not None, "it runs")
    await asyncio.sleep(0)
    guests.part({BETA})
    assert len(guests) == 1
    guests.part({ALPHA})
    async with asyncio.timeout(30):
        assert isinstance(await ending, Returned)
    assert len(guests) == 0


async def test_an_attempt_whose_owner_is_not_heard_of_is_given_back_and_not_cancelled(tmp_path: Path) -> None:
    guests, order = Guests(Talker(None), Gallery(tmp_path), 0.1), order_of(ALPHA)
    await guests.submit(ALPHA, order)
    lines = guests.follow(ALPHA, order.job.id, 1)
    reading = asyncio.create_task(anext(lines))
    await until(lambda: guests._guests[order.job.id, 1].task is not None, "it runs")
    reading.cancel()
    await asyncio.wait({reading})
    await lines.aclose()

    def lapsed() -> bool:
        guests.sweep()
        return len(guests) == 0

    await until(lapsed, "the lease is over")
    assert isinstance(await end_of(guests, order), Returned)


class Owner:
    """Another node, which listens to one attempt and may stand still meanwhile. `now` is the time."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.silent_s = 0.0
        monkeypatch.setattr(module, "_now", lambda: self.now)
        self.order = order_of(ALPHA)
        self.guests = Guests(Talker(None), Gallery(folder), 0.4, silent_s=lambda node_id: self.silent_s)

    async def listens(self) -> asyncio.Task[object]:
        await self.guests.submit(ALPHA, self.order)
        listening = asyncio.create_task(end_of(self.guests, self.order))
        await until(lambda: self.guests._guests[self.order.job.id, 1].listeners > 0, "it listens")
        return listening


async def test_an_owner_that_listens_and_says_nothing_is_not_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner(tmp_path, monkeypatch)
    listening = await owner.listens()
    owner.now += 3600  # its stream is open all the time
    owner.guests.sweep()
    assert len(owner.guests) == 1
    owner.silent_s = 0.5
    owner.guests.sweep()
    async with asyncio.timeout(30):
        assert isinstance(await listening, Returned)


async def test_a_place_that_is_not_listened_to_is_not_held_by_what_else_its_owner_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner(tmp_path, monkeypatch)
    await owner.guests.submit(ALPHA, owner.order)
    owner.now += 0.5
    owner.guests.sweep()
    assert len(owner.guests) == 0


async def test_that_this_node_stood_still_is_not_its_owners_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner(tmp_path, monkeypatch)
    listening = await owner.listens()
    sweeping = asyncio.create_task(owner.guests.run())
    await asyncio.sleep(0)
    owner.now, owner.silent_s = 3600, 3600
    await until(lambda: owner.guests._woke_at == owner.now, "it noticed")
    await asyncio.sleep(0)
    assert len(owner.guests) == 1

    def time_goes_on() -> bool:
        owner.now += 0.01
        return listening.done()

    await until(time_goes_on, "its owner has said nothing for a lease")
    assert isinstance(await listening, Returned)
    sweeping.cancel()
