"""The node that runs jobs of another is killed, drained or stopped: real processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from herd_mcp.jobs import ErrorCode
from tests.cli.program import until
from tests.fleet.macs import CHAT, IMAGE, Mac, at_once, macs
from tests.fleet.outcomes import (
    BOUND_S,
    LEASE_S,
    LEASED,
    elsewhere,
    events,
    frames,
    idle,
    ran,
    revived,
    runs_on,
    stand_still,
    truth,
)

LONG = IMAGE | {"steps": 60}
LONG_CHAT = CHAT | {"max_tokens": 600}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Mac]]:
    with macs(tmp_path_factory.mktemp("herd"), {}, {}, variables=LEASED) as herd:
        yield herd


@pytest.fixture
def pair(both: list[Mac]) -> Iterator[tuple[Mac, Mac]]:
    """Who asks, and who runs what it asks."""
    asker, runner = both
    if runner.node_process().poll() is not None:
        revived(runner, asker)
    runner.quick()
    with elsewhere(asker):
        runs_on(asker, runner)
        yield asker, runner
    asker.leave()


def test_a_killed_runner_costs_no_image_and_no_whole_answer_and_a_shown_one_is_told_lost(
    pair: tuple[Mac, Mac],
) -> None:
    asker, runner = pair
    running, queued = asker.submit(LONG), asker.submit(IMAGE)
    body = {"model": CHAT["model"], "messages": CHAT["messages"], "max_tokens": 300}
    streamed = asker.ask("POST", "/herd/api/jobs", LONG_CHAT)
    shown = frames(streamed)
    assert next(event for event in shown if event["type"] == "delta")
    asker.is_(running, "running")

    def answered() -> dict[str, object]:
        return dict(asker.post("/v1/chat/completions", body))

    def killed() -> None:
        until(lambda: runner.states()[runner.name]["running"] == 3)
        assert asker.job(queued).progress is None
        runner.kill()

    answer, _ = at_once(answered, killed)
    for job_id in (running, queued):
        job = truth(asker, job_id, work_s=10)
        assert (job.status, ran(job)[0][0], ran(job)[-1]) == ("completed", runner.name, (asker.name, "completed"))
        assert len(job.attempts) == 2
    assert answer["choices"][0]["message"]["content"].split()[-1] == "w299"
    last = list(shown)[-1]
    assert (last["type"], last["error"]["code"]) == ("failed", "node_lost")
    told = truth(asker, str(streamed.headers["X-Herd-Job"]))
    assert ran(told) == [(runner.name, ErrorCode.NODE_LOST)]
    assert told.error is not None
    assert runner.name in told.error.message or "other node" in told.error.message


@pytest.mark.slow
def test_a_runner_that_is_killed_while_it_loads_costs_its_jobs_one_attempt(pair: tuple[Mac, Mac]) -> None:
    asker, runner = pair
    runner.kill()
    runner.quick(load_s=60)
    revived(runner, asker)
    jobs = [asker.submit(IMAGE), asker.submit(IMAGE | {"seed": 2})]
    for job_id in jobs:
        asker.is_(job_id, "loading")
    runner.kill()
    for job_id in jobs:
        job = truth(asker, job_id, work_s=5)
        assert ran(job) == [(runner.name, ErrorCode.NODE_LOST), (asker.name, "completed")]


def test_a_runner_that_drains_ends_the_image_it_draws_and_gives_back_the_one_that_waits(
    pair: tuple[Mac, Mac],
) -> None:
    asker, runner = pair
    drawn = asker.submit(IMAGE | {"steps": 30})
    asker.is_(drawn, "running")
    waiting = asker.submit(IMAGE)
    until(lambda: runner.busy() == 2)
    runner.node_process().send_signal(signal.SIGTERM)
    assert ran(truth(asker, drawn)) == [(runner.name, "completed")]
    assert ran(truth(asker, waiting)) == [(runner.name, "returned"), (asker.name, "completed")]
    runner.node_process().wait(60)
    assert runner.left_over() == []


@pytest.mark.slow
def test_a_runner_that_is_ended_at_once_gives_back_the_image_it_draws(pair: tuple[Mac, Mac]) -> None:
    asker, runner = pair
    drawn = asker.submit(IMAGE | {"steps": 50})
    asker.is_(drawn, "running")
    assert runner.run("stop", "--now").returncode == 0
    assert ran(truth(asker, drawn, work_s=5)) == [(runner.name, "returned"), (asker.name, "completed")]


@pytest.mark.slow
def test_a_stop_shorter_than_the_lease_runs_nothing_twice(pair: tuple[Mac, Mac]) -> None:
    asker, runner = pair
    job_id = asker.submit(LONG)
    chat = asker.submit(LONG_CHAT)
    asker.is_(job_id, "running")
    with runner.stop_and_cont():
        stand_still(LEASE_S / 4)
    for each in job_id, chat:
        assert ran(truth(asker, each, work_s=10)) == [(runner.name, "completed")]


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False], ids=["the whole Mac", "the node alone"])
def test_of_a_runner_that_stands_still_longer_than_the_lease_nothing_is_taken_any_more(
    pair: tuple[Mac, Mac], whole: bool
) -> None:
    asker, runner = pair
    job_id = asker.submit(IMAGE | {"steps": 30})
    asker.is_(job_id, "running")
    pids = [process.pid for process in runner.processes()] if whole else [runner.node_process().pid]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: len(asker.job(job_id).attempts) == 2, LEASE_S + 30)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    job = truth(asker, job_id, work_s=5)
    assert ran(job) == [(runner.name, ErrorCode.NODE_LOST), (asker.name, "completed")]
    idle(runner)
    until(lambda: asker.sees(runner))
    assert len(events(asker, job_id)) == events(asker, job_id)[-1]["seq"]


@pytest.mark.slow
def test_a_job_that_comes_when_its_runner_has_just_fallen_silent_goes_elsewhere(pair: tuple[Mac, Mac]) -> None:
    asker, runner = pair
    with runner.stop_and_cont():
        began = time.monotonic()
        job_id = asker.submit(IMAGE)
        assert time.monotonic() - began < LEASE_S + BOUND_S
        assert ran(truth(asker, job_id, work_s=5)) == [(asker.name, "completed")]
    idle(runner)
