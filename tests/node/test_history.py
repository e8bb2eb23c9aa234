"""The job history on a real disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from pathlib import Path

import pytest

from herd_mcp.jobs import (
    ChatResult,
    ErrorCode,
    ErrorInfo,
    HerdError,
    ImageRequest,
    ImageResult,
    Job,
    JobStatus,
    Timings,
    Usage,
)
from herd_mcp.node.history import MIGRATIONS, History
from herd_mcp.node.measured import Known
from herd_mcp.node.statistics import day_figures, image_stats


def image_job(number: int, status: JobStatus = "completed", run_s: float = 1.0, **fields: object) -> Job:
    result = ImageResult(
        image_id=f"img-{number}",
        model="m",
        node="n",
        width=64,
        height=64,
        steps=4,
        seed=1,
        timings=Timings(run_s=run_s),
    )
    job = Job(
        id=f"job-{number:04}",
        kind="image",
        client="test",
        request=ImageRequest(prompt="x"),
        created_at=time.time() + number / 1000,
        status=status,
        model="m",
        result=result if status == "completed" else None,
        timings=Timings(run_s=run_s if status == "completed" else None),
    )
    return job.model_copy(update=fields)


async def test_a_job_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    history = await History.open(tmp_path / "herd.db")
    job = image_job(1, tags=("a",))
    await history.save(job)
    assert await history.get(job.id) == job
    assert await history.get("job-none") is None
    await history.close()


async def test_writes_of_one_job_keep_their_order(tmp_path: Path) -> None:
    history = await History.open(tmp_path / "herd.db")
    for number in range(50):
        history.write(image_job(number, "running"))
        history.write(image_job(number, "completed"))
    await history.save(image_job(99, "queued"))
    assert {job.status for job in await history.newest(100)} == {"completed", "queued"}
    assert [job.id for job in await history.unfinished()] == ["job-0099"]
    await history.close()


async def test_a_database_that_is_no_database_is_moved_aside_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "herd.db"
    path.write_bytes(b"this is not a database" * 100)
    history = await History.open(path)
    assert history.moved_aside is not None
    assert history.moved_aside.read_bytes().startswith(b"this is not")
    await history.save(image_job(1))
    await history.close()


@pytest.mark.parametrize("damage", ["later pages", "no table"])
async def test_damage_behind_a_sound_beginning_is_found_at_the_start(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "herd.db"
    history = await History.open(path)
    await asyncio.gather(*(history.save(image_job(number)) for number in range(200)))
    await history.close()
    if damage == "no table":
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("DROP TABLE jobs")
    else:
        data = path.read_bytes()
        path.write_bytes(data[:8192] + os.urandom(len(data) - 8192))
    history = await History.open(path)
    assert history.moved_aside is not None
    await history.save(image_job(1))
    assert len(await history.newest(10)) == 1
    await history.close()


async def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "herd.db"
    await (await History.open(path)).close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(HerdError) as caught:
        await History.open(path)
    assert "newer herd-mcp" in caught.value.info.message
    assert path.is_file()


@pytest.mark.parametrize("version", [2, 3])
async def test_a_database_of_an_older_version_is_taken_on(tmp_path: Path, version: int) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "herd.db")) as old:
        for number, script in enumerate(MIGRATIONS[:version], 1):
            old.executescript(f"{script}; PRAGMA user_version = {number};")
        old.execute("INSERT INTO measured VALUES ('m', 8, 1.5, 7, '', 9, 3.0)")
        old.commit()
    history = await History.open(tmp_path / "herd.db")
    assert await history.measured() == [("m", 8, Known(weights_bytes=7, held_bytes=9, measured_at=3.0))]
    history.write_measured("m", 8, Known(factors=((30, 1.5),)))
    await history.close()
    again = await History.open(tmp_path / "herd.db")
    assert await again.measured() == [("m", 8, Known(factors=((30, 1.5),)))]
    await again.close()


async def test_one_row_that_cannot_be_read_spoils_no_statistics(tmp_path: Path) -> None:
    path = tmp_path / "herd.db"
    history = await History.open(path)
    await asyncio.gather(*(history.save(image_job(number, tags=("a",))) for number in range(2)))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE jobs SET job = 'no json' WHERE id = 'job-0000'")
    stats = await history.read(image_stats)
    assert (stats.completed, stats.by_tag) == (1, {"a": 1})
    assert (await history.read(day_figures)).total == 1
    assert len(await history.newest(10)) == 1
    await history.close()


async def test_what_the_asker_got_wrong_is_no_failure_of_the_node(tmp_path: Path) -> None:
    history = await History.open(tmp_path / "herd.db")
    for number, code in enumerate((ErrorCode.INVALID_REQUEST, ErrorCode.ENGINE_CRASHED)):
        await history.save(image_job(number, "failed", error=ErrorInfo(code=code, message="x")))
    assert (await history.read(day_figures)).failed == 1
    await history.close()


async def test_a_folder_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(HerdError) as caught:
        await History.open(tmp_path / "missing" / "herd.db")
    assert caught.value.info.code == ErrorCode.DISK
    assert "herd-mcp doctor" in caught.value.info.hint


async def test_a_write_that_fails_is_told_to_whoever_waits_for_it(tmp_path: Path) -> None:
    history = await History.open(tmp_path / "herd.db")
    with sqlite3.connect(tmp_path / "herd.db") as other:
        other.execute("DROP TABLE jobs")
    other.close()
    with pytest.raises(HerdError) as caught:
        await history.save(image_job(1))
    assert caught.value.info.code == ErrorCode.DISK
    await history.close()


async def test_image_statistics_count_by_outcome_and_give_percentiles(tmp_path: Path) -> None:
    history = await History.open(tmp_path / "herd.db")
    jobs = [image_job(number, run_s=number / 10, tags=("web",)) for number in range(1, 21)]
    jobs += [image_job(30, "failed"), image_job(31, "cancelled"), image_job(32, "queued")]
    await asyncio.gather(*(history.save(job) for job in jobs))
    stats = await history.read(image_stats)
    assert (stats.total, stats.completed, stats.failed, stats.cancelled) == (23, 20, 1, 1)
    assert (stats.avg_generation_ms, stats.p50_generation_ms, stats.p95_generation_ms) == (1050.0, 1100.0, 2000.0)
    assert stats.by_tag == {"web": 20}
    assert sum(stats.by_day.values()) == 20
    assert [recent.status for recent in stats.recent[:3]] == ["queued", "cancelled", "failed"]
    assert len(stats.recent) == 10
    await history.close()


async def test_statistics_of_an_empty_history_are_zeros(tmp_path: Path) -> None:
    history = await History.open(tmp_path / "herd.db")
    stats = await history.read(image_stats)
    assert (stats.total, stats.avg_generation_ms, stats.p95_generation_ms, stats.recent) == (0, 0.0, None, ())
    assert (await history.read(day_figures)).total == 0
    await history.close()


async def test_answers_of_old_chats_are_forgotten_and_their_jobs_stay(tmp_path: Path) -> None:
    history = await History.open(tmp_path / "herd.db")
    answer = ChatResult(text="secret", finish_reason="stop", usage=Usage(), model="m", node="n")
    old = image_job(1, kind="chat", result=answer, request=None, finished_at=100.0)
    new = image_job(2, kind="chat", result=answer, request=None, finished_at=300.0)
    await history.save(old)
    await history.save(new)
    assert await history.forget_answers(finished_before=200.0) == 1
    assert await history.forget_answers(finished_before=200.0) == 0
    stored = {job.id: job.result for job in await history.newest(10)}
    assert stored == {old.id: None, new.id: answer}
    await history.close()
