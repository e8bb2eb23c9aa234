"""The real program over stdio, started by the SDK's own client as Claude Desktop and others start it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from tests.cli.program import Program
from tests.conftest import until
from tests.surfaces.mcp.clients import LONG, MODES, SMALL, data_of, use_everything

COMMAND = ["-P", "-m", "herd_mcp"]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """An empty home, in which no node runs."""
    it = Program(tmp_path / "home")
    yield it
    it.end()


def stdio(program: Program, *words: str) -> StdioServerParameters:
    """How a client starts it: with little of its own environment, in whatever folder."""
    names = ("HERD_HOME", "HERD_PORT", "HF_HOME", "HF_HUB_OFFLINE", "MLX_DISABLE_COMPILE")
    env = {name: program.env[name] for name in names}
    return StdioServerParameters(command=sys.executable, args=[*COMMAND, *words], env=env, cwd="/")


def node_pids(program: Program) -> set[int]:
    """The node processes of this home."""
    return {process.pid for process in program.processes() if "up" in process.cmdline()}


@pytest.mark.parametrize("mode", [MODES[0], pytest.param(MODES[1], marks=pytest.mark.slow)])
async def test_a_client_starts_the_program_and_uses_everything(program: Program, mode: str) -> None:
    async with Client(stdio(program, "mcp"), mode=mode) as client:
        made = await use_everything(client)
        assert Path(made["path"]).is_relative_to(program.home / "images")


async def test_clients_that_start_at_once_share_one_node_which_outlives_them(program: Program) -> None:
    async def one(words: tuple[str, ...]) -> str:
        async with Client(stdio(program, *words)) as client:
            models = (await client.read_resource("herd://fleet/health")).contents
            assert models
            return str((await client.call_tool("fleet_health", {})).structured_content["nodes"][0]["started_at"])

    # No arguments and a pipe on stdin mean the same as `mcp`.
    started = await asyncio.gather(one(("mcp",)), one(()), one(("mcp",)), one(()))
    assert len(set(started)) == 1
    (pid,) = node_pids(program)
    assert await one(("mcp",)) == started[0]
    assert node_pids(program) == {pid}
    (process,) = [process for process in program.processes() if process.pid == pid]
    assert process.ppid() != os.getpid()
    assert os.getsid(pid) == pid


@pytest.mark.slow
async def test_a_client_that_is_killed_takes_its_job_with_it_and_the_node_stays(program: Program) -> None:
    async with Client(stdio(program, "mcp")) as watching:
        bridge = subprocess.Popen(
            [sys.executable, *COMMAND, "mcp"], env=program.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert bridge.stdin is not None
        envelope = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        call = {"name": "generate_image", "arguments": LONG, "_meta": envelope}
        bridge.stdin.write(
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}).encode() + b"\n"
        )
        bridge.stdin.flush()

        async def figure(name: str) -> int:
            stats = (await watching.read_resource("herd://images/stats")).contents[0]
            return int(json.loads(stats.text)[name])  # type: ignore[union-attr]

        async def runs() -> bool:
            health = data_of(await watching.call_tool("fleet_health", {}))
            return any(engine["running"] and engine["phase"] == "ready" for engine in health["nodes"][0]["engines"])

        await until(runs, "the job runs")
        bridge.send_signal(signal.SIGKILL)
        bridge.communicate()

        async def is_cancelled() -> bool:
            return await figure("cancelled") == 1

        await until(is_cancelled, "the job is cancelled")
        assert data_of(await watching.call_tool("generate_image", SMALL))["status"] == "completed"


async def test_a_node_that_dies_is_told_to_its_clients_and_replaced_for_the_next(program: Program) -> None:
    async with Client(stdio(program, "mcp")) as client:
        await client.list_tools()
        (pid,) = node_pids(program)
        (bridge,) = [process for process in program.processes() if "mcp" in process.cmdline()]
        psutil.Process(pid).kill()
        assert await asyncio.to_thread(bridge.wait, 20) in (3, None)
    async with Client(stdio(program, "mcp")) as client:
        assert (await client.list_tools()).tools
    assert pid not in node_pids(program)
