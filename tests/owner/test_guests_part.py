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
