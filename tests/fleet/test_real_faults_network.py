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

import psutil
import pytest
from zeroconf import IPVersion, ServiceInfo, Zeroconf
from zeroconf._protocol.outgoing import DNSOutgoing
from zeroconf.const import _FLAGS_AA, _FLAGS_QR_RESPONSE

from benchmarks.parts.mesh import node_id as node_id_of
from herd_mcp.fleet.discovery import SERVICE
from herd_mcp.fleet.found import HERD_DIGITS
from herd_mcp.fleet.strangers import MOST_SHOWN
from herd_mcp.fleet.trust import Trust
from herd_mcp.jobs import ErrorCode
from tests.cli.program import until
from tests.fleet.macs import CHAT, IMAGE, Mac
from tests.fleet.namespaces import Link, link
from tests.fleet.outcomes import LEASE_S, elsewhere, ran, runs_on, truth

pytestmark = pytest.mark.slow  # silences are waited for
LONG = IMAGE | {"steps": 80}
MIB = 1024 * 1024


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
def apart(folder: Path, cable: Link, lease_s: float, **of_far: str) -> Iterator[tuple[Mac, Far]]:
    """A herd of one node here and one at the other end, which has the variables `of_far`. The first leaves what it is
    asked to the second."""
    lease = {"HERD_LEASE_S": f"{lease_s:g}"}
    near = Mac(folder / "near", "near", {}, **lease, HERD_PEER_BIND=cable.near_host)
    far = Far(folder / "far", "far", {}, **lease, HERD_PEER_BIND=cable.host, **of_far)
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


ANNOUNCED = 1000


def announce(near_host: str, herd: str, ids: range) -> None:
    """Say to the network that these nodes are there, at a port where nobody listens."""
    told = {"herd": herd, "wire": "1.0"}
    with contextlib.closing(Zeroconf(interfaces=[near_host], ip_version=IPVersion.V4Only)) as zeroconf:
        for node_id in map(node_id_of, ids):
            info = ServiceInfo(
                SERVICE,
                f"{node_id}.{SERVICE}",
                port=9,
                parsed_addresses=[near_host],
                properties={**told, "id": node_id},
                server=f"herd-{node_id}.local.",
            )
            packet = DNSOutgoing(_FLAGS_QR_RESPONSE | _FLAGS_AA)
            for record in (info.dns_pointer(), info.dns_service(), info.dns_text(), *info.dns_addresses()):
                packet.add_answer_at_time(record, 0)
            zeroconf.send(packet)


def test_thousands_of_announced_nodes_cost_no_memory_no_flood_of_lines_and_no_job(tmp_path: Path) -> None:
    with link() as cable, apart(tmp_path, cable, LEASE_S, HERD_BONJOUR="true") as (near, far):
        runs_on(near, far)
        node = psutil.Process(far.node_process().pid)
        announce(cable.near_host, "cd" * 8, range(10))  # what the first takes is no growth
        until(lambda: len(far.asked("status")["strangers"]) > 0)
        held, lines = node.memory_info().rss, far.stderr.count("\n")
        job_id = near.submit(LONG)
        near.is_(job_id, "running")
        this_herd = Trust.open(near.home / "trust", near.id).herd_id[:HERD_DIGITS]
        announce(cable.near_host, this_herd, range(1000, 1000 + ANNOUNCED))
        announce(cable.near_host, "ab" * 8, range(5000, 5000 + ANNOUNCED))
        until(lambda: len(far.asked("status")["strangers"]) == MOST_SHOWN)
        assert ran(truth(near, job_id, work_s=30)) == [("far", "completed")]
        assert node.memory_info().rss - held < 24 * MIB
        assert far.stderr.count("\n") - lines < 100
        assert len(far.asked("status")["nodes"]) == 2
