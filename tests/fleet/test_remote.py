"""Another node as a runner: what it says of an attempt's end is not believed blindly."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from herd_mcp.fleet import remote
from herd_mcp.fleet.remote import RemoteRunner
from herd_mcp.jobs import (
    Completed,
    Delta,
    ErrorCode,
    Failed,
    HerdError,
    ImageRequest,
    ImageResult,
    Job,
    JobEvent,
    image_id_of,
)
from herd_mcp.node.gallery import Gallery
from herd_mcp.orders import GONE, Ending, Line, Order, Returned

from .scripted import ALPHA, BETA, LEASE_S, SHA256, Scripted, completed, job_id_of, order_of

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRY_S", 0.01)
    monkeypatch.setattr(remote, "RETRY_MOST_S", 0.01)


JOB_ID = job_id_of(ALPHA)
OTHERS = job_id_of(ALPHA, 2)


class OneImage(Scripted):
    """Tells one attempt's end; its picture is there by any name."""

    async def blob(self, sha256: str, offset: int = 0) -> Any:
        yield self.picture[offset:]


def drawn(**told: Any) -> Completed:
    api = Scripted()
    usual = {
        "image_id": image_id_of(JOB_ID),
        "bytes": len(api.picture),
        "sha256": hashlib.sha256(api.picture).hexdigest(),
    }
    result = {"model": "m", "node": "n", "width": 64, "height": 64, "steps": 1, "seed": 1, **usual, **told}
    return Completed(result=ImageResult.model_validate(result))


async def run(folder: Path, event: JobEvent, *, chat: bool = False) -> Ending:
    gallery = Gallery(folder / "images")
    order = order_of(ALPHA)
    if not chat:
        request = ImageRequest(prompt="a circle")
        order = Order(
            job=Job(id=JOB_ID, kind="image", client="test", request=request, created_at=1.0),
            attempt=1,
            spool=str(gallery.spool_file()),
        )
    runner = RemoteRunner(BETA, "beta", OneImage(script=[event]), LEASE_S, 60)
    ending = await runner.run(order, lambda event: None)
    if isinstance(ending, Completed) and isinstance(ending.result, ImageResult):
        ending = Completed(result=await gallery.keep(ending.result))
    return ending


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


async def test_a_picture_from_another_node_lies_where_those_of_this_one_do(tmp_path: Path) -> None:
    assert isinstance(await run(tmp_path, drawn()), Completed)
    assert files(tmp_path) == [f"images/{image_id_of(JOB_ID)}.png"]


@pytest.mark.parametrize("name", ["../out", "", image_id_of(OTHERS), image_id_of(JOB_ID).upper()])
async def test_a_node_that_runs_a_job_does_not_say_where_its_picture_goes(tmp_path: Path, name: str) -> None:
    ending = await run(tmp_path, drawn(image_id=name))
    assert isinstance(ending, Failed)
    assert ending.error.code == ErrorCode.NODE_LOST
    assert files(tmp_path) == []


@pytest.mark.parametrize("sha256", ["", "../x", SHA256])
async def test_a_picture_of_another_digest_is_not_kept(tmp_path: Path, sha256: str) -> None:
    ending = await run(tmp_path, drawn(sha256=sha256))
    assert isinstance(ending, Failed)
    assert ending.error.code == ErrorCode.NODE_LOST


async def test_a_job_does_not_end_with_what_another_kind_of_job_brings(tmp_path: Path) -> None:
    for event, chat in ((completed("x"), False), (drawn(), True)):
        ending = await run(tmp_path, event, chat=chat)
        assert isinstance(ending, Failed)
        assert ending.error.code == ErrorCode.NODE_LOST
    assert files(tmp_path) == []


async def test_another_node_does_not_say_that_this_one_ends_so_that_an_image_would_wait_for_its_next_start(
    tmp_path: Path,
) -> None:
    interrupted = HerdError(ErrorCode.INTERRUPTED, "The node is ending.")
    ending = await run(tmp_path, Failed(error=interrupted.info))
    assert isinstance(ending, Returned)
    runner = RemoteRunner(BETA, "beta", Scripted(error=interrupted), LEASE_S, 60)
    assert isinstance(await runner.run(order_of(ALPHA), lambda event: None), Returned)


@pytest.mark.parametrize("code", [ErrorCode.NODE_LOST, ErrorCode.LOCAL_NETWORK_DENIED])
async def test_a_node_that_is_not_reached_any_more_is_lost_by_its_name_however_the_system_says_it(
    code: ErrorCode,
) -> None:
    away = HerdError(code, "The other node at 10.0.0.2:1 cannot be reached.", "Look.", retryable=True)
    runner = RemoteRunner(BETA, "beta", Scripted(error=away), 0.05, 60)
    async with asyncio.timeout(30):
        ending = await runner.run(order_of(ALPHA), lambda event: None)
    assert isinstance(ending, Failed)
    assert ending.error.code == ErrorCode.NODE_LOST, "so the job is tried elsewhere"
    assert ending.error.message.startswith("The node beta was lost: ")
    assert ending.error.hint == "Look."


class Killed(Scripted):
    """A word of an attempt, and then nobody is there: at all, or only no longer at this address."""

    def __init__(self, first: list[JobEvent]) -> None:
        super().__init__(script=[])
        self.first = first

    async def follow(self, job_id: str, attempt: int, after_seq: int = 0) -> Any:
        for event in self.first if not after_seq else []:
            yield Line(attempt=attempt, seq=1, event=event)
        raise HerdError(ErrorCode.NODE_LOST, "It runs no herd-mcp.", details={"reason": GONE})


class Endless(Scripted):
    """Says for ever that it is there."""

    async def follow(self, job_id: str, attempt: int, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        while True:
            await asyncio.sleep(0.01)
            yield Line(attempt=attempt)


async def test_signs_of_life_do_not_keep_an_attempt_alive_for_ever() -> None:
    runner = RemoteRunner(BETA, "beta", Endless(), 600, 0.1)
    async with asyncio.timeout(30):
        ending = await runner.run(order_of(ALPHA), lambda event: None)
    assert isinstance(ending, Failed)
    assert "no end came within" in ending.error.message


async def test_a_node_whose_process_is_gone_is_not_waited_for() -> None:
    runner = RemoteRunner(BETA, "beta", Killed([Delta(text="a")]), 600, 600)
    async with asyncio.timeout(30):
        ending = await runner.run(order_of(ALPHA), lambda event: None)
    assert isinstance(ending, Failed)
    assert ending.error.code == ErrorCode.NODE_LOST


async def test_a_node_that_was_never_heard_of_may_have_moved_and_is_waited_for() -> None:
    runner = RemoteRunner(BETA, "beta", Killed([]), 600, 600)
    running = asyncio.create_task(runner.run(order_of(ALPHA), lambda event: None))
    done, _ = await asyncio.wait({running}, timeout=0.3)
    running.cancel()
    assert not done
