"""Two nodes whose network is cut, slow, or loses packets: real processes in network namespaces."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from herd_mcp.jobs import ErrorCode
from tests.cli.program import until
from tests.fleet.macs import CHAT, IMAGE, Mac
from tests.fleet.namespaces import Link, link
from tests.fleet.outcomes import LEASE_S, elsewhere, ran, runs_on, truth

pytestmark = pytest.mark.slow  # silences are waited for
LONG = IMAGE | {"steps": 80}


class Far(Mac):
    """A node in another network: nobody here reaches the port for its clients."""

    def asked(self, *words: str) -> Any:
        """What a command there prints."""
        command = [*self.through, sys.executable, "-m", "herd_mcp", *words, "--json"]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def mine(self) -> dict[str, Any]:
        """How it says that it is itself."""
        return dict(self.asked("status")["nodes"][0])


@contextlib.contextmanager
def apart(folder: Path, cable: Link, lease_s: float) -> Iterator[tuple[Mac, Far]]:
    """A herd of one node here and one at the other end. The first leaves what it is asked to the second."""
    variables = {"HERD_LEASE_S": f"{lease_s:g}"}
    near = Mac(folder / "near", "near", {}, HERD_PEER_BIND=cable.near_host, **variables)
    far = Far(folder / "far", "far", {}, HERD_PEER_BIND=cable.host, **variables)
    far.through = cable.through
    try:
        near.up()
        far.up()
        join(near, far)
        until(lambda: near.sees(far))
        with elsewhere(near):
            yield near, far
    finally:
        for mac in near, far:
            mac.leave()
            mac.end()
            if mac.node is not None:
                mac.node.wait(30)


def join(near: Mac, far: Far) -> None:
    """As a person does it who sees that packets were lost."""
    for _ in range(4):
        with contextlib.suppress(AssertionError):
            far.asked("join", near.post("/herd/api/herd/invite")["code"])
            return
    pytest.fail("the two did not find each other in four invites")


def test_a_herd_that_is_cut_in_two_does_each_job_once_more_at_most_and_heals(tmp_path: Path) -> None:
    with link() as cable, apart(tmp_path, cable, LEASE_S) as (near, far):
        runs_on(near, far)
        job_id = near.submit(LONG)
        near.is_(job_id, "running")
        cable.cut()
        job = truth(near, job_id, work_s=20)
        assert ran(job) == [("far", ErrorCode.NODE_LOST), ("near", "completed")]
        until(lambda: not far.mine()["running"])  # its lease is over
        alone = near.submit(IMAGE)
        assert truth(near, alone).status == "completed"
        until(lambda: near.sees(far, status="degraded") or near.sees(far, status="offline"))
        cable.heal()
        until(lambda: near.sees(far))
        runs_on(near, far)
        assert truth(near, job_id).attempts == job.attempts
        assert far.left_over() == []


def test_a_cut_that_is_shorter_than_the_lease_runs_nothing_twice(tmp_path: Path) -> None:
    with link() as cable, apart(tmp_path, cable, 20) as (near, far):
        runs_on(near, far)
        image, chat = near.submit(LONG), near.submit(CHAT | {"max_tokens": 600})
        near.is_(image, "running")
        cable.cut()
        time.sleep(3)  # nothing can be waited for: what shall happen is nothing
        cable.heal()
        for job_id in image, chat:
            job = truth(near, job_id, 20, work_s=20)
            assert (job.status, ran(job)) == ("completed", [("far", "completed")])


def test_a_network_that_is_slow_and_loses_packets_costs_time_and_no_job(tmp_path: Path) -> None:
    with link(delay_s=0.1, loss=0.05) as cable, apart(tmp_path, cable, 15) as (near, far):
        runs_on(near, far)
        jobs = [near.submit(LONG | {"steps": 10}) for _ in range(3)]
        jobs += [near.submit(CHAT | {"max_tokens": 300}) for _ in range(3)]
        for job_id in jobs:
            job = truth(near, job_id, 15, work_s=60)
            assert (job.status, ran(job)[-1]) == ("completed", ("far", "completed"))
