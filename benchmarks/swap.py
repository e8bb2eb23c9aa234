"""Two chat models with room for one, each asked by many clients all the time: rate, waits, swaps, wrong answers.

The peer is the same node with room for both.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.parts import jobs, machine, model, processes
from benchmarks.parts.jobs import Ask
from benchmarks.parts.measure import Goal, Row, interleave, row
from benchmarks.parts.report import Report, parser

LETTERS = {"low": "abcdefghijkl", "high": "mnopqrstuvwx"}
"""What each model says: no answer of one can be taken for the other's."""
CLIENTS = 20
"""Of each model."""
BATCH = 8
"""Chats that an engine answers at once: fewer than the clients, so that there are always some that wait."""
TOKENS = 16
CACHE_BYTES = 4 * processes.MIB
BOTH = 2.5
ONE = 1.5
"""Room in engines: one with all its chats needs less than half more than when it begins, and two need twice that."""
NONE = Goal("<=", 0, of="value")
STARTED = re.compile(r"engine of (\S+) started, pid")


@dataclass(frozen=True, slots=True)
class Swaps:
    """One run. `asks` have all ended."""

    asks: Sequence[Ask]
    seconds: float
    loads: int

    @property
    def rate(self) -> float:
        done = [one for one in self.asks if one.end == "completed"]
        return float(sum(one.result["usage"]["completion_tokens"] for one in done) / self.seconds)

    @property
    def longest_s(self) -> float:
        return max(one.seconds for one in self.asks)

    @property
    def failed(self) -> int:
        return sum(one.end != "completed" for one in self.asks)

    @property
    def wrong(self) -> int:
        return len(jobs.mixed_up(self.asks, LETTERS))


def build(folder: Path) -> None:
    for name, letters in LETTERS.items():
        model.build(folder, name=name, letters=letters)


def settings(folder: Path) -> dict[str, str]:
    return {"model_dirs": str(folder), "prompt_cache_bytes": str(CACHE_BYTES), "chat_batch": str(BATCH)}


def engine_bytes(folder: Path) -> int:
    """What the larger of the two reserves, by a node's own account while it answers one chat."""
    most = 0

    async def look(node: processes.Node, one: Ask) -> None:
        nonlocal most
        asking = asyncio.create_task(jobs.ask(node, one))
        while not asking.done():
            (told,) = (await jobs.status(node))["nodes"]
            most = max([most, *(engine["reserved_bytes"] for engine in told["engines"])])
            await asyncio.sleep(0.05)

    with processes.node(**settings(folder)) as node:
        for name in LETTERS:
            asyncio.run(look(node, jobs.chat(0, name, tokens=TOKENS)))
    return most


def swap(folder: Path, budget_bytes: int, rounds: int) -> Swaps:
    """CLIENTS of each model ask `rounds` chats each, the next when the last has ended."""
    with processes.node(memory_budget_bytes=str(budget_bytes), **settings(folder)) as node:
        asks = [
            [jobs.chat(number + turn, name, tokens=TOKENS) for turn in range(rounds)]
            for name in LETTERS
            for number in range(0, CLIENTS * rounds, rounds)
        ]

        async def all_of_them() -> None:
            await asyncio.gather(*(jobs.crowd(node, mine, 1) for mine in asks))

        asyncio.run(all_of_them())
        done = [one for mine in asks for one in mine]
        seconds = max(one.ended_at for one in done) - min(one.asked_at for one in done)
        return Swaps(done, seconds, len(STARTED.findall((node.home / "stderr").read_text())))


def rows_of(one: Sequence[Swaps], both: Sequence[Swaps]) -> list[Row]:
    def line(what: str, unit: str, of: Callable[[Swaps], float], *goals: Goal) -> Row:
        return row(what, unit, [of(run) for run in one], [of(run) for run in both], *goals, peer_name="room for both")

    return [
        line("rate, loading included", "tok/s", lambda run: run.rate),
        line("longest wait", "s", lambda run: run.longest_s),
        line("most that one let go before it", "chats", lambda run: jobs.overtaken(run.asks)),
        line("engines started", "engines", lambda run: run.loads),
        line("wrong answers", "answers", lambda run: run.wrong, NONE),
        line("without an answer", "chats", lambda run: run.failed, NONE),
    ]


def measure(pairs: int, rounds: int) -> Report:
    before = machine.load()
    with processes.folder() as folder:
        build(folder)
        engine = engine_bytes(folder)
        sides = [partial(_side, folder, int(engine * room), rounds) for room in (ONE, BOTH)]
        one, both = interleave(sides, pairs)
    about = (
        f"Two tiny chat models, {CLIENTS} clients each, {rounds} chats of {TOKENS} tokens per client, {BATCH} at once."
    )
    notes = ("A wrong answer is one of the other model, or to a prompt of another length.",)
    return Report("swap", about, tuple(rows_of(one, both)), machine.look(before), pairs, notes)


def _side(folder: Path, budget_bytes: int, rounds: int, pair: int) -> Swaps:
    return swap(folder, budget_bytes, rounds)


def main(argv: list[str]) -> int:
    options = parser("swap", __doc__, pairs=1)
    options.add_argument("--rounds", type=int, default=5, metavar="N", help="chats per client (default %(default)s)")
    asked = options.parse_args(argv)
    return measure(asked.pairs, asked.rounds).show(as_json=asked.json)
