"""A disk that is full: jobs fail with `disk` and a way out, the node lives on, and works again when there is room."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.node.gallery import Gallery
from herd_mcp.node.history import History
from tests.cli.program import ended, until
from tests.faults.node_process import IMAGE, LONG_IMAGE, Faulty, a_home, fill, small_disk
from tests.node.test_gallery import spooled
from tests.node.test_history import image_job

DISK_BYTES = 4 * 1024 * 1024


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Faulty]:
    """A home on a disk of its own, of 4 MiB."""
    with a_home(tmp_path) as it, small_disk(it.home, DISK_BYTES):
        yield it


def stored(faulty: Faulty, job_id: str) -> str:
    """The status of a job as it stands in the database."""
    with closing(sqlite3.connect(f"file:{faulty.home / 'herd.db'}?mode=ro", uri=True)) as database:
        (status,) = database.execute("SELECT status FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return str(status)


@pytest.mark.slow
def test_a_disk_that_fills_up_under_an_image_fails_it_and_its_outcome_is_written_when_there_is_room(
    faulty: Faulty,
) -> None:
    with faulty.running():
        job_id = faulty.submit(LONG_IMAGE)
        until(lambda: stored(faulty, job_id) == "running")
        ballast = fill(faulty.home)
        job = faulty.over(job_id)
        assert job.error is not None
        assert (job.error.code, job.error.retryable) == (ErrorCode.DISK, True)
        assert "Make room" in job.error.hint
        assert (faulty.pictures(), faulty.left_over()) == ({}, [])
        refused = faulty.refusal(IMAGE)
        assert (refused["code"], "free space" in refused["hint"]) == ("disk", True)
        assert "disk_low" in {row["check_id"] for row in faulty.get("/herd/api/status")["health"]["recommendations"]}
        assert stored(faulty, job_id) == "running"
        ballast.unlink()
        until(lambda: stored(faulty, job_id) == "failed")
        assert faulty.over(faulty.submit(IMAGE)).status == "completed"
        assert len(faulty.pictures()) == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="this system cannot lift a limit of another process")
def test_a_node_starts_where_nothing_can_be_written_and_tries_what_it_owes(tmp_path: Path) -> None:
    with a_home(tmp_path) as faulty:
        with faulty.running():
            owed = faulty.submit(LONG_IMAGE | {"prompt": "🔴" * 8000})
            until(lambda: stored(faulty, owed) == "running")
            faulty.kill()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40 * 1024, hard))  # less than the job takes in the database
        try:
            node = faulty.up()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with ended(node):
            resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (soft, hard))
            job = faulty.over(owed)
            # It was tried again; its picture, which carries the prompt, is over the limit of the engine.
            assert [attempt.outcome for attempt in job.attempts] == [ErrorCode.NODE_LOST, ErrorCode.DISK]
            assert "is not on disk as it is now" in faulty.stderr
            until(lambda: stored(faulty, owed) == "failed")


@pytest.mark.slow
def test_a_detached_node_whose_log_finds_no_room_lives_on(faulty: Faulty) -> None:
    with faulty.running():
        pass
    (faulty.home / "run" / "node.json").unlink(missing_ok=True)
    log = faulty.home / "logs" / "node.log"
    node = faulty.start("up", "--detached", stdout=None, stderr=None)
    try:
        until(lambda: faulty.record is not None and log.exists())
        ballast = fill(faulty.home)
        for _ in range(3):
            assert faulty.refusal(IMAGE)["code"] == "disk"
        ballast.unlink()
        assert faulty.over(faulty.submit(IMAGE)).status == "completed"
        assert "engine of herd-tiny-image started" in log.read_text()
    finally:
        faulty.leave()
        node.kill()
        node.wait(30)


# ── Where no file system can be mounted: a limit on the size of files ─────────────────────────────────────────────────


async def test_the_history_works_again_after_writes_that_the_disk_did_not_take(tmp_path: Path) -> None:
    history = await History.open(tmp_path / "herd.db")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    try:
        with pytest.raises(HerdError) as caught:
            await asyncio.gather(*(history.save(image_job(number)) for number in range(1000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.info.code == ErrorCode.DISK
    await history.save(image_job(2000))
    assert await history.get("job-2000") is not None
    await history.close()


async def test_a_writer_that_cannot_open_the_database_tells_who_waits_and_tries_again(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    history = await History.open(folder / "herd.db")
    history._drop_writer()
    folder.rename(tmp_path / "away")
    with pytest.raises(HerdError) as caught:
        await history.save(image_job(1))
    assert caught.value.info.code == ErrorCode.DISK
    (tmp_path / "away").rename(folder)
    await history.save(image_job(2))
    await history.close()


async def test_a_picture_that_cannot_be_kept_leaves_nothing_behind(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "images")
    result = spooled(gallery)
    part = Path(result.path + ".part")
    part.write_bytes(b"half")
    other = spooled(gallery)
    gallery.discard(Path(result.path))
    assert os.listdir(gallery.spool) == [Path(other.path).name]
