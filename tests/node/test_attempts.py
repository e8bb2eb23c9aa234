"""A job that comes back to a node with a higher attempt, and one that is taken back, in a node with real engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from herd_mcp.jobs import ImageRequest, Job, JobEvent, Progress
from herd_mcp.node.node import Node
from herd_mcp.orders import Returned
from herd_mcp.settings import load_settings
from tests.conftest import until

pytestmark = pytest.mark.anyio

JOB = Job(
    id="job-0000000001-1",
    kind="image",
    client="test",
    request=ImageRequest(model="herd-tiny-image", prompt="a red circle", steps=6, width=64, height=64),
    created_at=0,
)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    (tmp_path / "run").mkdir()
    node = Node(load_settings(), tmp_path, "0000000001", "1")
    yield node
    await node.close()


async def reserve(node: Node, attempt: int, folder: Path, *, forced: bool = False) -> None:
    assert JOB.request is not None
    plan = await node.plan(JOB.request)
    node.reserve(JOB, attempt, plan, spool=str(folder / f"{attempt}.png"), forced=forced)


def silent(event: JobEvent) -> None:
    pass


def when_it_draws(begun: asyncio.Event) -> Callable[[JobEvent], None]:
    def hear(event: JobEvent) -> None:
        if isinstance(event, Progress) and event.step:
            begun.set()

    return hear


@pytest.mark.slow
async def test_an_attempt_goes_on_while_an_earlier_one_of_its_job_is_let_go(node: Node, tmp_path: Path) -> None:
    begun = asyncio.Event()
    await reserve(node, 1, tmp_path)
    first = asyncio.create_task(node.run(JOB.id, 1, when_it_draws(begun)))
    await asyncio.wait_for(begun.wait(), 120)
    await reserve(node, 2, tmp_path, forced=True)
    node.cancel(JOB.id, 1)
    second = asyncio.create_task(node.run(JOB.id, 2, silent))
    async with asyncio.timeout(120):
        assert (await first).type == "cancelled"
        assert (await second).type == "completed"
    assert [path.name for path in tmp_path.glob("*.png")] == ["2.png"]


@pytest.mark.slow
async def test_the_cancel_of_one_attempt_ends_no_other(node: Node, tmp_path: Path) -> None:
    await reserve(node, 2, tmp_path)
    for attempt in (1, 3):
        node.cancel(JOB.id, attempt)
        assert not node.take_back(JOB.id, attempt)
        node.give_back(JOB.id, attempt)
    async with asyncio.timeout(120):
        assert (await node.run(JOB.id, 2, silent)).type == "completed"


async def test_what_has_not_begun_is_taken_back_and_what_has_begun_is_not(node: Node, tmp_path: Path) -> None:
    begun = asyncio.Event()
    await reserve(node, 1, tmp_path)
    drawn = asyncio.create_task(node.run(JOB.id, 1, when_it_draws(begun)))
    await asyncio.wait_for(begun.wait(), 120)
    await reserve(node, 2, tmp_path, forced=True)
    waiting = asyncio.create_task(node.run(JOB.id, 2, silent))
    await until(lambda: node.state().queued == 1, "the second waits")
    assert not node.take_back(JOB.id, 1)
    assert node.take_back(JOB.id, 2)
    assert node.take_back(JOB.id, 2)  # asked again, since the answer may have been lost
    async with asyncio.timeout(120):
        assert isinstance(await waiting, Returned)
        assert (await drawn).type == "completed"
    assert node.state().queued == node.state().running == 0


async def test_what_was_taken_back_before_it_was_let_go_ends_as_returned(node: Node, tmp_path: Path) -> None:
    await reserve(node, 1, tmp_path)
    assert node.take_back(JOB.id, 1)
    assert isinstance(await node.run(JOB.id, 1, silent), Returned)
