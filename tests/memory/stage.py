"""Three models that the budget has no room for at once, a node in a memory-limited group, and what it held."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.parts import jobs, model, processes
from benchmarks.parts.jobs import Ask
from benchmarks.parts.processes import MIB, Node
from herd_mcp.herd import open_herd
from herd_mcp.jobs import ChatRequest, ImageRequest
from herd_mcp.settings import load_settings
from tests.memory.limited import Group, group

LETTERS = {"low": "abcdefghijkl", "high": "mnopqrstuvwx"}
"""The chat models, and what each says."""
LAYERS = {"low": 3, "high": 2}
WIDTH = 1024
"""Makes 50 MB of weights per layer."""
FLOOR_BYTES = 256 * MIB
"""What the group has above the budget: for the node itself, which holds about 100 MiB, and its shells."""
BATCH = 4
TOKENS, SIDE_PX = 100, 128
"""At most: of a chat, prompt and answer together, and of an image's side."""
SETTINGS = {"chat_batch": BATCH, "prompt_cache_bytes": 16 * MIB}
LOOK_S = 0.2
STARTED = re.compile(r"engine of (\S+) started, pid (\d+)")
GONE = re.compile(r"engine of (\S+) is gone: (.*)")


@dataclass(slots=True)
class Seen:
    """The most of a run, in bytes, and how many engines began."""

    held_bytes: int = 0
    reserved_bytes: int = 0
    engines: int = 0
    """At the same time."""


@dataclass(slots=True)
class Stage:
    node: Node
    group: Group
    budget_bytes: int
    seen: Seen = field(default_factory=Seen)

    async def run(self, asks: Sequence[Ask], clients: int = 8) -> list[Ask]:
        """All of them, with a look at the memory all the time."""
        looking = asyncio.create_task(self._look())
        try:
            return await jobs.crowd(self.node, asks, clients)
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking

    async def _look(self) -> None:
        while True:
            seen = self.seen
            seen.held_bytes = max(seen.held_bytes, self.group.held_bytes)
            (told,) = (await jobs.status(self.node))["nodes"]
            seen.reserved_bytes = max(seen.reserved_bytes, told["memory"]["reserved_bytes"])
            seen.engines = max(seen.engines, len(told["engines"]))
            await asyncio.sleep(LOOK_S)

    @property
    def log(self) -> str:
        return (self.node.home / "stderr").read_text()

    def loads(self) -> Counter[str]:
        """How many engines of each model were started."""
        return Counter(name for name, _ in STARTED.findall(self.log))

    def ends(self) -> Counter[str]:
        """Why engines ended, with numbers left out."""
        return Counter(re.sub(r"\d[\d.,]*", "N", why) for _, why in GONE.findall(self.log))

    def report(self, asks: Sequence[Ask]) -> str:
        seen, limited = self.seen, self.group
        lines = [
            f"{len(asks)} requests: {dict(Counter(one.end for one in asks))}, "
            f"errors {dict(Counter(one.code for one in asks if one.code))}, "
            f"longest {max(one.seconds for one in asks):.1f} s",
            f"budget {self.budget_bytes / MIB:.0f} MiB, reserved at most {seen.reserved_bytes / MIB:.0f}",
            f"limit of the group {limited.limit_bytes / MIB:.0f} MiB, held at most {seen.held_bytes / MIB:.0f}, "
            f"with kept files {limited.peak_bytes / MIB:.0f}; killed by the kernel: {limited.kills}",
            f"engines at once {seen.engines}, started {dict(self.loads())}, ended {dict(self.ends())}",
        ]
        return "\n".join(lines)


def build_models(folder: Path, experts: int = 0) -> None:
    """The two chat models; that for images is built in."""
    for name, letters in LETTERS.items():
        model.build(folder, LAYERS[name], WIDTH, name=name, letters=letters, experts=experts)


async def room_for_two(folder: Path) -> int:
    """Bytes that any two of the three fit in with all their work, by what the node itself reckons, and never three."""
    async with open_herd(load_settings(model_dirs=(folder,), **SETTINGS)) as herd:
        needs = []
        for name in LETTERS:
            plan = await herd._node.plan(ChatRequest.model_validate(jobs.chat(0, name, tokens=8).request))
            needs.append(plan.needs.bytes_for([TOKENS] * BATCH))
        plan = await herd._node.plan(ImageRequest.model_validate(jobs.image(0, width=SIDE_PX, height=SIDE_PX).request))
        needs.append(plan.needs.bytes_for([SIDE_PX**2]))
    return sum(sorted(needs)[1:])


@contextlib.contextmanager
def limited_node(folder: Path, budget_bytes: int, *command: str, **settings: str) -> Iterator[Stage]:
    """A node with the models of `folder` in a group of its own; `command` starts another program than `herd-mcp up`."""
    every = {name: str(value) for name, value in SETTINGS.items()} | settings
    with (
        group(budget_bytes + FLOOR_BYTES) as limited,
        processes.node(
            limited.command(*(command or processes.UP)),
            model_dirs=str(folder),
            memory_budget_bytes=str(budget_bytes),
            **every,
        ) as node,
    ):
        yield Stage(node, limited, budget_bytes)


def entry(name: str) -> tuple[str, str]:
    """The command of a program of this folder that stands in for `herd-mcp up`."""
    return sys.executable, str(Path(__file__).parent / f"{name}.py")


def mixed(count: int) -> list[Ask]:
    """Two chats to one image, over all three models; every tenth is cancelled while it waits, and every tenth loses its
    asker under way."""
    asks = []
    for number in range(count):
        way: jobs.Way = "cancel" if number % 10 == 4 else "leave" if number % 10 == 9 else ""
        if number % 3 == 2:
            width, height = (64 + 16 * (number // 3 // every % 5) for every in (1, 5))
            asks.append(jobs.image(number, width=width, height=height, steps=1 + number % 4, way=way))
        else:
            tokens = 4 + number // jobs.LENGTHS
            asks.append(jobs.chat(number, ("low", "high")[number % 3], tokens=tokens, way=way))
    return asks


async def all_over(stage: Stage, asks: Sequence[Ask]) -> Counter[str]:
    """How the jobs ended by the records, once all of them have."""
    while True:
        ends = await jobs.stored(stage.node, asks)
        if set(ends) <= set(jobs.ENDS):
            return ends
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def running(folder: Path, *command: str, experts: int = 0, **settings: str) -> AsyncIterator[Stage]:
    """Models, budget and node together."""
    build_models(folder, experts)
    budget_bytes = await room_for_two(folder)
    with limited_node(folder, budget_bytes, *command, **settings) as stage:
        yield stage
