"""The child that keeps a Mac awake while a job runs: its command line, and its life with another command."""

from __future__ import annotations

import os
import sys

import psutil
import pytest

from herd_mcp.node.awake import Awake, command
from tests.conftest import until

pytestmark = pytest.mark.anyio

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_on_a_mac_it_is_caffeinate_until_the_node_ends_and_elsewhere_nothing() -> None:
    assert command(4321, "darwin") == ["/usr/bin/caffeinate", "-i", "-w", "4321"]
    assert command(4321, "linux") == []


async def test_it_runs_while_it_is_wanted_and_is_reaped() -> None:
    awake = Awake(SLEEP, linger_s=0)
    awake.want(True)
    awake.want(True)
    await until(lambda: awake.pid is not None, "it runs")
    pid = awake.pid
    assert pid is not None
    assert psutil.Process(pid).ppid() == os.getpid()
    awake.want(False)
    await until(lambda: not psutil.pid_exists(pid), "it is gone, and no zombie is left")
    awake.want(True)
    await until(lambda: awake.pid is not None, "it runs again")
    await awake.close()
    assert awake.pid is None


async def test_one_job_after_the_other_keeps_the_same_child() -> None:
    awake = Awake(SLEEP, linger_s=600)
    awake.want(True)
    await until(lambda: awake.pid is not None, "it runs")
    pid = awake.pid
    for _ in range(3):
        awake.want(False)
        await until(lambda: not awake._wanted.is_set(), "it is not wanted")
        awake.want(True)
    assert awake.pid == pid
    awake.want(False)
    await awake.close()
    assert pid is not None
    assert not psutil.pid_exists(pid)


async def test_without_a_command_or_with_one_that_is_not_there_nothing_happens() -> None:
    nothing = Awake([])
    nothing.want(True)
    assert nothing._task is None
    missing = Awake(["/nowhere/caffeinate"])
    missing.want(True)
    await until(lambda: missing._task is None, "it has given up")
    missing.want(False)
    missing.want(True)
    assert missing._task is None
    await missing.close()
