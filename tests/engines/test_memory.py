"""What an engine may hold and what it says that it holds, in real worker processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from herd_mcp.engines.errors import out_of_memory
from herd_mcp.engines.memory import set_limits
from herd_mcp.jobs import ErrorCode, ImageRequest, Kind
from herd_mcp.pipe import Done, EngineSpec, LoadFailed, Ready
from herd_mcp.settings import GIB, MIB
from tests.engines import scripted_model
from tests.engines.pipe_client import Answer, EngineProcess, ask_chat

BUILTIN = Path(__file__).parents[2] / "herd_mcp" / "builtin"
TESTS = Path(__file__).parents[1]


def spec(kind: Kind, **fields: object) -> EngineSpec:
    name = f"herd-tiny-{kind}"
    given = {"kind": kind, "model": name, "path": str(BUILTIN / name), "family": "builtin", **fields}
    return EngineSpec.model_validate(given)


def counting(folder: Path) -> EngineProcess:
    worker = str(TESTS / "engines" / "counting_worker.py")
    return EngineProcess(folder / "log", (sys.executable, worker, str(folder / "set")))


def failing(folder: Path, point: str) -> EngineProcess:
    worker = str(TESTS / "faults" / "worker.py")
    return EngineProcess(folder / "log", (sys.executable, worker, str(folder), point, "MEMORY"))


@dataclass(frozen=True)
class Counted:
    """An engine on a device with a wired limit, and its readiness."""

    folder: Path
    engine: EngineProcess
    ready: Ready

    def limits_set(self) -> list[str]:
        return (self.folder / "set").read_text().splitlines()

    def draw(self, **fields: Any) -> Answer:
        run = self.engine.start(ImageRequest(prompt="a red circle", **fields), str(self.folder / "image"))
        return self.engine.answer(run)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    folder = tmp_path_factory.mktemp("chat")
    path = str(scripted_model.build(folder / "model"))
    with counting(folder) as engine:
        ready = engine.load(spec("chat", path=path, trust_remote_code=True, prompt_cache_bytes=MIB))
        yield Counted(folder, engine, ready)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    folder = tmp_path_factory.mktemp("image")
    with counting(folder) as engine:
        yield Counted(folder, engine, engine.load(spec("image", cache_limit_bytes=MIB)))


# ── Limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_limit_takes_the_kept_conversations_while_a_chat_goes_on(chat: Counted) -> None:
    engine = chat.engine
    again = ask_chat("SAY:" + "kept " * 20)
    engine.ask(again)
    assert engine.ask(again).facts.cached_tokens > 0
    long = engine.start(ask_chat("SAY:" + "x" * 2000))
    engine.wait(lambda: engine.answers[long].deltas)
    engine.limit(0, GIB)
    engine.wait(chat.limits_set)
    beside = engine.ask(again).facts
    assert beside.cached_tokens == 0
    assert beside.peak is not None
    assert beside.peak.prompt_cache_bytes == 0
    assert not engine.answers[long].endings
    engine.limit(MIB)  # and back
    assert engine.answer(long).text == "x" * 2000
    engine.ask(again)
    assert engine.ask(again).facts.cached_tokens > 0
    assert chat.limits_set() == [f"set_memory_limit {GIB}"]


def test_a_limit_does_not_wait_for_the_end_of_an_image(image: Counted) -> None:
    engine = image.engine
    run = engine.start(ImageRequest(prompt="a red circle", steps=200), str(image.folder / "image"))
    engine.wait(lambda: any(delta.step == 1 for delta in engine.answers[run].deltas))
    engine.limit(0, GIB)
    engine.wait(lambda: image.limits_set()[1:])
    assert not engine.answers[run].endings
    engine.cancel(run)
    engine.answer(run)
    assert image.limits_set() == [f"set_cache_limit {MIB}", f"set_memory_limit {GIB}"]


def test_no_engine_wires_memory_when_it_loads_and_works(chat: Counted, image: Counted) -> None:
    chat.engine.ask(ask_chat("SAY:hello"))
    assert isinstance(image.draw(steps=1).ending, Done)
    assert "wired" not in "".join(chat.limits_set() + image.limits_set())


def test_memory_is_wired_once_when_the_spec_says_so_and_all_limits_are_set_before_the_model_is_read(
    tmp_path: Path,
) -> None:
    with counting(tmp_path) as engine:
        limits = {"memory_limit_bytes": 2 * GIB, "cache_limit_bytes": 0, "wired_limit_bytes": GIB}
        assert isinstance(engine.try_load(spec("chat", path="/nowhere", **limits)), LoadFailed)
    expected = [f"set_memory_limit {2 * GIB}", "set_cache_limit 0", f"set_wired_limit {GIB}"]
    assert (tmp_path / "set").read_text().splitlines() == expected


@pytest.mark.parametrize(
    ("device", "wired", "told"),
    [
        ({}, [], "has no such limit"),
        ({"max_recommended_working_set_size": 2 * GIB}, [GIB], ""),
        ({"max_recommended_working_set_size": MIB}, [MIB], ""),
    ],
    ids=["no limit", "room", "less than asked"],
)
def test_no_more_is_wired_than_the_device_allows(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: dict[str, int],
    wired: list[int],
    told: str,
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(mx, "device_info", lambda: device)
    monkeypatch.setattr(mx, "set_wired_limit", calls.append)
    set_limits(spec("chat", wired_limit_bytes=GIB))
    assert calls == wired
    assert told in caplog.text
    assert bool(caplog.text) is bool(told)


# ── What it holds ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_ready_engine_says_what_it_holds(tmp_path: Path, image: Counted) -> None:
    with EngineProcess(tmp_path / "log") as engine:
        readies = {"chat": engine.load(spec("chat")), "image": image.ready}
    for kind, ready in readies.items():
        files = (BUILTIN / f"herd-tiny-{kind}").rglob("*.safetensors")
        in_files = sum(file.stat().st_size for file in files)
        assert ready.weights_bytes == pytest.approx(in_files, rel=0.02)
        assert ready.weights_bytes <= ready.active_bytes <= ready.weights_bytes + MIB / 2
        assert ready.peak_bytes > ready.active_bytes
        assert (ready.cache is not None) is (kind == "chat")


def test_a_chat_tells_the_most_that_the_engine_worked_on_since_it_had_nothing_to_do(chat: Counted) -> None:
    engine = chat.engine
    long = engine.start(ask_chat("SAY:" + "x" * 1500))
    engine.wait(lambda: engine.answers[long].deltas)
    first = engine.ask(ask_chat("SAY:" + "y" * 300)).facts
    last = engine.answer(long).facts
    alone = engine.ask(ask_chat("SAY:z")).facts
    assert first.peak is not None
    assert last.peak is not None
    assert alone.peak is not None
    assert (first.peak.rows, last.peak.rows, alone.peak.rows) == (2, 2, 1)
    assert first.peak.tokens > first.prompt_tokens + first.completion_tokens
    for facts in (last, alone):
        assert facts.peak is not None
        assert facts.peak.tokens == facts.prompt_tokens + facts.completion_tokens
        assert facts.peak.peak_bytes > facts.peak.active_bytes > chat.ready.weights_bytes
    assert alone.peak.peak_bytes < last.peak.peak_bytes


def test_an_image_tells_what_it_took_and_not_what_one_before_it_took(image: Counted) -> None:
    peaks = [image.draw(steps=1, width=px, height=px).image_facts.peak for px in (64, 128, 64)]
    first, large, last = (peak.peak_bytes for peak in peaks if peak is not None)
    assert image.ready.active_bytes < first < large > last
    assert last == pytest.approx(first, rel=0.1)


# ── Grants ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_ends_where_its_memory_does(chat: Counted) -> None:
    engine = chat.engine
    request = ask_chat("SAY:" + "x" * 100)
    whole = engine.ask(request)
    assert (whole.text, whole.facts.finish_reason) == ("x" * 100, "stop")
    prompt_tokens = whole.facts.prompt_tokens
    cut = engine.ask(request, tokens=prompt_tokens + 7)
    assert (cut.text, cut.facts.finish_reason) == ("x" * 7, "length")
    assert engine.ask(ask_chat("SAY:" + "x" * 100, max_tokens=5), tokens=prompt_tokens + 7).text == "x" * 5
    assert engine.ask(request, tokens=prompt_tokens + 1).text == "x"
    for tokens in (1, prompt_tokens):
        error = engine.ask(request, tokens=tokens).error
        assert error.code is ErrorCode.INSUFFICIENT_MEMORY
        assert error.details == {"prompt_tokens": prompt_tokens}
        assert f"{prompt_tokens} tokens" in error.message


def test_an_answer_of_a_stated_length_is_begun_with_memory_for_all_of_it_or_not_at_all(chat: Counted) -> None:
    engine = chat.engine
    request = ask_chat("SAY:" + "x" * 100, max_tokens=50)
    prompt_tokens = engine.ask(request).facts.prompt_tokens
    assert engine.ask(request, tokens=prompt_tokens + 50).text == "x" * 50
    error = engine.ask(request, tokens=prompt_tokens + 49).error
    assert (error.code, error.details) == (ErrorCode.INSUFFICIENT_MEMORY, {"prompt_tokens": prompt_tokens})


# ── Out of memory ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_step_without_memory_ends_the_engine_and_says_why(tmp_path: Path) -> None:
    with failing(tmp_path, "decode") as engine:
        engine.load(spec("chat"))
        error = engine.ask(ask_chat("Hello there", max_tokens=8)).error
        assert error.code is ErrorCode.ENGINE_CRASHED
        assert error.retryable
        assert "ran out of memory while it worked" in error.message
        assert engine.process.wait(30) == 1


@pytest.mark.parametrize("kind", ["chat", pytest.param("image", marks=pytest.mark.slow)])
def test_a_model_that_memory_does_not_hold_is_not_loaded_and_says_why(tmp_path: Path, kind: Kind) -> None:
    with failing(tmp_path, "load") as engine:
        failed = engine.try_load(spec(kind))
        assert isinstance(failed, LoadFailed)
        assert failed.error.code is ErrorCode.INSUFFICIENT_MEMORY
        assert engine.process.wait(30) == 1


@pytest.mark.slow
def test_an_image_without_memory_fails_alone(tmp_path: Path) -> None:
    with failing(tmp_path, "step") as engine:
        engine.load(spec("image"))
        request = ImageRequest(prompt="a red circle", steps=3)
        error = engine.answer(engine.start(request, str(tmp_path / "image"))).error
        assert error.code is ErrorCode.INSUFFICIENT_MEMORY
        assert isinstance(engine.answer(engine.start(request, str(tmp_path / "image"))).ending, Done)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (RuntimeError("[malloc_or_wait] Unable to allocate 8589934592 bytes."), True),
        (RuntimeError("[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum"), True),
        (RuntimeError("cudaMallocAsync failed: out of memory"), True),
        (MemoryError("std::bad_alloc"), True),
        (RuntimeError("[matmul] Last dimension of first input"), False),
        (ValueError("cannot allocate a name"), False),
    ],
)
def test_only_what_speaks_of_memory_is_out_of_memory(error: Exception, is_memory: bool) -> None:
    assert out_of_memory(error) is is_memory
