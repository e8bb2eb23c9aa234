"""A whole herd in one test: Macs, jobs, faults, what was told and stored, and a trace that is the same for one seed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path

from herd_mcp.jobs import ChatRequest, HerdError, ImageRequest, Job, JobEvent, Message, Queued, Routed
from herd_mcp.settings import GIB
from tests.fleet.sim.clock import HOST, VirtualLoop
from tests.fleet.sim.disk import PAINTER, TALKER, model_shelf
from tests.fleet.sim.engines import Speed
from tests.fleet.sim.mac import Mac
from tests.fleet.sim.net import Network

BOTH = frozenset({PAINTER, TALKER})
ENDS = frozenset({"completed", "failed", "cancelled"})
BUDGET_BYTES = 12 * GIB
ROOMY = Path("/dev/shm")  # memory, where there is such a thing: an fsync there costs nothing


@dataclass
class Asked:
    """A job that was accepted, as its asker sees it."""

    job_id: str
    owner: Mac
    request: ImageRequest | ChatRequest
    stream: bool
    at: float
    told: list[tuple[int, JobEvent]] = field(default_factory=list)
    """What was told, with the number of the owner's start that told it."""
    waits_since: float | None = None
    """Since when it has no place, as was told."""
    ended_at: float = 0.0

    @property
    def ends(self) -> list[JobEvent]:
        return [event for _, event in self.told if event.type in ENDS]

    @property
    def end(self) -> str:
        return self.ends[-1].type if self.ends else ""

    @property
    def prompt(self) -> str:
        request = self.request
        return request.prompt if isinstance(request, ImageRequest) else request.messages[-1].content or ""


class World:
    """Use `world(...)`."""

    def __init__(self, loop: VirtualLoop, seed: int, folder: Path) -> None:
        self.loop, self.folder = loop, folder
        self.rng = random.Random(seed)
        self.net = Network(random.Random(self.rng.random()))
        self.macs: list[Mac] = []
        self.asked: list[Asked] = []
        self.refused: list[tuple[str, HerdError]] = []
        self.trace: list[str] = []
        self.prompts = itertools.count(1)
        """Numbers that tell prompts apart."""
        self._numbers = count(1)
        self._watching: list[asyncio.Task[None]] = []

    def add(
        self,
        speed: Speed | None = None,
        *,
        has: frozenset[str] = BOTH,
        budget_bytes: int = BUDGET_BYTES,
        lease_s: float = 15.0,
    ) -> Mac:
        number = len(self.macs)
        mac = Mac(
            self.loop,
            self.net,
            number,
            self.folder / f"mac-{number}",
            shelf(has),
            speed or Speed(),
            has=has,
            budget_bytes=budget_bytes,
            lease_s=lease_s,
            on_event=self.note,
        )
        self.macs.append(mac)
        self.net.macs[mac.name] = mac
        return mac

    async def start(self, settle_s: float = 3.0) -> None:
        """Start all Macs, and wait until they know each other."""
        for mac in self.macs:
            await self.up(mac)
        await asyncio.sleep(settle_s)

    async def up(self, mac: Mac) -> None:
        """Start a Mac's node, and take up watching what was asked there."""
        self.note(mac, "starts")
        await mac.start([other for other in self.macs if other is not mac])
        for asked in self.asked:
            if asked.owner is mac and not asked.ends:
                mac.host.spawn(self._watch(asked))

    async def warm(self, *models: str) -> None:
        """Load models everywhere."""
        for mac in self.macs:
            for model in models or sorted(mac.has):
                await mac.host.spawn(mac.node.loads.load(await mac.node.plan_model(model)))
        await asyncio.sleep(2.0)

    # ── jobs ──

    async def ask(self, mac: Mac, request: ImageRequest | ChatRequest, *, stream: bool = False) -> Asked | None:
        """As `Herd.submit`. None where it is refused, or the node dies meanwhile."""
        job = Job(
            id=f"job-{mac.node_id}-{next(self._numbers):012x}",
            kind=request.kind,
            client="sim",
            request=request,
            stream=stream,
            created_at=self.loop.now,
        )
        task = mac.host.spawn(mac.owner.accept(job))
        await asyncio.wait({task})
        if task.cancelled():
            return None
        if error := task.exception():
            if not isinstance(error, HerdError):
                raise error
            self.refused.append((job.id, error))
            self.note(mac, "refused", job.id, error.info.code)
            return None
        asked = Asked(job.id, mac, request, stream, self.loop.now)
        self.asked.append(asked)
        self.note(mac, "accepted", job.id)
        if not mac.host.dead:
            mac.host.spawn(self._watch(asked))
        return asked

    async def ask_all(self, macs: Sequence[Mac], requests: Sequence[ImageRequest | ChatRequest]) -> list[Asked]:
        """All at the same moment."""
        asked = await asyncio.gather(*(self.ask(mac, request) for mac, request in zip(macs, requests, strict=True)))
        assert all(asked), self.refused
        return [one for one in asked if one]

    async def _watch(self, asked: Asked) -> None:
        """As a client that comes back after each start of the owner."""
        mac, start = asked.owner, asked.owner.starts
        with contextlib.suppress(HerdError):  # the node ends in good order: the job is told of by the next start
            async with contextlib.aclosing(mac.own.watch_batches(asked.job_id)) as batches:
                async for batch in batches:
                    for event in batch:
                        asked.told.append((start, event))
                        if isinstance(event, Queued | Routed):
                            asked.waits_since = self.loop.now if event.type == "queued" and event.message else None
                        asked.ended_at = self.loop.now
                        mac.told(asked.job_id, event)

    async def over(self, asked: Sequence[Asked] | None = None, limit_s: float = 600.0) -> None:
        """Until all of these have their end."""
        wanted = self.asked if asked is None else asked
        await self.until(
            lambda: all(one.ends for one in wanted), limit_s, lambda: str([o.job_id for o in wanted if not o.ends])
        )

    async def until(self, held: Callable[[], bool], limit_s: float, what: Callable[[], str] = str) -> None:
        end = self.loop.now + limit_s
        while not held():
            assert self.loop.now < end, f"after {limit_s} s still not: {what()}"
            await asyncio.sleep(0.1)

    # ── looks ──

    def stored(self, asked: Asked) -> Job:
        return Job.model_validate_json(asked.owner.disk.jobs[asked.job_id])

    def ran_on(self, asked: Asked) -> str:
        return self.stored(asked).attempts[-1].node

    def note(self, mac: Mac, *what: object) -> None:
        self.trace.append(f"{self.loop.now:.4f} {mac.name} {' '.join(map(str, what))}")

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


class _Mistakes(logging.Handler):
    """What the program logs as a mistake of its own."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._mistakes = mistakes

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, OSError):  # that is the system's
            self._mistakes.append(f"{record.getMessage()}: {error!r}")


@contextlib.asynccontextmanager
async def world(loop: VirtualLoop, seed: int = 1) -> AsyncIterator[World]:
    """An empty herd; all of it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="herd-sim-", dir=ROOMY if ROOMY.is_dir() else None))
    made = World(loop, seed, folder)
    log = logging.getLogger("herd_mcp")
    log.addHandler(mistakes := _Mistakes(made.net.mistakes))
    try:
        yield made
        assert not made.net.mistakes, made.net.mistakes
    finally:
        log.removeHandler(mistakes)
        assert HOST.get() is None
        for mac in made.macs:
            if mac.starts and not mac.host.dead:
                await mac.kill()
        shutil.rmtree(folder)


@cache
def shelf(has: frozenset[str]) -> Path:
    """The models of a Mac that has these; made once."""
    folder = Path(tempfile.mkdtemp(prefix="herd-sim-models-"))
    return model_shelf(folder / "models", painter=PAINTER in has, talker=TALKER in has)


def image(prompt: str = "a circle", *, px: int = 512, steps: int = 8) -> ImageRequest:
    """4.2 s on a Mac of usual speed."""
    return ImageRequest(prompt=prompt, model=PAINTER, width=px, height=px, steps=steps)


def chat(prompt: str = "hello", *, tokens: int = 40) -> ChatRequest:
    """2 s on a Mac of usual speed."""
    return ChatRequest(messages=(Message(role="user", content=prompt),), model=TALKER, max_tokens=tokens)
