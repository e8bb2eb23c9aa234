"""What the disk takes late does not replace what it took meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from herd_mcp.jobs import Attempt, ErrorCode, HerdError, Job
from herd_mcp.node.history import History
from herd_mcp.owner import writing
from herd_mcp.owner.writing import Writing
from tests.conftest import until


def job(number: int) -> Job:
    return Job(id=f"job-aaaaaaaaaa-{number:012x}", kind="image", client="test", created_at=1.0)


class Full:
    """A disk that takes nothing while it is `full`, and is slow when `ready` is not set."""

    def __init__(self, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full, self.ready = True, asyncio.Event()
        self.ready.set()
        self.asked: list[str] = []
        self._save = history.save
        monkeypatch.setattr(history, "save", self.save)
        monkeypatch.setattr(writing, "REWRITE_S", 0.01)

    async def save(self, record: Job) -> None:
        if self.full:
            raise HerdError(ErrorCode.DISK, "The disk is full.")
        self.asked.append(record.id)
        await self._save(record)
        await self.ready.wait()


async def test_a_job_that_ended_while_another_was_written_late_is_not_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = await History.open(tmp_path / "herd.db")
    disk, late = Full(history, monkeypatch), Writing(history)
    first, second = job(1), job(2)
    for one in (first, second):
        await late.write(one)
    disk.full = False
    disk.ready.clear()
    await until(lambda: disk.asked == [first.id], "the first is written")
    ending = asyncio.create_task(late.write(second.model_copy(update={"status": "completed"})))
    await until(lambda: len(disk.asked) == 2, "the outcome of the second is written")
    disk.ready.set()
    await ending
    await until(lambda: late._rewriting is not None and late._rewriting.done(), "nothing is left to write")
    kept = await history.get(second.id)
    assert kept is not None
    assert kept.status == "completed"
    await history.close()


async def test_an_attempt_that_began_meanwhile_stays_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = await History.open(tmp_path / "herd.db")
    disk, late = Full(history, monkeypatch), Writing(history)
    await late.write(job(1))
    attempt = Attempt(number=1, node="n", node_id="bbbbbbbbbb", started_at=1.0)
    disk.full = False
    await late.save(begun := job(1).model_copy(update={"attempts": (attempt,)}))
    late.mark(running := begun.model_copy(update={"status": "running"}))
    await late.close()
    await history.write(job(2))  # after all that was to be written
    assert await history.get(begun.id) == running
    await history.close()


async def test_a_status_that_changed_before_the_disk_took_the_job_is_the_one_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = await History.open(tmp_path / "herd.db")
    disk, late = Full(history, monkeypatch), Writing(history)
    await late.write(job(1))
    late.mark(running := job(1).model_copy(update={"status": "running"}))
    disk.full = False
    await late.close()
    assert await history.get(running.id) == running
    await history.close()
