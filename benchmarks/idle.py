"""What a node without engines holds and uses: resident memory, and processor time over 30 seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from benchmarks.parts import herds, http, machine, processes
from benchmarks.parts.measure import Goal, row
from benchmarks.parts.processes import Node
from benchmarks.parts.report import Report, parser

SETTLE_S = 3.0
"""What a node does at its start is no idling."""


def measure(pairs: int, seconds: float) -> Report:
    before = machine.load()
    with processes.node() as node:
        alone = used([node], pairs, seconds)
    finding = {number: {"bonjour": "true"} for number in range(2)}
    with herds.herd({}, {}, each=finding) as nodes:
        in_herd = used(nodes, pairs, seconds)
    rows = []
    for where, (memory, cpu) in {"": alone, ", in a herd of two": in_herd}.items():
        rows += [
            row(f"resident memory{where}", "MiB", memory, (), Goal("<=", 130, of="value")),
            row(f"processor{where}", "% of a core", cpu, (), Goal("<=", 1, of="value")),
        ]
    about = f"A node without engines, alone and in a herd, {seconds:g} s at a time."
    notes = (
        "In the herd: of the two that which takes more. They know each other by Bonjour and tell each other how "
        "they are over TLS.",
    )
    return Report("idle", about, tuple(rows), machine.look(before), pairs, notes)


def used(nodes: Sequence[Node], pairs: int, seconds: float) -> tuple[list[float], list[float]]:
    """MiB and percent of a core of the node that takes most, each time."""
    for node in nodes:
        asyncio.run(http.answer_json(node.port, "GET", "/healthz"))
    time.sleep(SETTLE_S)
    memory, cpu = [], []
    for _ in range(pairs):
        used_s, began = [processes.cpu_s(node.pid) for node in nodes], time.monotonic()
        time.sleep(seconds)
        took_s = time.monotonic() - began
        more_s = [processes.cpu_s(node.pid) - was for node, was in zip(nodes, used_s, strict=True)]
        cpu.append(100 * max(more_s) / took_s)
        memory.append(max(processes.resident_mib(node.pid) for node in nodes))
    return memory, cpu


def main(argv: list[str]) -> int:
    options = parser("idle", __doc__, pairs=1)
    options.add_argument("--seconds", type=float, default=30, metavar="S", help="each time (default %(default)s)")
    asked = options.parse_args(argv)
    return measure(asked.pairs, asked.seconds).show(as_json=asked.json)
