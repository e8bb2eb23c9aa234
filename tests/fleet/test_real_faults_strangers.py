"""What strangers and false members send to a whole node costs it no memory, no flood of lines and no job."""

from __future__ import annotations

import socket
import ssl
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from herd_mcp.fleet import wire
from herd_mcp.fleet.trust import Trust
from herd_mcp.jobs import Job
from tests.cli.program import until
from tests.fleet.certificates import Authority
from tests.fleet.macs import IMAGE, Mac, at_once, join, macs
from tests.fleet.outcomes import LEASED, elsewhere, idle, ran, runs_on, truth
from tests.fleet.scripted import order_of, state_of

MIB = 1024 * 1024
TIMES = 20
OTHER = "0123456789"
LONG = IMAGE | {"steps": 150}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Mac]]:
    with macs(tmp_path_factory.mktemp("herd"), {}, {}, variables=LEASED) as herd:
        yield herd


class Attacker:
    """Says things to the port of a node, one connection each."""

    def __init__(self, target: Mac, context: ssl.SSLContext) -> None:
        host, _, port = target.states()[target.name]["addresses"][0].rpartition(":")
        self._at, self._name, self._context = (host, int(port)), f"{target.id}.herd.internal", context

    def say(self, raw: bytes) -> bytes:
        """What is answered; empty where the connection ends without an answer."""
        try:
            with (
                socket.create_connection(self._at, 30) as plain,
                self._context.wrap_socket(plain, server_hostname=self._name) as sock,
            ):
                sock.sendall(raw)
                return sock.recv(65536)
        except OSError:
            return b""

    def post(self, path: str, body: bytes, length: int | None = None) -> int:
        """The status; 0 where the connection ends without one."""
        lines = [f"POST {wire.ROOT}{path} HTTP/1.1", "host: x", f"{wire.VERSION_HEADER}: {wire.VERSION}"]
        head = "\r\n".join([*lines, f"content-length: {length or len(body)}"]) + "\r\n\r\n"
        answer = self.say(head.encode() + body)
        return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def member_of(mac: Mac) -> ssl.SSLContext:
    """The keys of a member, in other hands."""
    return Trust.open(mac.home / "trust", mac.id).client_context()


def nobody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def of_another_herd(node_id: str) -> ssl.SSLContext:
    context = Authority().member(node_id).client()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def absurd(mac: Mac) -> list[tuple[str, bytes, int | None]]:
    """Bodies with which a member lies: path, body, told length."""
    state, order = state_of(mac.id), order_of(mac.id)
    clean = wire.pack_order(order)
    numbers = [b"NaN", b"-1", b"1e30", b"1" + b"0" * 30, b'"../../x"']
    return [
        ("/state", wire.pack_state(state_of(OTHER)), None),
        *(("/state", zlib.compress(b'{"node_id":"%s","revision":%s}' % (mac.id.encode(), n)), None) for n in numbers),
        ("/state", zlib.compress(wire.pack_state(state).replace(b"a", b"../")), None),
        ("/state", zlib.compress(bytes(100 * MIB)), None),
        ("/state", b"x" * 1000, 100 * MIB),
        ("/jobs", wire.pack_order(order_of(OTHER)), None),
        *(("/jobs", clean.replace(b'"attempt":1', b'"attempt":' + n), None) for n in numbers),
        ("/jobs", b"\xff" * 1000, None),
        ("/jobs", b"x" * 1000, 100 * MIB),
        ("/jobs/job-../../etc/events", b"", None),
        (f"/jobs/{order.job.id}/take-back?attempt=-1", b"", None),
    ]


@pytest.mark.slow
def test_lies_and_floods_of_strangers_and_members_cost_no_memory_no_flood_of_lines_and_no_job(two: list[Mac]) -> None:
    asker, target = two
    with elsewhere(asker):
        runs_on(asker, target)
        job_id = asker.submit(LONG)
        asker.is_(job_id, "running")
        liar = Attacker(target, member_of(asker))
        strangers = [Attacker(target, nobody()), Attacker(target, of_another_herd(asker.id))]
        lies = absurd(asker)

        def attack(times: int = 1) -> None:
            for path, body, length in lies * times:
                status = liar.post(path, body, length)
                cut = status == 0 and len(body) > wire.STATE_BYTES  # who sends too much may not come to read why
                assert cut or status in range(400, 500), (path, body[:80])
            for stranger in strangers * times:
                assert stranger.post("/state", wire.pack_state(state_of(asker.id))) in (0, 401)
                assert stranger.say(b"\x16\x03\x01garbage") == b""

        attack()  # what the first use of something takes is no growth
        node = psutil.Process(target.node_process().pid)
        held, lines = node.memory_info().rss, target.stderr.count("\n")
        at_once(*(partial(attack, TIMES // 4) for _ in range(4)))
        assert node.memory_info().rss - held < 24 * MIB
        assert target.stderr.count("\n") - lines < 100
        assert asker.sees(target)
        assert {state["node_id"] for state in target.states().values()} == {asker.id, target.id}
        job = truth(asker, job_id, work_s=30)
        assert (job.status, ran(job)) == ("completed", [(target.name, "completed")])


def test_an_order_that_was_accepted_is_not_accepted_again(two: list[Mac]) -> None:
    asker, target = two
    until(lambda: not target.busy())
    liar = Attacker(target, member_of(asker))
    order = order_of(asker.id)
    job = Job.model_validate(order.job.model_dump() | {"request": IMAGE, "kind": "image"})
    raw = wire.pack_order(order.model_copy(update={"job": job}))
    statuses = [liar.post("/jobs", raw) for _ in range(20)]
    assert (statuses[0], set(statuses[1:])) == (200, {400})
    assert target.busy() <= 1
    idle(target)  # nobody listens to it: its lease ends


@pytest.mark.slow
def test_a_mac_that_leaves_the_herd_does_nothing_more_for_it(two: list[Mac]) -> None:
    asker, target = two
    with elsewhere(asker):
        runs_on(asker, target)
        jobs = [asker.submit(LONG), asker.submit(IMAGE)]
        asker.is_(jobs[0], "running")
        until(lambda: target.busy() == 2)
        assert target.run("leave", "--yes").returncode == 0
        until(lambda: not target.busy(), 8)  # 150 steps would have been 15 s
        for job_id in jobs:
            job = truth(asker, job_id, work_s=30)
            assert (job.status, ran(job)[-1]) == ("completed", (asker.name, "completed"))
            assert len(job.attempts) == 2
        assert target.over(target.submit(IMAGE)).status == "completed"
    join(asker, target)


@pytest.mark.slow
def test_a_mac_that_is_put_out_while_it_runs_a_job_has_no_part_in_it_any_more(two: list[Mac]) -> None:
    asker, target = two
    keys = member_of(target)
    with elsewhere(asker):
        runs_on(asker, target)
        job_id = asker.submit(LONG)
        asker.is_(job_id, "running")
        assert asker.run("leave", "--node", target.name, "--yes").returncode == 0
        job = truth(asker, job_id, work_s=30)
        assert ran(job) == [(target.name, "returned"), (asker.name, "completed")]
        idle(target)
    former = Attacker(asker, keys)
    assert former.post("/state", wire.pack_state(state_of(target.id))) in (0, 401)


def test_a_lone_node_listens_on_this_mac_only_and_says_nothing_to_the_network(tmp_path: Path) -> None:
    lone = Mac(tmp_path / "lone", "lone", {}, HERD_BONJOUR="true", HERD_PEER_BIND="0.0.0.0")
    try:
        lone.up()
        assert lone.over(lone.submit(IMAGE | {"steps": 1})).status == "completed"
        node = psutil.Process(lone.node_process().pid)
        sockets = [one for process in (node, *node.children(recursive=True)) for one in process.net_connections("all")]
        inet = [one for one in sockets if one.family != socket.AF_UNIX]
        assert {one.laddr.ip for one in inet} == {"127.0.0.1"}
        assert {one.type for one in inet} == {socket.SOCK_STREAM}  # nothing for multicast
        assert not (lone.home / "trust" / "herd.json").exists()
    finally:
        lone.leave()
        lone.end()
        lone.node_process().wait(30)
