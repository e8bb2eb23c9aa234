"""A herd in which a disk is full, under who runs a job and under who owns it: real processes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from herd_mcp.fleet.able import LEAST_DISK_BYTES
from herd_mcp.jobs import ErrorCode
from tests.cli.program import until
from tests.faults.node_process import small_disk
from tests.fleet.macs import CHAT, IMAGE, Mac, macs
from tests.fleet.outcomes import LEASED, elsewhere, ran, runs_on, truth

pytestmark = pytest.mark.slow  # disks are filled
DISK_BYTES = LEAST_DISK_BYTES + 128 * 1024 * 1024


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """Nothing more is taken by the file system of `folder`."""
    ballast = folder / "ballast"
    room = os.statvfs(folder)
    with ballast.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, (room.f_bavail - 8) * room.f_frsize)
        with contextlib.suppress(OSError):
            file.seek(0, os.SEEK_END)
            while True:
                file.write(bytes(4096))
    yield
    ballast.unlink()


@pytest.fixture
def herd(tmp_path: Path) -> Iterator[list[Mac]]:
    """Two Macs, each with a disk of its own that still has room for jobs."""
    with contextlib.ExitStack() as stack:
        for number in range(2):
            stack.enter_context(small_disk(tmp_path / f"mac{number}", DISK_BYTES))
        yield stack.enter_context(macs(tmp_path, {}, {}, variables=LEASED))


def test_an_image_that_finds_no_room_on_its_runner_is_drawn_elsewhere(herd: list[Mac]) -> None:
    asker, runner = herd
    with elsewhere(asker):
        runs_on(asker, runner)
        job_id = asker.submit(IMAGE | {"steps": 60})
        chat = asker.submit(CHAT | {"max_tokens": 400})
        asker.is_(job_id, "running")
        with full(runner.home):
            job = truth(asker, job_id, work_s=20)
            assert ran(job) == [(runner.name, ErrorCode.DISK), (asker.name, "completed")]
            assert truth(asker, chat).status == "completed"
            until(lambda: (asker.states()[runner.name]["disk_free_bytes"] or 0) < LEAST_DISK_BYTES)
            assert ran(truth(asker, asker.submit(IMAGE), work_s=5)) == [(asker.name, "completed")]
        assert runner.left_over() == []
        until(lambda: (asker.states()[runner.name]["disk_free_bytes"] or 0) >= LEAST_DISK_BYTES)
        runs_on(asker, runner)


def test_an_owner_without_room_says_so_at_once_and_what_was_told_stays_true(herd: list[Mac]) -> None:
    owner, runner = herd
    with elsewhere(owner):
        runs_on(owner, runner)
        job_id = owner.submit(IMAGE | {"steps": 60})
        owner.is_(job_id, "running")
        until(lambda: stored(owner, job_id) == "running")
        with full(owner.home):
            job = truth(owner, job_id, work_s=20)
            assert job.error is not None
            assert (job.status, job.error.code) == ("failed", ErrorCode.DISK)
            assert ran(job) == [(runner.name, ErrorCode.DISK)]
            assert owner.refusal(IMAGE)["code"] == "disk"
            until(lambda: not runner.busy())
        until(lambda: stored(owner, job_id) == "failed")
        assert owner.left_over() == []
        until(lambda: not runner.left_over())
        assert truth(owner, owner.submit(IMAGE)).status == "completed"


def stored(mac: Mac, job_id: str) -> str:
    """The status of a job as it stands in the database."""
    with closing(sqlite3.connect(f"file:{mac.home / 'herd.db'}?mode=ro", uri=True)) as database:
        (status,) = database.execute("SELECT status FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return str(status)
