"""Engines that speak the words of `pipe` by a script: fixed seconds for a load, a step and a token, and every way to
go wrong. All engines of one Mac share its GPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Literal

from herd_mcp import pipe
from herd_mcp.jobs import ChatRequest, ErrorCode, ErrorInfo, ImageRequest, prompt_bytes
from herd_mcp.settings import GIB

POISON, BAD = "poison", "bad"
"""A prompt with the first word kills its engine at its second step; one with the second fails alone."""
FIRST_PID = 1_900_000_000
"""No process has such a number."""
Fault = Literal["refuse", "die_loading", "fail_loading", "hang_loading", "die", "hang", "garbage", "slow"]
"""What the next engine that comes to it does, once."""
AT_LOAD: frozenset[Fault] = frozenset({"refuse", "die_loading", "fail_loading", "hang_loading"})
KILL_S = 0.02
HELD_BYTES = {"image": 3 * GIB, "chat": 4 * GIB}
TURN_S = 5.0


@dataclass
class Speed:
    """What a Mac's GPU does, alone."""

    load_s: float = 4.0
    step_s_per_mpx: float = 2.0
    prefill_tokens_per_s: float = 500.0
    decode_tokens_per_s: float = 20.0

    def times(self, factor: float) -> Speed:
        """A Mac that takes so many times longer."""
        return Speed(
            self.load_s * factor,
            self.step_s_per_mpx * factor,
            self.prefill_tokens_per_s / factor,
            self.decode_tokens_per_s / factor,
        )


@dataclass
class Gpu:
    """Of one Mac, with the engines that live on it now."""

    speed: Speed
    faults: list[Fault] = field(default_factory=list)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    engines: list[ScriptedEngine] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    """Prompts of the images that were drawn to their end."""
    deaths: list[tuple[str, ...]] = field(default_factory=list)
    """Prompts that were in an engine when it died."""
    pids: count[int] = field(default_factory=lambda: count(FIRST_PID))
    stretch: float = 1.0

    def fault(self, among: frozenset[Fault]) -> Fault | None:
        """The first that is armed of these, once."""
        found = next((fault for fault in self.faults if fault in among), None)
        if found:
            self.faults.remove(found)
        return found

    async def start(
        self, spec: pipe.EngineSpec, on_message: Callable[[pipe.Message], None], hub_cache: Path
    ) -> ScriptedEngine:
        """As `EngineProcess.start`."""
        if self.fault(frozenset({"refuse"})):
            raise OSError("no process is to be had")
        engine = ScriptedEngine(self, spec, on_message)
        self.engines.append(engine)
        return engine


@dataclass
class _Run:
    start: pipe.Start
    prefill_s: float = 0.0
    done: int = 0
    began_at: float = 0.0
    cancelled: bool = False

    @property
    def prompt(self) -> str:
        return prompt_of(self.start.request)


def prompt_of(request: ImageRequest | ChatRequest) -> str:
    return request.prompt if isinstance(request, ImageRequest) else request.messages[-1].content or ""


class _Ended(Exception):
    pass


class ScriptedEngine:
    """`node.engines.RunningEngine`."""

    def __init__(self, gpu: Gpu, spec: pipe.EngineSpec, on_message: Callable[[pipe.Message], None]) -> None:
        self.pid = next(gpu.pids)
        self.spec = spec
        self._gpu = gpu
        self._say = on_message
        self._runs: dict[int, _Run] = {}
        self._work = 0
        self._asked = asyncio.Event()
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def send(self, command: pipe.Load | pipe.Start | pipe.Cancel | pipe.Limit) -> None:
        if isinstance(command, pipe.Start):
            request = command.request
            tokens = prompt_bytes(request) / 4 if isinstance(request, ChatRequest) else 0.0
            now = asyncio.get_running_loop().time()
            self._runs[command.run] = _Run(command, tokens / self._gpu.speed.prefill_tokens_per_s, began_at=now)
        elif isinstance(command, pipe.Cancel) and command.run in self._runs:
            self._runs[command.run].cancelled = True
        self._asked.set()

    def end(self, reason: str) -> None:
        if not self._end.done():
            self._end.set_result(reason)

    async def run(self) -> str:
        """Until it ended; returns why."""
        living = asyncio.create_task(self._live())
        try:
            await asyncio.wait({living, self._end}, return_when=asyncio.FIRST_COMPLETED)
            if living.done():
                return living.result()
            await asyncio.sleep(KILL_S)
            return self._end.result()
        finally:
            living.cancel()
            await asyncio.wait({living})
            self._gpu.engines.remove(self)

    @property
    def held_bytes(self) -> int:
        """What the process holds: from its start, as long as it is there."""
        return HELD_BYTES[self.spec.kind]

    # ── its life ──

    async def _live(self) -> str:
        try:
            await self._load()
            while True:
                while not self._runs:
                    self._asked.clear()
                    await self._asked.wait()
                async with self._gpu.turn:
                    await self._step()
                await asyncio.sleep(0)  # the other engine has its turn
        except _Ended as ended:
            return str(ended)

    async def _load(self) -> None:
        fault = self._gpu.fault(AT_LOAD)
        for part in range(4):
            await asyncio.sleep(self._gpu.speed.load_s / 4 * self._gpu.stretch)
            self._say(pipe.LoadingNow(fraction=(part + 1) / 4))
            if fault == "die_loading" and part == 1:
                raise _Ended("it was killed by SIGKILL")
            if fault == "fail_loading" and part == 2:
                error = ErrorInfo(code=ErrorCode.ENGINE_CRASHED, message="Its weights make no sense.")
                self._say(pipe.LoadFailed(error=error))
                raise _Ended("it exited with 1")
            if fault == "hang_loading":
                await self._hang()
        self._say(pipe.Ready(weights_bytes=0, active_bytes=0, peak_bytes=0, context_tokens=8192))

    async def _step(self) -> None:
        """One step of the image, or one token of each chat."""
        speed, stretch = self._gpu.speed, self._gpu.stretch
        fault = self._gpu.fault(frozenset({"die", "hang", "garbage", "slow"}))
        runs = [run for run in self._runs.values() if not run.cancelled]
        if self.spec.kind == "image":
            runs = runs[:1]
        step_s = max((self._step_s(run, speed) for run in runs), default=0.001) * stretch
        step_s *= 1 + 0.03 * max(len(runs) - 1, 0)
        await self._wait(step_s * (5 if fault == "slow" else 1))
        if fault == "hang":
            await self._hang()
        if fault == "garbage":
            self._say(pipe.RunCancelled(run=999_999))
            await self._hang()
        killer = next((run for run in runs if run.prompt.startswith(POISON) and run.done >= 1), None)
        if fault == "die" or killer:
            self._gpu.deaths.append(tuple(run.prompt for run in self._runs.values()))
            raise _Ended("it was killed by SIGSEGV")
        self._work += 1
        for number, run in list(self._runs.items()):
            if run.cancelled:
                del self._runs[number]
                self._say(pipe.RunCancelled(run=number))
            elif run.prompt.startswith(BAD):
                del self._runs[number]
                error = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="It does not like the prompt.")
                self._say(pipe.RunFailed(run=number, error=error))
        runs = [run for run in runs if run.start.run in self._runs]
        for run in runs:
            run.done += 1
        self._say(pipe.Step(work=self._work, runs=tuple(self._delta(run) for run in runs)))
        for run in runs:
            if run.done >= self._steps(run):
                del self._runs[run.start.run]
                self._say(pipe.Done(run=run.start.run, facts=self._facts(run)))

    async def _wait(self, seconds: float) -> None:
        """Work, with signs of it for the node where it is long."""
        while seconds > TURN_S:
            await asyncio.sleep(TURN_S)
            self._work += 1
            self._say(pipe.Step(work=self._work))
            seconds -= TURN_S
        await asyncio.sleep(seconds)

    async def _hang(self) -> None:
        await asyncio.get_running_loop().create_future()

    def _step_s(self, run: _Run, speed: Speed) -> float:
        request = run.start.request
        if isinstance(request, ImageRequest):
            return (request.width or 512) * (request.height or request.width or 512) / 1e6 * speed.step_s_per_mpx
        return 1 / speed.decode_tokens_per_s + (run.prefill_s if not run.done else 0.0)

    @staticmethod
    def _steps(run: _Run) -> int:
        request = run.start.request
        return (request.steps if isinstance(request, ImageRequest) else request.max_tokens) or 8

    def _delta(self, run: _Run) -> pipe.RunDelta:
        if self.spec.kind == "image":
            return pipe.RunDelta(run=run.start.run, step=run.done, steps=self._steps(run))
        return pipe.RunDelta(run=run.start.run, text=f"{run.done} ")

    def _facts(self, run: _Run) -> pipe.ChatFacts | pipe.ImageFacts:
        run_s = asyncio.get_running_loop().time() - run.began_at
        request = run.start.request
        if isinstance(request, ImageRequest):
            Path(run.start.spool).write_bytes(picture_of(request.prompt))
            self._gpu.images.append(request.prompt)
            width, height = request.width or 512, request.height or request.width or 512
            return pipe.ImageFacts(
                width=width, height=height, steps=run.done, seed=1, guidance=None, quantize=None, run_s=run_s
            )
        return pipe.ChatFacts(
            finish_reason="stop",
            prompt_tokens=prompt_bytes(request) // 4,
            cached_tokens=0,
            completion_tokens=run.done,
            prefill_s=run.prefill_s,
            decode_s=max(run_s - run.prefill_s, 0.001),
        )


def picture_of(prompt: str) -> bytes:
    """What is drawn for a prompt."""
    return b"\x89PNG of " + prompt.encode() * 3_000


def answer_of(tokens: int) -> str:
    """What is answered."""
    return "".join(f"{number} " for number in range(1, tokens + 1))
