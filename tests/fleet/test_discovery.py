"""Bonjour: what is read of announcements, and real ones over loopback and between network namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.parts.mesh import node_id
from herd_mcp.fleet.discovery import MOST_RESOLVING, MOST_WAITING, SERVICE, Announced, Bonjour, id_of, read_service
from herd_mcp.fleet.found import Found
from tests.conftest import until

ONE, TWO = node_id(1), node_id(2)
HERD = "ab" * 8
TOLD = {"id": ONE, "herd": HERD, "wire": "1.0"}


@pytest.mark.parametrize(
    "label",
    [
        "",
        "mac-1",
        "../../etc/passwd",
        "..%2f..%2f",
        "0000\x000001",
        "00000\n0001",
        "000000000A",
        "00000000011",
        "000000000",
        "\u0661" * 10,
        "a" * 5000,
    ],
)
def test_a_name_that_is_no_id_is_no_node(label: str) -> None:
    assert id_of(f"{label}.{SERVICE}") is None
    assert read_service(f"{label}.{SERVICE}", {**TOLD, "id": label}, ["10.0.0.1"], 11436) is None


def test_an_announcement_that_is_well_formed_is_found() -> None:
    assert read_service(f"{ONE}.{SERVICE}", {**TOLD, "newer": "field"}, ["10.0.0.1", "169.254.0.9"], 11436) == Found(
        ONE, HERD, (1, 0), ("10.0.0.1:11436", "169.254.0.9:11436")
    )


@pytest.mark.parametrize(
    ("properties", "addresses", "port"),
    [
        ({**TOLD, "id": TWO}, ["10.0.0.1"], 11436),
        ({**TOLD, "id": None}, ["10.0.0.1"], 11436),
        ({}, ["10.0.0.1"], 11436),
        ({**TOLD, "herd": "../" * 6}, ["10.0.0.1"], 11436),
        ({**TOLD, "herd": "ab"}, ["10.0.0.1"], 11436),
        ({**TOLD, "wire": "1"}, ["10.0.0.1"], 11436),
        ({**TOLD, "wire": "-1.0"}, ["10.0.0.1"], 11436),
        ({**TOLD, "wire": "9" * 5000 + ".0"}, ["10.0.0.1"], 11436),
        ({**TOLD, "wire": "\u00b2.0"}, ["10.0.0.1"], 11436),
        (TOLD, ["10.0.0.1"], 0),
        (TOLD, ["10.0.0.1"], 65536),
        (TOLD, ["10.0.0.1"], -1),
        (TOLD, ["10.0.0.1"], None),
        (TOLD, [], 11436),
        (TOLD, ["../x", "a b"], 11436),
    ],
)
def test_an_announcement_with_anything_absurd_in_it_is_ignored(
    properties: dict[str, str | None], addresses: list[str], port: int | None
) -> None:
    assert read_service(f"{ONE}.{SERVICE}", properties, addresses, port) is None


@contextlib.contextmanager
def multicast() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        pytest.skip(f"NOT RUN: this machine allows no multicast ({error})")


async def test_two_nodes_find_each_other_and_see_that_an_address_changed() -> None:
    # Multicast reaches every program of this machine, also other runs of this test: ids of its own.
    one, two = secrets.token_hex(5), secrets.token_hex(5)
    found: dict[tuple[str, str], Found] = {}
    bonjours = {
        me: Bonjour(me, "127.0.0.1", lambda got, me=me: found.update({(me, got.node_id): got}))  # type: ignore[misc]
        for me in (one, two)
    }
    try:
        with multicast():
            for bonjour in bonjours.values():
                await bonjour.start()
        for n, (me, bonjour) in enumerate(bonjours.items()):
            await bonjour.announce(Announced(me, HERD, (f"127.0.0.1:{4000 + n}",)))
        await until(lambda: {(one, two), (two, one)} <= found.keys(), "both are found")
        assert found[one, two] == Found(two, HERD, (1, 0), ("127.0.0.1:4001",))
        assert found[two, one] == Found(one, HERD, (1, 0), ("127.0.0.1:4000",))
        await bonjours[two].announce(Announced(two, HERD, ("127.0.0.1:4777",)))
        await until(lambda: found[one, two].addresses == ("127.0.0.1:4777",), "the new port is found")
        found.clear()
        await bonjours[one].refresh()
        await until(lambda: (one, two) in found, "who is there is found again after a refresh")
    finally:
        for bonjour in bonjours.values():
            await bonjour.close()


async def test_a_flood_of_announcements_is_resolved_a_few_at_a_time() -> None:
    bonjour = Bonjour(ONE, "127.0.0.1", lambda found: None)
    with multicast():
        await bonjour.start()
    try:
        from zeroconf import ServiceStateChange

        assert bonjour._zeroconf
        for label in ("../../etc/passwd", "a\x00b", ONE):
            name = f"{label}.{SERVICE}"
            bonjour._changed(bonjour._zeroconf.zeroconf, SERVICE, name, ServiceStateChange.Added)
        assert not bonjour._waiting
        for n in range(1000):
            name = f"{node_id(1000 + n)}.{SERVICE}"
            bonjour._changed(bonjour._zeroconf.zeroconf, SERVICE, name, ServiceStateChange.Added)
        assert len(bonjour._resolving) <= MOST_RESOLVING
        assert len(bonjour._waiting) <= MOST_WAITING
    finally:
        await bonjour.close()


def test_neither_zeroconf_nor_httpx_is_loaded_before_there_is_a_herd() -> None:
    script = "import sys, herd_mcp.fleet.fleet; print(*{'zeroconf', 'httpx', 'cryptography'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert not run.stdout.split()


IN_NAMESPACE = """
import asyncio, sys
from herd_mcp.fleet.discovery import Announced, Bonjour
me, other, address = sys.argv[1:4]
async def main():
    met = asyncio.Event()
    def found(one):
        if one.node_id == other:
            print(*one.addresses, flush=True)
            met.set()
    bonjour = Bonjour(me, "0.0.0.0", found)
    task = asyncio.create_task(bonjour.keep(lambda: Announced(me, "ab" * 8, (address + ":11436",))))
    async with asyncio.timeout(40):
        await met.wait()
        await asyncio.to_thread(sys.stdin.readline)  # stays until the other has found it too
    task.cancel()
    await bonjour.close()
asyncio.run(main())
"""


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them."""
    names = f"herd-a-{os.getpid()}", f"herd-b-{os.getpid()}"
    ends = f"ha{os.getpid()}"[:14], f"hb{os.getpid()}"[:14]
    commands = [
        *(f"ip netns add {name}" for name in names),
        f"ip link add {ends[0]} netns {names[0]} type veth peer name {ends[1]} netns {names[1]}",
        *(f"ip -n {name} addr add 10.77.0.{n + 1}/24 dev {ends[n]}" for n, name in enumerate(names)),
        *(f"ip -n {name} link set {ends[n]} up" for n, name in enumerate(names)),
        *(f"ip -n {name} link set lo up" for name in names),
    ]
    try:
        for command in commands:
            try:
                subprocess.run(command.split(), check=True, capture_output=True, timeout=20)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"NOT RUN: network namespaces are not allowed here ({command}: {error})")
        yield names
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20, check=False)


async def test_two_nodes_find_each_other_over_a_network(namespaces: tuple[str, str], tmp_path: Path) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", name, sys.executable, "-c", IN_NAMESPACE),
            *(node_id(n + 1), node_id(2 - n), f"10.77.0.{n + 1}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for n, name in enumerate(namespaces)
    ]
    try:
        async with asyncio.timeout(60):
            lines = [await process.stdout.readline() for process in processes if process.stdout]
            ended = await asyncio.gather(*(process.communicate(b"\n") for process in processes))
        assert lines == [b"10.77.0.2:11436\n", b"10.77.0.1:11436\n"], ended
        assert [process.returncode for process in processes] == [0, 0], ended
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.mark.filterwarnings("error")
async def test_who_ends_at_any_moment_leaves_no_socket_open() -> None:
    for turns in (1, 3, 20):
        bonjour = Bonjour("a" * 10, "127.0.0.1", lambda found: None)
        keeping = asyncio.create_task(bonjour.keep(lambda: None))
        for _ in range(turns):
            await asyncio.sleep(0)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await bonjour.close()
        mine = [one for one in psutil.Process().net_connections("udp") if one.laddr[1:] == (5353,)]
        assert mine == [], f"after {turns} turns of the loop"
