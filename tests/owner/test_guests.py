"""What this node holds of others' attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from herd_mcp.herd import Herd
from herd_mcp.jobs import ErrorCode, HerdError, ImageRequest, Job, JobEvent
from herd_mcp.node.gallery import Gallery
from herd_mcp.orders import Accepted, Ending, Order, Returned
from herd_mcp.owner import guests as room
from herd_mcp.owner.guests import Guests

pytestmark = pytest.mark.anyio

OWNER = "aaaaaaaaaa"


class Willing:
    """A runner that takes all, and ends an attempt when it is told to. `asked` keeps `reserve` waiting."""

    node_id, name = "bbbbbbbbbb", "beta"

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.asked.set()
        self.ended = asyncio.Event()
        self.places: set[tuple[str, int]] = set()

    async def reserve(self, order: Order) -> Accepted:
        await self.asked.wait()
        self.places.add((order.job.id, order.attempt))
        return Accepted(model="m")

    async def run(self, order: Order, listener: Callable[[JobEvent], None]) -> Ending:
        await self.ended.wait()
        self.places.discard((order.job.id, order.attempt))
        return Returned(reason="told to")

    def give_back(self, job_id: str, attempt: int) -> None:
        self.places.discard((job_id, attempt))

    def cancel(self, job_id: str, attempt: int) -> None:
        self.ended.set()

    async def take_back(self, job_id: str, attempt: int) -> bool:
        return False


def order(number: int, picture: bytes = b"", *, forced: bool = False) -> Order:
    request = ImageRequest(prompt="a circle", image=picture or None)
    job = Job(id=f"job-{OWNER}-{number:012x}", kind="image", client="test", request=request, created_at=1.0)
    return Order(job=job, attempt=1, forced=forced)


async def test_what_others_have_here_is_bounded_whatever_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "HELD_BYTES", 3_000_000)
    runner = Willing()
    guests = Guests(runner, Gallery(tmp_path / "images"), lease_s=60)
    for number in range(2):
        await guests.submit(OWNER, order(number, b"x" * 1_000_000, forced=True))
    with pytest.raises(HerdError, match="holds too much") as refusal:
        await guests.submit(OWNER, order(2, b"x" * 1_000_000, forced=True))
    assert refusal.value.info.code == ErrorCode.BUSY
    runner.ended.set()
    async with asyncio.timeout(30):
        lines = [line async for line in guests.follow(OWNER, order(0).job.id, 1)]
    assert isinstance(lines[-1].event, Returned)
    await guests.submit(OWNER, order(2, b"x" * 1_000_000, forced=True))  # an end is kept without what was asked
    guests.leave("it ends")


async def test_an_order_that_is_let_go_of_while_it_gets_its_place_has_none(tmp_path: Path) -> None:
    runner = Willing()
    runner.asked.clear()
    guests = Guests(runner, Gallery(tmp_path / "images"), lease_s=60)
    taking = asyncio.create_task(guests.submit(OWNER, order(1)))
    await asyncio.sleep(0)
    assert len(guests) == 1
    guests.cancel(OWNER, order(1).job.id, 1)
    runner.asked.set()
    with pytest.raises(HerdError):
        await taking
    assert not runner.places
    assert not len(guests)


async def test_a_paused_mac_takes_nothing_of_others_who_have_not_heard_of_it(herd: Herd) -> None:
    asked = order(1)
    await herd.pause()
    with pytest.raises(HerdError, match="it is paused") as refusal:
        await herd.mesh.guests.submit(OWNER, asked)
    assert refusal.value.info.code == ErrorCode.BUSY
    await herd.resume()
    await herd.mesh.guests.submit(OWNER, asked)
