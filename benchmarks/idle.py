"""What a node without engines holds and uses: resident memory, and processor time over 30 seconds."""

from __future__ import annotations

import asyncio
import time

from benchmarks.parts import http, machine, processes
from benchmarks.parts.measure import Goal, row
from benchmarks.parts.report import Report, parser

SETTLE_S = 3.0
"""What a node does at its start is no idling."""


def measure(pairs: int, seconds: float) -> Report:
    before = machine.load()
    memory, cpu = [], []
    with processes.node() as node:
        asyncio.run(http.answer_json(node.port, "GET", "/healthz"))
        time.sleep(SETTLE_S)
        for _ in range(pairs):
            used_s, began = processes.cpu_s(node.pid), time.monotonic()
            time.sleep(seconds)
            cpu.append(100 * (processes.cpu_s(node.pid) - used_s) / (time.monotonic() - began))
            memory.append(processes.resident_mib(node.pid))
    rows = (
        row("resident memory", "MiB", memory, (), Goal("<=", 130, of="value")),
        row("processor", "% of a core", cpu, (), Goal("<=", 1, of="value")),
    )
    about = f"A node without engines, {seconds:g} s at a time."
    return Report("idle", about, rows, machine.look(before), pairs)


def main(argv: list[str]) -> int:
    options = parser("idle", __doc__, pairs=1)
    options.add_argument("--seconds", type=float, default=30, metavar="S", help="each time (default %(default)s)")
    asked = options.parse_args(argv)
    return measure(asked.pairs, asked.seconds).show(as_json=asked.json)
