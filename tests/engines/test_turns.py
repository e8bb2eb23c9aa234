"""Turns at the GPU: the arithmetic with a clock of ours, the locks with real processes, the engines that wait."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mflux.models.common.vae.block_decoder import VAEBlockDecoder
from mflux.models.flux2.model.flux2_vae.vae import Flux2VAE
from mlx import nn
from mlx.utils import tree_flatten

import herd_mcp
from herd_mcp.engines.blocks import after_each_block, after_each_part_of_decoding
from herd_mcp.engines.turns import LEAST_HOLD_S, SHARE, Turn, alone, hold_s
from herd_mcp.jobs import ImageRequest
from herd_mcp.pipe import EngineSpec, Load, Ready, RunCancelled, WaitingForTurn
from tests.engines.pipe_client import EngineProcess, ask_chat
from tests.engines.scripted_model import build

LIMIT_S = 60.0
IMAGE_MODEL = Path(herd_mcp.__path__[0]) / "builtin" / "herd-tiny-image"
ENDLESS = "SAY:" + "x" * 3000


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.reports: list[float] = []
        self.flushed = 0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def flush(self) -> None:
        self.flushed += 1

    def turn(self, folder: Path) -> Turn:
        return Turn(folder, self.flush, self.reports.append, 1.0, now=lambda: self.now_s, sleep=self.sleep)


@contextlib.contextmanager
def somebody_waits(folder: Path) -> Iterator[None]:
    """What the others see of one who waits: the first lock is taken."""
    file = os.open(folder / "turn.next", os.O_RDWR)
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(file)


# ── the arithmetic ──


@given(st.floats(0.001, 5), st.floats(0.001, 5))
def test_of_two_that_compute_without_end_each_gets_three_tenths_of_the_time(one_s: float, other_s: float) -> None:
    """`one_s` and `other_s` are the lengths of their steps, which cannot be interrupted."""
    held, total = [0.0, 0.0], [0.0, 0.0]
    for turn in range(60):
        mine, step_s = turn % 2, (one_s, other_s)[turn % 2]
        held[mine] = step_s * math.ceil(hold_s(held[1 - mine]) / step_s)
        total[mine] += held[mine]
    assert min(total) >= 0.3 * sum(total)


def test_a_turn_lasts_its_least_time_and_its_share_of_the_wait_and_only_while_somebody_waits(tmp_path: Path) -> None:
    clock = Clock()
    turn, other = clock.turn(tmp_path), clock.turn(tmp_path)
    assert other.take()
    assert not turn.take(enough=lambda: clock.now_s >= 101)
    other.give()
    assert turn.take()  # after 1 s
    clock.now_s += 10
    assert not turn.due(), "nobody waits"
    with somebody_waits(tmp_path):
        assert turn.due()
        turn.give()
        assert not turn.due(), "it is not ours"
    assert turn.take()
    with somebody_waits(tmp_path):
        assert not turn.due(), "the time waited before the last turn does not count again"
        clock.now_s += LEAST_HOLD_S
        assert turn.due()


def test_who_waited_long_holds_for_a_share_of_that(tmp_path: Path) -> None:
    clock = Clock()
    turn, other = clock.turn(tmp_path), clock.turn(tmp_path)
    other.take()
    looks = 0

    def give_after_two_seconds() -> bool:
        nonlocal looks
        looks += 1
        if clock.now_s >= 102 and other.held:
            other.give()
        return False

    assert turn.take(give_after_two_seconds)
    assert looks > 100
    with somebody_waits(tmp_path):
        clock.now_s += SHARE * 2 - 0.1
        assert not turn.due()
        clock.now_s += 0.2
        assert turn.due()


def test_the_gpu_has_done_its_work_before_others_are_let(tmp_path: Path) -> None:
    clock = Clock()
    other = clock.turn(tmp_path)
    seen: list[bool] = []
    turn = Turn(tmp_path, lambda: seen.append(other.take(enough=lambda: True)), clock.reports.append)
    turn.take()
    turn.give()
    turn.give()
    assert seen == [False]
    assert other.take(enough=lambda: True)


def test_waiting_is_told_again_and_again_also_when_it_is_interrupted_all_the_time(tmp_path: Path) -> None:
    clock = Clock()
    turn, other = clock.turn(tmp_path), clock.turn(tmp_path)
    other.take()
    while clock.now_s < 105:
        looks = iter(range(300))  # 0.3 s: sooner than a report is due
        assert not turn.take(enough=partial(lambda looks: next(looks, None) is None, looks))
    assert len(clock.reports) >= 4
    assert clock.reports == sorted(clock.reports)
    other.give()
    assert turn.take()
    turn.give()
    with somebody_waits(tmp_path):
        clock.reports.clear()
        assert not turn.take(enough=lambda: True)
    assert clock.reports == []


def test_who_stops_waiting_is_out_of_the_way(tmp_path: Path) -> None:
    clock = Clock()
    holder, turn = clock.turn(tmp_path), clock.turn(tmp_path)
    holder.take()
    assert not turn.take(enough=lambda: True)
    assert not holder.wanted()
    assert holder.offer(), "nobody waits, so it goes on"
    assert clock.flushed == 0


def test_an_engine_that_is_alone_needs_no_folder() -> None:
    turn = alone()
    assert turn.take()
    assert not turn.due()
    assert not turn.wanted()
    with turn:
        assert turn.held
    assert not turn.held


# ── processes ──

LOOP = """
import os, sys, time
from pathlib import Path
from herd_mcp.engines.turns import SHARE, Turn
folder, name, step_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
turn = Turn(folder, flush=lambda: None, report=lambda _: None)
out = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while True:
    turn.take()
    os.write(out, f"{name} takes {time.monotonic()}\\n".encode())
    while True:
        time.sleep(step_s)
        if turn.due():
            break
    os.write(out, f"{name} gives {time.monotonic()}\\n".encode())
    turn.give()
"""


@pytest.fixture
def loops(tmp_path: Path) -> Iterator[Callable[[str, float], subprocess.Popen[bytes]]]:
    """Starts processes that take turns for ever, in steps of so many seconds."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, step_s: float) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", LOOP, str(tmp_path), name, str(step_s)]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def lines(folder: Path) -> list[list[str]]:
    log = folder / "log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def wait(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, f"waited too long: {what}"
        time.sleep(0.01)


def takes(folder: Path, name: str) -> int:
    return sum(line[:2] == [name, "takes"] for line in lines(folder))


def test_two_processes_never_hold_at_once_and_the_long_one_does_not_starve_the_short_one(
    tmp_path: Path, loops: Callable[[str, float], subprocess.Popen[bytes]]
) -> None:
    steps = {"long": 0.1, "short": 0.002, "middle": 0.02}
    for name, step_s in steps.items():
        loops(name, step_s)
    wait(lambda: all(takes(tmp_path, name) >= 5 for name in steps), "five turns of each")
    held = dict.fromkeys(steps, 0.0)
    last: list[str] | None = None
    for name, what, at in lines(tmp_path):
        if what == "takes":
            assert last is None or last[1] == "gives", f"{name} and {last} hold at once"
        elif last is not None:
            assert last[:2] == [name, "takes"]
            held[name] += float(at) - float(last[2])
        last = [name, what, at]
    assert held["short"] > 0.2 * held["long"], held


def test_a_killed_holder_leaves_the_gpu_to_the_others(
    tmp_path: Path, loops: Callable[[str, float], subprocess.Popen[bytes]]
) -> None:
    holder = loops("holder", 1000)
    wait(lambda: takes(tmp_path, "holder"), "the holder")
    loops("waiter", 0.01)
    turn = alone_in(tmp_path)
    wait(lambda: turn.wanted(), "the waiter")
    assert takes(tmp_path, "waiter") == 0
    holder.kill()
    wait(lambda: takes(tmp_path, "waiter"), "the waiter's turn")


def alone_in(folder: Path) -> Turn:
    return Turn(folder, flush=lambda: None, report=lambda _: None)


# ── engines ──


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("turns")


@pytest.fixture
def turn(folder: Path) -> Iterator[Turn]:
    """The test's own place at the GPU."""
    turn = alone_in(folder / "run")
    yield turn
    turn.give()


@pytest.fixture(scope="module")
def chat(folder: Path) -> Iterator[EngineProcess]:
    with EngineProcess(folder / "chat.log") as process:
        process.load(chat_spec(folder))
        yield process


@pytest.fixture(scope="module")
def image(folder: Path) -> Iterator[EngineProcess]:
    run = str(folder / "run")
    with EngineProcess(folder / "image.log") as process:
        process.load(
            EngineSpec(kind="image", model="m", path=str(IMAGE_MODEL), family="builtin", turns=run, stall_s=0.4)
        )
        yield process


def chat_spec(folder: Path) -> EngineSpec:
    path, run = str(build(folder / "model")), str(folder / "run")
    return EngineSpec(kind="chat", model="m", path=path, trust_remote_code=True, turns=run, stall_s=0.4)


def waits(engine: EngineProcess, times: int) -> None:
    """Until it has said so many times more that it waits."""

    def said() -> int:
        return sum(isinstance(message, WaitingForTurn) for message in engine.messages)

    before = said()
    engine.wait(lambda: said() >= before + times)


def take(turn: Turn) -> None:
    """Get the turn of an engine that works, in bounded time."""
    end = time.monotonic() + LIMIT_S
    assert turn.take(enough=lambda: time.monotonic() > end)


def free(turn: Turn) -> bool:
    """Whether nobody has the GPU now."""
    return turn.take(enough=lambda: True)


def test_loading_waits_for_its_turn_and_says_so_and_a_killed_engine_frees_the_gpu(folder: Path, turn: Turn) -> None:
    with EngineProcess(folder / "other.log") as engine:
        take(turn)
        engine.send_line(Load(spec=chat_spec(folder)).model_dump_json().encode())
        waits(engine, 2)
        assert not any(isinstance(message, Ready) for message in engine.messages)
        turn.give()
        engine.wait(lambda: any(isinstance(message, Ready) for message in engine.messages))
        run = engine.start(ask_chat(ENDLESS))
        engine.wait(lambda: engine.answers[run].deltas)
        os.kill(engine.process.pid, signal.SIGSTOP)
        assert not free(turn)
        engine.process.kill()
        take(turn)


def test_a_chat_waits_for_its_turn_says_so_and_is_answered_then(chat: EngineProcess, turn: Turn) -> None:
    take(turn)
    run = chat.start(ask_chat("SAY:hello"))
    waits(chat, 3)
    assert not chat.answers[run].deltas
    turn.give()
    assert chat.answer(run).text == "hello"


def test_a_chat_that_waits_for_its_turn_is_cancelled_at_once_and_the_others_are_answered(
    chat: EngineProcess, turn: Turn
) -> None:
    first, second = chat.start(ask_chat(ENDLESS)), chat.start(ask_chat("SAY:" + "y" * 500))
    chat.wait(lambda: chat.answers[first].deltas and chat.answers[second].deltas)
    take(turn)
    chat.cancel(first)
    assert isinstance(chat.answer(first).ending, RunCancelled)
    said = len(chat.answers[second].deltas)
    waits(chat, 2)
    assert len(chat.answers[second].deltas) == said
    turn.give()
    assert chat.answer(second).text == "y" * 500
    assert chat.ask(ask_chat("SAY:after")).text == "after"


def test_an_engine_without_work_does_not_hold_the_gpu(chat: EngineProcess, turn: Turn) -> None:
    for text in ("one", "two"):
        assert chat.ask(ask_chat(f"SAY:{text}")).text == text
        assert free(turn), "its last answer is told after it gave its turn"
        turn.give()
    run = chat.start(ask_chat(ENDLESS))
    chat.wait(lambda: chat.answers[run].deltas)
    chat.cancel(run)
    chat.answer(run)
    assert free(turn)


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_image_gives_its_turn_between_steps_and_obeys_a_cancel_while_it_waits(
    image: EngineProcess, folder: Path, turn: Turn, cancelled: bool
) -> None:
    request = ImageRequest(prompt="a red circle", seed=1, steps=200 if cancelled else 8)
    run = image.start(request, str(folder / "out.png"))
    image.wait(lambda: image.answers[run].deltas)
    take(turn)
    waits(image, 2)
    if cancelled:
        image.cancel(run)
        assert isinstance(image.answer(run).ending, RunCancelled)
    else:
        assert not image.answers[run].endings
    turn.give()
    if not cancelled:
        assert image.answer(run).image_facts.steps == 8
    assert free(turn), "it has no work"


# ── blocks ──


class Block(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def __call__(self, x: mx.array, more: mx.array | None = None) -> tuple[mx.array, mx.array | None]:
        return self.linear(x), more


class Model(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.blocks = [Block() for _ in range(3)]
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.single = [Block()]

    def __call__(self, x: mx.array) -> mx.array:
        for block in (*self.blocks, *self.single):
            x, _ = block(x)
        out: mx.array = self.inner(x)
        return out


def test_every_block_is_followed_by_a_place_to_stop_and_computes_what_it_did() -> None:
    model, x = Model(), mx.ones((2, 4))
    before = model(x)
    names = sorted(name for name, _ in tree_flatten(model.parameters()))
    stops = 0

    def stop() -> None:
        nonlocal stops
        stops += 1

    assert after_each_block(model, stop) == 5
    assert mx.array_equal(model(x), before)
    assert stops == 5
    assert sorted(name for name, _ in tree_flatten(model.parameters())) == names
    assert isinstance(model.blocks[0], Block)


def test_there_is_a_place_to_stop_between_the_parts_of_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VAEBlockDecoder, "_evaluated", staticmethod(VAEBlockDecoder._evaluated))  # put back afterwards
    vae = Flux2VAE(decoder_block_out_channels=(32, 32))
    vae.decode_mode = VAEBlockDecoder.LOW_MEMORY
    before = vae.decode(mx.ones((1, 32, 4, 4)))
    stops: list[None] = []
    after_each_part_of_decoding(lambda: stops.append(None))
    assert mx.array_equal(vae.decode(mx.ones((1, 32, 4, 4))), before)
    assert len(stops) > 10


def test_an_exception_at_a_place_to_stop_leaves_the_model() -> None:
    model = Model()

    def leave() -> None:
        raise KeyboardInterrupt

    after_each_block(model, leave)
    with pytest.raises(KeyboardInterrupt):
        model(mx.ones((2, 4)))
