"""Mixed work for half an hour, with cancels and changing sizes: whether the memory of node and engines stays flat."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.parts import jobs, machine, processes
from benchmarks.parts.jobs import IMAGE, Ask
from benchmarks.parts.measure import Goal, Row, growth_per, row
from benchmarks.parts.report import Report, parser

CHAT = "herd-tiny-chat"
CLIENTS = 4
LOOK_S = 2.0
WARM_S = 300.0
"""The first part, in which caches and allocators fill; of a run shorter than twice that, its first half."""
CACHE_BYTES = 4 * processes.MIB
"""Of prompt cache: little, so that it is full before the growth is looked at."""
GROWTH_MIB = 8.0
"""From the end of the first part to that of the run, on the line through all samples, which is taken for flat. The node
keeps the events of the last 256 jobs (5 MiB with this work) and its database up to 2 MiB of pages for each of two
connections; on a slow machine some of that comes after the first part. A leak of 3 KiB per job is more in 25 minutes of
two jobs a second."""


@dataclass(slots=True)
class Held:
    """Resident memory over the time."""

    samples: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """(seconds, MiB) by who: `node`, or the model of an engine with its process id."""

    def note(self, who: str, seconds: float, mib: float) -> None:
        self.samples.setdefault(who, []).append((seconds, mib))

    def growth(self, who: str, warm_s: float, seconds: float) -> float:
        """MiB in so many seconds, by least squares, after the first part."""
        return growth_per([sample for sample in self.samples[who] if sample[0] >= warm_s], seconds)


def asks() -> Iterator[Ask]:
    """Without an end: chats and images in turn, no two alike, every fifth ended by its asker."""
    number = 0
    while True:
        number += 1
        way: jobs.Way = "cancel" if number % 10 == 4 else "leave" if number % 10 == 9 else ""
        if number % 4 == 0:
            width, height = (64 + 16 * (number // every % 5) for every in (4, 20))
            yield jobs.image(number, width=width, height=height, steps=1 + number % 3, way=way)
        else:
            yield jobs.chat(number * 7, CHAT, tokens=4 + number * 11 % 61, way=way)


async def endure(node: processes.Node, minutes: float) -> tuple[Held, Counter[str]]:
    """Work for so long. The ends of the requests are counted."""
    held, ends = Held(), Counter[str]()
    began = time.monotonic()
    endless = asks()

    async def client() -> None:
        while time.monotonic() - began < minutes * 60:
            one = next(endless)
            await jobs.ask(node, one)
            ends[one.end] += 1

    async def look() -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            (told,) = (await jobs.status(node))["nodes"]
            seconds = time.monotonic() - began
            held.note("node", seconds, processes.resident_mib(node.pid))
            for engine in told["engines"]:
                if engine["phase"] == "ready" and engine["resident_bytes"]:
                    mib = engine["resident_bytes"] / processes.MIB
                    held.note(f"{engine['model']} {engine['pid']}", seconds, mib)

    looking = asyncio.create_task(look())
    try:
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
    finally:
        looking.cancel()
    return held, ends


def rows_of(held: Held, ends: Counter[str], minutes: float) -> list[Row]:
    warm_s = min(WARM_S, minutes * 30)
    flat = Goal("<=", GROWTH_MIB, of="value")
    rows = []
    for who, samples in held.samples.items():
        if samples[-1][0] < warm_s:
            continue  # an engine that ended early
        name, rest_s = who.split()[0], minutes * 60 - warm_s
        rows.append(row(f"{name} grows after {warm_s:.0f} s", "MiB", [held.growth(who, warm_s, rest_s)], (), flat))
        rows.append(row(f"{name} grows in an hour, by that", "MiB", [held.growth(who, warm_s, 3600)]))
        rows.append(row(f"{name} holds", "MiB", [mib for at, mib in samples if at >= warm_s]))
    rows += [row(f"requests {end}", "requests", [count]) for end, count in sorted(ends.items())]
    return rows


def measure(minutes: float) -> Report:
    before = machine.load()
    with processes.node(prompt_cache_bytes=str(CACHE_BYTES), idle_unload_s="0") as node:
        held, ends = asyncio.run(endure(node, minutes))
    about = f"{CLIENTS} clients for {minutes:g} minutes with {CHAT} and {IMAGE}; resident memory after the first part."
    notes = (
        "Chats of 12 to 125 tokens, images of 64 to 128 px; a tenth is cancelled while it waits, a tenth loses its "
        "asker under way.",
    )
    return Report("endure", about, tuple(rows_of(held, ends, minutes)), machine.look(before), 1, notes)


def main(argv: list[str]) -> int:
    options = parser("endure", __doc__, pairs=1)
    options.add_argument("--minutes", type=float, default=30, metavar="N", help="default %(default)s")
    return measure(options.parse_args(argv).minutes).show(as_json=argv.count("--json") > 0)
