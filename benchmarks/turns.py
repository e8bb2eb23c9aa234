"""Turns at the GPU: a chat stream beside an image, in two real engine processes that share one core.

The core stands for the GPU: both engines are pinned to it, and this process stays off it. Seconds are those that the
engines had of it, for a machine that does other things too. Measured alone, together
without turns, together with turns between steps, and with turns between the blocks of a step too.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

import herd_mcp
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


@dataclass
class Row:
    name: str
    value: float
    unit: str
    goal: str = ""
    met: bool = True


def measure(rounds: int, say: Callable[[str], None]) -> list[Row]:
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
        for number in range(rounds):
            for way, bench in ways.items():
                say(f"round {number + 1}/{rounds}: {way}")
                alone[way].append((bench.talk(), bench.draw()))
                both[way].append(bench.both())
        killed_s = ways[STEPS].killed()
    return [*_alone(alone), *_together(alone, both), killed(killed_s)]


def killed(seconds: float) -> Row:
    return Row("image engine killed: next token of the chat after", 1000 * seconds, "ms")


def _alone(alone: Rounds) -> Iterator[Row]:
    plain = alone[PLAIN]
    for way, rounds in alone.items():
        yield Row(f"alone, {way}: chat", _middle(chat.rate for chat, _ in rounds), "tokens/s")
        yield Row(f"alone, {way}: image", _middle(image_s for _, image_s in rounds), "s")
        if way != PLAIN:
            pairs = list(zip(rounds, plain, strict=True))
            chat = _middle(without.rate / with_.rate for (with_, _), (without, _) in pairs)
            image = _middle(with_s / without_s for (_, with_s), (_, without_s) in pairs)
            yield _goal(Row(f"cost alone, {way}: chat", 100 * (chat - 1), "%"), "<=", 1)
            yield _goal(Row(f"cost alone, {way}: image", 100 * (image - 1), "%"), "<=", 1)


def _together(alone: Rounds, both: Rounds) -> Iterator[Row]:
    """Each round against what the same engines did alone in the same round."""
    for way, rounds in both.items():
        pairs = list(zip(rounds, alone[way], strict=True))
        rate = Row(
            f"together, {way}: chat", _middle(chat.rate / solo.rate for (chat, _), (solo, _) in pairs), "x alone"
        )
        image = Row(
            f"together, {way}: image", _middle(image_s / solo_s for (_, image_s), (_, solo_s) in pairs), "x alone"
        )
        p99 = _middle(chat.p99_s / chat.step_s for chat, _ in rounds)
        gap = Row(f"together, {way}: between tokens, p99", p99, "image steps")
        if way != PLAIN:
            _goal(rate, ">=", 0.35)
            _goal(image, "<=", 1.6)
            _goal(gap, "<=", 1.2 if way == STEPS else 0.4)
        p50 = Row(f"together, {way}: between tokens, p50", 1000 * _middle(chat.p50_s for chat, _ in rounds), "ms")
        longest = Row(f"together, {way}: longest", 1000 * _middle(chat.longest_s for chat, _ in rounds), "ms")
        yield from (rate, image, p50, gap, longest)


def _middle(values: Iterable[float]) -> float:
    return statistics.median(values)


def _goal(row: Row, sign: str, limit: float) -> Row:
    row.goal = f"{sign} {limit:g}"
    row.met = row.value >= limit if sign == ">=" else row.value <= limit
    return row


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="turns", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=5, help="the medians of so many rounds")
    options = parser.parse_args(argv)
    os.environ["MLX_DISABLE_COMPILE"] = "1"
    rows = measure(options.rounds, lambda text: print(text, file=sys.stderr))
    if options.json:
        print(json.dumps([row.__dict__ for row in rows], indent=2))
    else:
        print("| what | | | goal |\n|---|---:|---|---|")
        for row in rows:
            print(f"| {row.name} | {row.value:.3g} | {row.unit} | {row.goal}{'' if row.met else ' NO'} |")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
