"""Macs that leave the herd, or are taken out of it, while jobs run: real processes."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from herd_mcp.jobs import ErrorCode
from tests.cli.program import until
from tests.fleet.macs import IMAGE, Mac, join, macs
from tests.fleet.outcomes import elsewhere, ran, runs_on

LONG = IMAGE | {"steps": 30}
LEASE_S = 600
"""Nothing here waits for it."""


@pytest.fixture
def herd(tmp_path: Path) -> Iterator[list[Mac]]:
    with macs(tmp_path, {}, {}, variables={"HERD_LEASE_S": str(LEASE_S)}) as two:
        yield two


@pytest.mark.slow
def test_who_ends_takes_no_new_job_though_others_could_run_it(herd: list[Mac]) -> None:
    asker, runner = herd
    runner.post("/herd/api/pause", {})
    job_id = asker.submit(LONG | {"steps": 200})
    asker.is_(job_id, "running")
    runner.post("/herd/api/resume", {})
    until(lambda: not asker.states()[runner.name]["paused"])
    asker.node_process().send_signal(signal.SIGTERM)
    until(lambda: asker.ask("GET", "/healthz").status == 503)
    response = asker.ask("POST", "/herd/api/jobs", IMAGE)
    assert json.loads(response.read())["error"]["code"] == ErrorCode.DRAINING


def test_who_leaves_gives_back_what_it_runs_and_keeps_nothing_of_it(herd: list[Mac]) -> None:
    asker, runner = herd
    with elsewhere(asker):
        runs_on(asker, runner)
        job_id = asker.submit(LONG)
        asker.is_(job_id, "running")
    runner.post("/herd/api/herd/leave", {})
    assert ran(asker.over(job_id)) == [(runner.name, "returned"), (asker.name, "completed")]
    until(lambda: not runner.busy())
    until(lambda: not runner.left_over())
    join(asker, runner)
    with elsewhere(asker):
        runs_on(asker, runner)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["left", "taken out"])
def test_a_job_does_not_stay_with_a_mac_that_is_in_no_herd_with_its_owner_any_more(herd: list[Mac], how: str) -> None:
    asker, runner = herd
    with elsewhere(asker):
        runs_on(asker, runner)
        job_id = asker.submit(LONG)
        asker.is_(job_id, "running")
    asker.post("/herd/api/herd/leave", {} if how == "left" else {"node": runner.name})
    assert ran(asker.over(job_id)) == [(runner.name, "returned"), (asker.name, "completed")]
