"""Many jobs in a row: how the memory of the node and of its engines grows, said per hundred jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from benchmarks.parts import http, machine, processes
from benchmarks.parts.measure import Row, growth_per, row
from benchmarks.parts.report import Report, parser

CHAT, IMAGE = "herd-tiny-chat", "herd-tiny-image"
CHATS_AT_ONCE = 4
CACHE_BYTES = 4 * 1024 * 1024
"""Of prompt cache: little, so that it is full before the growth is looked at."""
SAMPLES = 20
WARM = 0.25
"""The first part of the jobs, in which caches and allocators fill; the growth is that of the rest."""


def chat(node: processes.Node, number: int) -> None:
    """Some chats at once. Raises BadAnswer when one fails."""
    bodies = [
        {
            "model": CHAT,
            "max_tokens": 16,
            "messages": [{"role": "user", "content": f"Question {number + client}: what is herd-mcp?"}],
        }
        for client in range(CHATS_AT_ONCE)
    ]
    for stream in http.chats(node.port, bodies).streams:
        if stream.error:
            raise http.BadAnswer(stream.error)


def image(node: processes.Node, number: int) -> None:
    body = {"model": IMAGE, "prompt": f"a red circle, number {number}", "width": 64, "height": 64, "steps": 1}
    asyncio.run(http.answer(node.port, "POST", "/api/generate-image", body))


def soak(
    node: processes.Node, jobs: int, at_once: int, one: Callable[[processes.Node, int], None]
) -> dict[str, list[tuple[float, float]]]:
    """(jobs done, MiB) of the node and of the engine, some twenty times on the way."""
    held: dict[str, list[tuple[float, float]]] = {"node": [], "engine": []}
    one(node, 0)
    every = max(1, jobs // at_once // SAMPLES)
    for turn in range(max(2, jobs // at_once)):
        one(node, (turn + 1) * at_once)
        if turn % every == every - 1:
            done = float((turn + 1) * at_once)
            held["node"].append((done, processes.resident_mib(node.pid)))
            held["engine"].append((done, _engines_mib(node)))
    return held


def _engines_mib(node: processes.Node) -> float:
    token = f"Authorization: Bearer {node.token}"
    status = asyncio.run(http.answer_json(node.port, "GET", "/herd/api/status", token))
    pids = [engine["pid"] for told in status["nodes"] for engine in told["engines"] if engine["pid"]]
    return sum(processes.resident_mib(pid) for pid in pids)


def rows_of(what: str, jobs: int, runs: list[dict[str, list[tuple[float, float]]]]) -> list[Row]:
    """The growth and the end of every run, for the node and the engine."""
    rows = []
    for who in ("node", "engine"):
        grown = [growth_per([sample for sample in held[who] if sample[0] >= WARM * jobs], 100) for held in runs]
        rows.append(row(f"{jobs} {what}: the {who} grows per 100", "MiB", grown))
        rows.append(row(f"{jobs} {what}: the {who} holds at the end", "MiB", [held[who][-1][1] for held in runs]))
    return rows


def measure(pairs: int, chats: int, images: int) -> Report:
    before = machine.load()
    rows: list[Row] = []
    for what, jobs, at_once, one in (("chats", chats, CHATS_AT_ONCE, chat), ("images", images, 1, image)):
        runs = []
        for _ in range(pairs if jobs else 0):
            with processes.node(prompt_cache_bytes=str(CACHE_BYTES)) as node:
                runs.append(soak(node, jobs, at_once, one))
        rows += rows_of(what, jobs, runs) if runs else []
    about = "One job after the other with the built-in models; resident memory, its growth after the first quarter."
    notes = (f"Chats came {CHATS_AT_ONCE} at a time, with {CACHE_BYTES // 2**20} MiB of prompt cache.",)
    return Report("soak", about, tuple(rows), machine.look(before), pairs, notes)


def main(argv: list[str]) -> int:
    options = parser("soak", __doc__, pairs=1)
    options.add_argument("--chats", type=int, default=1000, metavar="N", help="default %(default)s")
    options.add_argument("--images", type=int, default=100, metavar="N", help="default %(default)s")
    asked = options.parse_args(argv)
    return measure(asked.pairs, asked.chats, asked.images).show(as_json=asked.json)
