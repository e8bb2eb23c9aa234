"""From the start of a process to its answer to the first `tools/list` over stdio.

Against the least server that the MCP SDK makes: with the node up, and with a node that has to be started first.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.parts import machine, processes
from benchmarks.parts.measure import Goal, interleave, row
from benchmarks.parts.report import Report, parser

SERVER = Path(__file__).parent / "peers" / "minimal_mcp.py"
HELLO: dict[str, Any] = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "1"},
}


def first_tools_s(command: list[str], env: dict[str, str]) -> float:
    """Seconds until the list of tools has come. Raises RuntimeError when none comes."""
    began = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
    ) as process:
        _ask(process, {"id": 1, "method": "initialize", "params": HELLO})
        _say(process, {"method": "notifications/initialized"})
        answer = _ask(process, {"id": 2, "method": "tools/list"})
        seconds = time.monotonic() - began
        process.terminate()
    if not answer["result"]["tools"]:
        raise RuntimeError("there are no tools")
    return seconds


def _ask(process: subprocess.Popen[bytes], message: dict[str, Any]) -> dict[str, Any]:
    _say(process, message)
    assert process.stdout is not None
    while line := process.stdout.readline():
        answer: dict[str, Any] = json.loads(line)
        if answer.get("id") == message["id"]:
            return answer
    raise RuntimeError(f"no answer to {message['method']}")


def _say(process: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    process.stdin.flush()


def _with_a_new_node(_: int) -> float:
    with processes.folder() as home:
        try:
            return first_tools_s(_herd(), processes.node_environment(home))
        finally:
            if found := processes.record(home):
                processes.end(found["pid"])


def _herd() -> list[str]:
    script = Path(sys.executable).with_name("herd-mcp")
    return [str(script), "mcp"] if script.exists() else [sys.executable, "-m", "herd_mcp", "mcp"]


def measure(pairs: int) -> Report:
    before = machine.load()
    with processes.node() as node:
        env = processes.node_environment(node.home)

        def peer(_: int) -> float:
            return first_tools_s([sys.executable, str(SERVER)], processes.environment()) * 1000

        def warm(_: int) -> float:
            return first_tools_s(_herd(), env) * 1000

        def cold(pair: int) -> float:
            return _with_a_new_node(pair) * 1000

        interleave((warm, peer), 1)  # files come into the system's cache
        ups, peers, downs = interleave((warm, peer, cold), pairs)
    rows = (
        row("first tools/list, node up", "ms", ups, peers, Goal("<=", 0.1)),
        row("first tools/list, node started by it", "ms", downs, peers, Goal("<=", 3.0)),
    )
    about = (
        "From process start to the first answer to `tools/list`, against a server of one tool made with the MCP SDK."
    )
    return Report("coldstart", about, rows, machine.look(before), pairs)


def main(argv: list[str]) -> int:
    asked = parser("coldstart", __doc__).parse_args(argv)
    return measure(asked.pairs).show(as_json=asked.json)
