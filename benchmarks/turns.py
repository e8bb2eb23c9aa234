"""Turns at the GPU: a chat stream beside an image, in two real engine processes that share one core.

The core stands for the GPU: both engines are pinned to it, and this process stays off it. Seconds are those that the
engines had of it, for a machine that does other things too. Measured alone, together
without turns, together with turns between steps, and with turns between the blocks of a step too.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

import herd_mcp
from benchmarks.parts import machine
from benchmarks.parts.measure import Goal, Row, row
from benchmarks.parts.report import Report, parser
from herd_mcp.jobs import ChatRequest, ImageRequest, Request
from herd_mcp.pipe import COMMAND, MESSAGE, Cancel, Done, EngineSpec, Load, Message, Ready, RunCancelled, Start, Step

BUILTIN = Path(herd_mcp.__path__[0]) / "builtin"
LIMIT_S = 180.0
WARM_TOKENS = 30
ALONE_S = 4.0
DRAW = ImageRequest(prompt="a red circle", width=128, height=128, steps=8, seed=7)


def build_chat(folder: Path) -> Path:
    """A qwen3 of 4 layers, 256 wide, with random weights and the built-in model's tokenizer."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.qwen3 import Model, ModelArgs

    shutil.copytree(BUILTIN / "herd-tiny-chat", folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 40_000}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    mx.random.seed(0)
    model = Model(ModelArgs.from_dict(config))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    return folder


@contextmanager
def cores() -> Iterator[int | None]:
    """The core for the engines, while this process keeps to the others; None where it cannot be chosen."""
    if not hasattr(os, "sched_setaffinity"):
        yield None  # a Mac has the real thing
        return
    mine = os.sched_getaffinity(0)
    core = max(mine)
    os.sched_setaffinity(0, mine - {core} or mine)
    try:
        yield core
    finally:
        os.sched_setaffinity(0, mine)


class Engine:
    """One engine process and the times of what it says. Use as a context manager."""

    def __init__(self, spec: EngineSpec, core: int | None) -> None:
        self._heard: queue.SimpleQueue[tuple[float, Message]] = queue.SimpleQueue()
        self._run = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "herd_mcp.engines.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if core is not None:
            os.sched_setaffinity(self.process.pid, {core})
        threading.Thread(target=self._read, daemon=True).start()
        self._send(Load(spec=spec))
        self.until(lambda message: isinstance(message, Ready))

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def start(self, request: Request, spool: str = "") -> int:
        self._run += 1
        self._send(Start(run=self._run, request=request, spool=spool))
        return self._run

    def cancel(self, run: int) -> None:
        self._send(Cancel(run=run))
        self.until(lambda message: isinstance(message, (RunCancelled, Done)))

    def until(self, wanted: Callable[[Message], bool]) -> float:
        """When the first message that is wanted came. Raises queue.Empty when none comes in time."""
        while True:
            at, message = self._heard.get(timeout=LIMIT_S)
            if wanted(message):
                return at

    def tokens_until(self, end_s: float) -> list[float]:
        """When each token came, of one run, until `end_s`, and the first after it."""
        times: list[float] = []
        while not times or times[-1] < end_s:
            times.append(self.until(lambda message: isinstance(message, Step)))
        return times

    def _send(self, command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(COMMAND.dump_json(command) + b"\n")
        self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._heard.put((time.monotonic(), MESSAGE.validate_json(line)))


@dataclass
class Stream:
    """How a chat came: tokens per second of the core, and seconds between tokens."""

    rate: float
    p50_s: float
    p99_s: float
    longest_s: float
    step_s: float = 0.0
    """What a step of the image beside it takes alone, by the clock, as the times between tokens are."""


def stream(times: list[float], core_s: float) -> Stream:
    gaps = sorted(after - before for before, after in pairwise(times))
    return Stream(
        rate=len(gaps) / core_s,
        p50_s=statistics.median(gaps),
        p99_s=gaps[min(len(gaps) - 1, round(0.99 * len(gaps)))],
        longest_s=gaps[-1],
    )


class Bench:
    """The chat and image engines of one way to share."""

    def __init__(self, folder: Path, core: int | None, stack: ExitStack, turns: bool, blocks: bool) -> None:
        run = str(folder / "run") if turns else ""
        self._core = core
        self._spool = str(folder / "out.png")
        chat = EngineSpec(kind="chat", model="chat", path=str(folder / "chat"), turns=run)
        image = EngineSpec(
            kind="image",
            model="image",
            path=str(BUILTIN / "herd-tiny-image"),
            family="builtin",
            turns=run,
            between_blocks=blocks,
        )
        self.chat = stack.enter_context(Engine(chat, core))
        self.image = stack.enter_context(Engine(image, core))
        self.draw()  # the first is slower

    def _now(self) -> float:
        """Seconds that the engines have had of their core, so that other programs do not count; where they have a
        GPU, seconds."""
        if self._core is None:
            return time.monotonic()
        times = [psutil.Process(engine.process.pid).cpu_times() for engine in (self.chat, self.image)]
        return float(sum(spent.user + spent.system for spent in times))

    def _talk(self) -> int:
        """A chat that goes on until it is cancelled, after its first tokens."""
        request = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 30_000}
        sampling = {"temperature": 0, "logit_bias": {2: -1000.0, 0: -1000.0}}
        run = self.chat.start(ChatRequest.model_validate({**request, "sampling": sampling}))
        for _ in range(WARM_TOKENS):
            self.chat.until(lambda message: isinstance(message, Step))
        return run

    def talk(self) -> Stream:
        """A chat alone."""
        run = self._talk()
        began = self._now()
        times = self.chat.tokens_until(time.monotonic() + ALONE_S)
        talked = stream(times, self._now() - began)
        self.chat.cancel(run)
        return talked

    def draw(self) -> float:
        """An image alone, in seconds."""
        began, began_clock = self._now(), time.monotonic()
        self.image.start(DRAW, self._spool)
        ended = self.image.until(lambda message: isinstance(message, Done))
        self._step_s = (ended - began_clock) / (DRAW.steps or 1)
        return self._now() - began

    def both(self) -> tuple[Stream, float]:
        """A chat while an image is drawn, and the image's seconds."""
        run = self._talk()
        began, began_core = time.monotonic(), self._now()
        self.image.start(DRAW, self._spool)
        ended = self.image.until(lambda message: isinstance(message, Done))
        core_s = self._now() - began_core
        times = [at for at in self.chat.tokens_until(ended) if at >= began]
        self.chat.cancel(run)
        talked = stream(times, core_s)
        talked.step_s = self._step_s
        return talked, core_s

    def killed(self) -> float:
        """Seconds from the death of the image engine, in the middle of an image, to the chat's next token."""
        self._talk()
        self.image.start(DRAW, self._spool)
        self.image.until(lambda message: isinstance(message, Step) and any(delta.step == 2 for delta in message.runs))
        self.image.process.kill()
        at = time.monotonic()
        return self.chat.tokens_until(at)[-1] - at


PLAIN, STEPS = "without turns", "turns, steps"
Rounds = dict[str, list[tuple[Stream, float]]]
"""By the way to share: the chat and the image's seconds, of each round."""


def measure(pairs: int) -> Report:
    before = machine.load()
    with tempfile.TemporaryDirectory() as name, cores() as core, ExitStack() as stack:
        folder = Path(name)
        build_chat(folder / "chat")
        ways = {
            PLAIN: Bench(folder, core, stack, turns=False, blocks=False),
            STEPS: Bench(folder, core, stack, turns=True, blocks=False),
            "turns, blocks": Bench(folder, core, stack, turns=True, blocks=True),
        }
        alone: Rounds = {way: [] for way in ways}
        both: Rounds = {way: [] for way in ways}
        for _ in range(pairs):
            for way, bench in ways.items():
                alone[way].append((bench.talk(), bench.draw()))
                both[way].append(bench.both())
        killed_ms = 1000 * ways[STEPS].killed()
    about = "A chat stream beside an image, in two engines that share one core, which stands for the GPU."
    last = row("image engine killed: next token of the chat after", "ms", [killed_ms])
    notes = ("Seconds of the shared core. Alone: against the same without turns. Together: against the same alone.",)
    rows = (*_alone(alone), *_together(alone, both), last)
    return Report("turns", about, rows, machine.look(before), pairs, notes)


def _alone(alone: Rounds) -> Iterator[Row]:
    chats, images = _rates(alone[PLAIN]), _seconds(alone[PLAIN])
    for way, rounds in alone.items():
        if way != PLAIN:
            yield row(f"alone, {way}: chat", "tok/s", _rates(rounds), chats, Goal(">=", 0.99), peer_name=PLAIN)
            yield row(f"alone, {way}: image", "s", _seconds(rounds), images, Goal("<=", 1.01), peer_name=PLAIN)


def _together(alone: Rounds, both: Rounds) -> Iterator[Row]:
    for way, rounds in both.items():
        what, turns = f"together, {way}", way != PLAIN
        talks = [talk for talk, _ in rounds]
        rate, longer = ((Goal(">=", 0.35),), (Goal("<=", 1.6),)) if turns else ((), ())
        gap = (Goal("<=", 1.2 if way == STEPS else 0.4, of="value"),) if turns else ()
        yield row(f"{what}: chat", "tok/s", _rates(rounds), _rates(alone[way]), *rate, peer_name="alone")
        yield row(f"{what}: image", "s", _seconds(rounds), _seconds(alone[way]), *longer, peer_name="alone")
        yield row(f"{what}: between tokens, p50", "ms", [1000 * talk.p50_s for talk in talks])
        yield row(f"{what}: between tokens, p99", "image steps", [talk.p99_s / talk.step_s for talk in talks], (), *gap)
        yield row(f"{what}: longest", "ms", [1000 * talk.longest_s for talk in talks])


def _rates(rounds: list[tuple[Stream, float]]) -> list[float]:
    return [talk.rate for talk, _ in rounds]


def _seconds(rounds: list[tuple[Stream, float]]) -> list[float]:
    return [seconds for _, seconds in rounds]


def main(argv: list[str]) -> int:
    asked = parser("turns", __doc__).parse_args(argv)
    os.environ["MLX_DISABLE_COMPILE"] = "1"
    return measure(asked.pairs).show(as_json=asked.json)
