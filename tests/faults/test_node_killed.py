"""A node that is killed at any moment: every accepted job has exactly one outcome, images are whole or absent."""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from herd_mcp.jobs import ErrorCode, Job
from herd_mcp.owner.retry import MAX_DEATHS, deaths
from tests.cli import program
from tests.cli.program import until
from tests.faults.node_process import ENDLESS_IMAGE, IMAGE, LONG_CHAT, LONG_IMAGE, Faulty, a_home, stopped


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Faulty]:
    with a_home(tmp_path) as it:
        yield it


def at_once(faulty: Faulty, job_id: str) -> None:
    """Accepted, nothing more."""


def while_loading(faulty: Faulty, job_id: str) -> None:
    faulty.is_(job_id, "loading")


def between_steps(faulty: Faulty, job_id: str) -> None:
    until(lambda: (progress := faulty.job(job_id).progress) is not None and progress.step >= 2)


def while_it_is_saved(faulty: Faulty, job_id: str) -> None:
    spool = faulty.images / ".spool"
    end = time.monotonic() + 60
    while not os.listdir(spool) and time.monotonic() < end:
        pass  # the file is there for a millisecond


def just_completed(faulty: Faulty, job_id: str) -> None:
    faulty.is_(job_id, "completed")


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(moment, marks=pytest.mark.slow)  # every day between steps: tests/test_orphans.py
        for moment in (at_once, while_loading, between_steps, while_it_is_saved, just_completed)
    ],
)
def test_an_image_is_drawn_whenever_its_node_was_killed(faulty: Faulty, moment: Callable[[Faulty, str], None]) -> None:
    with faulty.running():
        first, second = faulty.submit(LONG_IMAGE | {"seed": 1}), faulty.submit(IMAGE | {"seed": 2})
        moment(faulty, first)
        faulty.kill()
    with faulty.running():
        jobs = [faulty.over(first), faulty.over(second)]
        assert [job.status for job in jobs] == ["completed", "completed"]
        assert (faulty.pictures(), faulty.left_over()) == (pictures_of(jobs), [])


def test_a_chat_whose_node_was_killed_is_interrupted_and_says_what_to_do(faulty: Faulty) -> None:
    with faulty.running():
        decoding = faulty.submit(LONG_CHAT)
        faulty.is_(decoding, "running")
        accepted = faulty.submit(LONG_CHAT)
        faulty.kill()
    with faulty.running():
        for job in (faulty.over(decoding), faulty.over(accepted)):
            assert job.error is not None
            assert (job.error.code, job.error.hint) == (ErrorCode.INTERRUPTED, "Ask again.")
            assert job.request is None


@pytest.mark.slow
def test_no_engine_is_left_also_one_that_stands_still(faulty: Faulty) -> None:
    with faulty.running():
        job_id = faulty.submit(ENDLESS_IMAGE)
        faulty.is_(job_id, "running")
        with stopped(faulty.engine_pid()):
            faulty.kill()
            assert faulty.processes() == []


@pytest.mark.slow
def test_no_engine_is_left_also_one_inside_c_code(
    faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, str(Path(__file__).parent / "command.py"), str(tmp_path), "step", "IN_C"]
    monkeypatch.setattr(program, "COMMAND", command)
    with faulty.running():
        faulty.submit(ENDLESS_IMAGE)
        until((tmp_path / "struck").exists)
        assert faulty.engine_pid() in [process.pid for process in faulty.processes()]
        faulty.kill()
        assert faulty.processes() == []


@pytest.mark.slow
def test_an_image_during_which_the_node_ends_twice_is_not_tried_a_third_time(faulty: Faulty) -> None:
    with faulty.running():
        poison = faulty.submit(ENDLESS_IMAGE)
        between_steps(faulty, poison)
        faulty.kill()
    with faulty.running():
        between_steps(faulty, poison)
        faulty.kill()
    with faulty.running():
        job = faulty.over(poison)
        assert job.error is not None
        assert (job.error.code, [a.outcome for a in job.attempts]) == (
            ErrorCode.ENGINE_CRASHED,
            [ErrorCode.NODE_LOST, ErrorCode.ENGINE_CRASHED],
        )


def play_kills(faulty: Faulty, chance: random.Random, kills: int) -> None:
    """Work comes, the node is killed at any moment and started again; in the end every promise is looked at."""
    asked: dict[str, str] = {}
    for _ in range(kills):
        with faulty.running():
            for _ in range(chance.randrange(1, 4)):
                request = chance.choice([IMAGE, IMAGE, LONG_IMAGE, LONG_CHAT])
                asked[faulty.submit(request)] = str(request["kind"])
            time.sleep(chance.uniform(0, 4))  # the kill comes at any time: this is no wait for something
            faulty.kill()
    with faulty.running():
        jobs = [faulty.over(job_id) for job_id in asked]
        assert [job.kind for job in jobs] == list(asked.values())
        for job in jobs:
            assert_one_outcome(job)
        assert (faulty.pictures(), faulty.left_over()) == (pictures_of(jobs), [])
    with closing(sqlite3.connect(faulty.home / "herd.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    until(lambda: not faulty.processes())


def assert_one_outcome(job: Job) -> None:
    lost = deaths(job)
    assert lost <= MAX_DEATHS, job
    if job.status == "completed":
        assert job.result is not None
    elif job.kind == "chat":
        assert job.error is not None
        assert job.error.code == ErrorCode.INTERRUPTED
    else:
        assert job.error is not None
        assert (job.error.code, lost) == (ErrorCode.ENGINE_CRASHED, MAX_DEATHS), job


def pictures_of(jobs: list[Job]) -> dict[str, tuple[int, int]]:
    """What must lie in the gallery, no more and no less."""
    results = [job.result for job in jobs if job.result is not None and job.result.kind == "image"]
    return {result.image_id: (result.width, result.height) for result in results}


@pytest.mark.parametrize(
    "kills",
    [pytest.param(2, marks=pytest.mark.slow), pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_kills_at_any_time_lose_nothing(faulty: Faulty, kills: int) -> None:
    seed = int(os.environ.get("HERD_FAULTS_SEED") or random.randrange(10**6))
    print(f"seed {seed}: again with HERD_FAULTS_SEED={seed}")
    play_kills(faulty, random.Random(seed), kills)
