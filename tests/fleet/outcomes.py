"""What must hold for every job of a herd, whoever died: one outcome, told and stored, and few attempts."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

from herd_mcp.jobs import ENDED, Job
from tests.cli.program import until
from tests.fleet.macs import IMAGE, Mac

LEASE_S = 4.0
BOUND_S = 30.0
"""After a fault the caller knows the truth within the lease and this. A node that is not loaded takes 12 s at most: a
look at who is silent, a way to it that hangs, one more attempt from a cold engine."""
LEASED = {"HERD_LEASE_S": f"{LEASE_S:g}"}


def truth(mac: Mac, job_id: str, lease_s: float = LEASE_S, work_s: float = 0.0) -> Job:
    """The job's outcome, in time: the same in the events, in the record and in the list; `work_s` is what the work
    itself takes. `herd-mcp jobs --json` prints the list as it is."""
    job = mac.over(job_id, lease_s + BOUND_S + work_s)
    ends = [event["type"] for event in events(mac, job_id) if event["type"] in ENDED]
    assert ends == [job.status]
    (listed,) = (one for one in mac.get("/herd/api/jobs") if one["id"] == job_id)
    assert listed["status"] == job.status
    counted = [attempt for attempt in job.attempts if attempt.outcome != "returned"]
    assert len(counted) <= 3
    assert all(attempt.ended_at for attempt in job.attempts)
    assert len({attempt.number for attempt in job.attempts}) == len(job.attempts)
    return job


def ran(job: Job) -> list[tuple[str, str]]:
    """Where its attempts were, and how each ended."""
    return [(attempt.node, attempt.outcome) for attempt in job.attempts]


def events(mac: Mac, job_id: str) -> list[dict[str, Any]]:
    """All events of a job, to its end."""
    return list(frames(mac.ask("GET", f"/herd/api/jobs/{job_id}/events")))


def frames(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The events of a stream as they come."""
    while line := answer.readline():
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            yield json.loads(line[6:])


@contextlib.contextmanager
def elsewhere(mac: Mac) -> Iterator[None]:
    """What is asked of this Mac runs on others while one is able."""
    mac.post("/herd/api/pause", {})
    try:
        yield
    finally:
        if mac.record is not None and mac.node_process().poll() is None:
            mac.post("/herd/api/resume", {})


def idle(*herd: Mac) -> None:
    """Wait until nothing runs or waits on any."""
    until(lambda: not any(mac.busy() for mac in herd))


def runs_on(asker: Mac, runner: Mac) -> None:
    """Wait until the runner, warm, does what is asked of the asker."""
    quick = IMAGE | {"steps": 1}
    until(lambda: asker.over(asker.submit(quick)).attempts[-1].node == runner.name)


def revived(mac: Mac, *others: Mac) -> None:
    """Start a Mac again that ended; returns when all see one another."""
    mac.node_process().wait(60)
    mac.leave()
    mac.up()
    until(lambda: all(other.sees(mac) for other in others) and mac.sees(*others))


def stand_still(seconds: float) -> None:
    """For so long nothing is to happen, so nothing can be waited for."""
    time.sleep(seconds)
