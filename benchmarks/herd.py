"""A herd on this machine over TLS: who gets which image, what a hop to another node costs, and what being told costs.

Engines of a fixed pace: two cores cannot show the speed of several Macs.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from benchmarks.parts import herds, http, jobs, knowing, machine
from benchmarks.parts.measure import Goal, Row, row
from benchmarks.parts.processes import Node, cpu_s
from benchmarks.parts.report import Report, parser

STEPS, TWELVE = 100, 12
EQUAL = {"step_s": 0.02}
FAST, SLOW = {"step_s": 0.01}, {"step_s": 0.03}
TOKEN_S, TOKENS, STREAMS = 0.02, 128, 8
FIRST_TOKENS = 2
"""Answers of which only the beginning counts."""
AT_ONCE = 20
"""First tokens in one turn of a side."""


# ── Spread ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def drawn(asked: Sequence[Node], images: int) -> Counter[str]:
    """How many of so many images, asked for at once of each node in turn, came from which. Raises RuntimeError for one
    that was not drawn."""
    asks = [jobs.image(number, width=128, height=128, steps=STEPS) for number in range(images)]

    async def all_of_them() -> None:
        await asyncio.gather(*(jobs.ask(asked[n % len(asked)], one) for n, one in enumerate(asks)))

    asyncio.run(all_of_them())
    if bad := [(one.end, one.code) for one in asks if one.end != "completed"]:
        raise RuntimeError(f"images that were not drawn: {bad}")
    return Counter(str(one.result["node"]) for one in asks)


def one_each(nodes: Sequence[Node], asked: Sequence[Node], count: int, pairs: int, words: str) -> Row:
    """How many nodes had exactly one of as many images."""
    alone = [sum(images == 1 for images in drawn(asked, count).values()) for _ in range(pairs)]
    return row(f"{count} images at once, {words}: nodes that drew one", "nodes", alone, (), Goal(">=", count, "value"))


def split(pairs: int) -> Row:
    """Twelve images on a fast and a three times slower node, in the engines' own step times."""
    best_s = min(max(n * FAST["step_s"], (TWELVE - n) * SLOW["step_s"]) for n in range(TWELVE + 1)) * STEPS
    took = []
    with herds.herd(FAST, SLOW) as nodes:
        herds.warm(nodes)
        for pair in range(pairs):
            images = drawn([nodes[pair % 2]], TWELVE)
            took.append(max(images["mac0"] * FAST["step_s"], images["mac1"] * SLOW["step_s"]) * STEPS)
    what = f"{TWELVE} images on a fast and a 3 times slower node: makespan"
    return row(what, "s", took, [best_s], Goal("<=", 1.1), peer_name="best split")


def spread(counts: Iterable[int], pairs: int) -> list[Row]:
    rows = []
    for count in counts:
        with herds.herd(*[EQUAL] * count) as nodes:
            rows.append(one_each(nodes, nodes[:1], count, 1, "cold"))
            herds.warm(nodes)
            rows.append(one_each(nodes, nodes[-1:], count, pairs, "warm"))
    return rows


def askers(count: int, pairs: int) -> Row:
    """As many nodes that draw no more than 64 px ask for one larger image each."""
    small = {number: {"max_image_px": "64"} for number in range(count)}
    with herds.herd(*[EQUAL] * (2 * count), each=small) as nodes:
        herds.warm(nodes[count:], *nodes[:count])
        words = f"asked by {count} nodes that cannot"
        return one_each(nodes[count:], nodes[:count], count, pairs, words)


# ── Hop ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def hop(pairs: int) -> list[Row]:
    """Chats that are asked at one node and run there or on the other, in turn."""
    here, there = Side(0), Side(1)
    with herds.herd(*[{"token_s": TOKEN_S}] * 2) as nodes:
        for side in (here, there):
            herds.run_on(nodes, 0, side.runner)
            http.chats(nodes[0].port, [chat(FIRST_TOKENS)] * STREAMS)
        for _ in range(pairs):
            for side in (here, there):
                herds.run_on(nodes, 0, side.runner)
                side.measure(nodes)
    more = [
        statistics.median(far) - statistics.median(near)
        for far, near in zip(there.first_ms, here.first_ms, strict=True)
    ]
    more_95 = [p95(far) - p95(near) for far, near in zip(there.first_ms, here.first_ms, strict=True)]
    firsts = [[statistics.median(turn) for turn in side.first_ms] for side in (there, here)]
    name = "run here"
    return [
        row("hop, 1 chat: TTFT p50", "ms", firsts[0], firsts[1], peer_name=name),
        row("hop, 1 chat: TTFT p50, more than here", "ms", more, (), Goal("<=", 10, "value")),
        row("hop, 1 chat: TTFT p95, more than here", "ms", more_95),
        row("hop, 1 chat: rate", "tok/s", there.one_rate, here.one_rate, Goal(">=", 0.95), peer_name=name),
        row(f"hop, {STREAMS} chats: TTFT p50", "ms", there.many_ms, here.many_ms, peer_name=name),
        row(f"hop, {STREAMS} chats: rate", "tok/s", there.rate, here.rate, Goal(">=", 0.95), peer_name=name),
        row(
            f"hop, {STREAMS} chats: processor of who asks", "µs a token", there.asker_us, here.asker_us, peer_name=name
        ),
        row(f"hop, {STREAMS} chats: processor of the other", "µs a token", there.other_us),
    ]


class Side:
    """Chats that are run on one node."""

    def __init__(self, runner: int) -> None:
        self.runner = runner
        self.first_ms: list[list[float]] = []
        self.one_rate: list[float] = []
        self.many_ms: list[float] = []
        self.rate: list[float] = []
        self.asker_us: list[float] = []
        self.other_us: list[float] = []

    def measure(self, nodes: Sequence[Node]) -> None:
        port = nodes[0].port
        self.first_ms.append([http.one_chat(port, chat(FIRST_TOKENS)).ttft_ms for _ in range(AT_ONCE)])
        self.one_rate.append(http.chats(port, [chat(TOKENS)]).tokens_per_s)
        before = [cpu_s(node.pid) for node in nodes]
        burst = http.chats(port, [chat(TOKENS)] * STREAMS)
        if burst.errors:
            raise RuntimeError(next(stream.error for stream in burst.streams if stream.error))
        used = [(cpu_s(node.pid) - was) * 1e6 / (STREAMS * TOKENS) for node, was in zip(nodes, before, strict=True)]
        self.rate.append(burst.tokens_per_s)
        self.many_ms.append(statistics.median(burst.ttfts_ms))
        self.asker_us.append(used[0])
        self.other_us.append(used[1])


def chat(tokens: int) -> dict[str, object]:
    messages = [{"role": "user", "content": "hello"}]
    return {"model": "herd-tiny-chat", "messages": messages, "max_tokens": tokens}


def p95(samples: Sequence[float]) -> float:
    return sorted(samples)[int(0.95 * (len(samples) - 1))]


# ── Cost ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def cost(sizes: Sequence[int], pairs: int, seconds: float) -> list[Row]:
    """Herds with nothing to do, and how soon all know that one was paused."""
    rows = []
    for size in sizes:
        with herds.herd(*[EQUAL] * size) as nodes:
            idle = [herds.idle(nodes, seconds) for _ in range(pairs)]
            known = [herds.known_s(nodes) for _ in range(2 * pairs)]
        rows += [
            row(f"{size} nodes, idle: processor of each", "% of a core", [one.cpu_percent for one in idle]),
            row(f"{size} nodes, idle: over the network, each", "bytes/s", [one.bytes_per_s for one in idle]),
            row(f"{size} nodes: a pause is known to all after", "s", known, (), Goal("<=", 0.5, "value")),
        ]
    return rows


def cost_in_memory(size: int, models: int) -> list[Row]:
    told = knowing.told(size, models)
    return [
        row(f"{size} nodes of {models} models in memory: states of each", "bytes/s", [told.bytes_per_s]),
        row(f"{size} nodes of {models} models in memory: processor of each", "% of a core", [told.cpu_percent]),
        row(f"{size} nodes: a change is known to all after", "s", told.known_s, (), Goal("<=", 0.5, "value")),
        row(f"a state of {models} models, compressed", "bytes", [told.state_bytes], (), Goal("<=", 4096, "value")),
        row(f"placing a job among {size} nodes of {models} models", "ms", told.placing_ms, (), Goal("<=", 1, "value")),
    ]


NOTES = (
    "Nodes are `herd-mcp up` with TLS between them; their engines draw a step or say a word each time that their pace "
    f"says. An image has {STEPS} steps and takes {STEPS * EQUAL['step_s']:.0f} s. What ran where is counted; the "
    "makespan is images times steps times pace. One image more on the fast node makes it 10 s: with measured rates "
    "nearly a tie.",
    "Nodes that cannot draw an image: `max_image_px` is below its size. All ask at the same moment, so what each knows "
    "of the others is older.",
    "Hop: the other node is paused by hand where a chat shall run here, and this one where it shall run there. A word "
    f"comes every {TOKEN_S * 1000:.0f} ms, and the first not sooner. {AT_ONCE} first words a turn.",
    "Network: all that passes the loopback of this machine, with TCP's own. In memory: the same states and calls in "
    "virtual time, packed and unpacked, without HTTP and TLS; a message takes 1 ms.",
    "Placing: from the request to the choice, without asking the node.",
)


def main(argv: list[str]) -> int:
    options = parser("herd", __doc__, pairs=3)
    options.add_argument("--only", nargs="+", choices=("spread", "hop", "cost"), default=("spread", "hop", "cost"))
    options.add_argument("--counts", nargs="+", type=int, default=(2, 3, 6), metavar="N", help="nodes of the spread")
    options.add_argument("--sizes", nargs="+", type=int, default=(2, 8), metavar="N", help="nodes of the cost")
    options.add_argument("--seconds", type=float, default=10, metavar="S", help="of idling, each time")
    asked = options.parse_args(argv)
    before = machine.load()
    rows: list[Row] = []
    if "spread" in asked.only:
        rows += [*spread(asked.counts, asked.pairs), askers(max(asked.counts), asked.pairs), split(asked.pairs)]
    if "hop" in asked.only:
        rows += hop(asked.pairs)
    if "cost" in asked.only:
        rows += [*cost(asked.sizes, asked.pairs, asked.seconds), *cost_in_memory(32, 20)]
    about = "A herd on one machine: what runs where, what a hop costs, and what knowing of each other costs."
    return Report("herd", about, tuple(rows), machine.look(before), asked.pairs, NOTES).show(as_json=asked.json)
