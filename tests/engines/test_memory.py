"""What an engine may hold and what it says that it holds, in real worker processes."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import pytest

from herd_mcp.engines.memory import out_of_memory
from herd_mcp.jobs import ErrorCode, ImageRequest, Kind
from herd_mcp.pipe import Done, EngineSpec, LoadFailed
from herd_mcp.settings import GIB, MIB
from tests.engines import scripted_model
from tests.engines.counting_worker import SYSTEM_BYTES
from tests.engines.pipe_client import EngineProcess, ask_chat

BUILTIN = Path(__file__).parents[2] / "herd_mcp" / "builtin"
TESTS = Path(__file__).parents[1]


def spec(kind: Kind, **fields: object) -> EngineSpec:
    name = f"herd-tiny-{kind}"
    given = {"kind": kind, "model": name, "path": str(BUILTIN / name), "family": "builtin", **fields}
    return EngineSpec.model_validate(given)


def scripted(folder: Path, **fields: object) -> EngineSpec:
    path = str(scripted_model.build(folder))
    return spec("chat", path=path, trust_remote_code=True, **fields)


def counting(folder: Path) -> EngineProcess:
    worker = str(TESTS / "engines" / "counting_worker.py")
    return EngineProcess(folder / "log", (sys.executable, worker, str(folder / "set")))


def failing(folder: Path, point: str) -> EngineProcess:
    worker = str(TESTS / "faults" / "worker.py")
    return EngineProcess(folder / "log", (sys.executable, worker, str(folder), point, "MEMORY"))


def limits_set(folder: Path) -> list[str]:
    return (folder / "set").read_text().splitlines()


# ── Limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["chat", "image"])
@pytest.mark.parametrize(
    ("asked", "wired"), [(0, []), (GIB, [GIB]), (2 * SYSTEM_BYTES, [SYSTEM_BYTES])], ids=["none", "some", "too much"]
)
def test_nothing_is_wired_unless_the_spec_says_so(tmp_path: Path, kind: Kind, asked: int, wired: list[int]) -> None:
    with counting(tmp_path) as engine:
        engine.load(spec(kind, wired_limit_bytes=asked))
        request = ask_chat("Hello", max_tokens=4) if kind == "chat" else ImageRequest(prompt="a red circle", steps=1)
        assert isinstance(engine.answer(engine.start(request, str(tmp_path / "image"))).ending, Done)
    assert limits_set(tmp_path) == [f"set_wired_limit {limit}" for limit in wired]


@pytest.mark.skipif(mx.metal.is_available(), reason="this device has a wired limit")
def test_a_device_without_a_wired_limit_says_so_in_the_log(tmp_path: Path) -> None:
    with EngineProcess(tmp_path / "log") as engine:
        engine.load(scripted(tmp_path / "model", wired_limit_bytes=GIB))
        assert engine.ask(ask_chat("SAY:hello")).text == "hello"
    assert (tmp_path / "log").read_text().count("nothing is wired") == 1


def test_the_limits_of_the_spec_are_set_before_anything_is_loaded(tmp_path: Path) -> None:
    with counting(tmp_path) as engine:
        failed = engine.try_load(spec("chat", path="/nowhere", memory_limit_bytes=GIB, cache_limit_bytes=0))
        assert isinstance(failed, LoadFailed)
    assert limits_set(tmp_path) == [f"set_memory_limit {GIB}", "set_cache_limit 0"]


def test_a_limit_takes_the_kept_conversations_while_a_chat_goes_on(tmp_path: Path) -> None:
    with counting(tmp_path) as engine:
        engine.load(scripted(tmp_path / "model", prompt_cache_bytes=MIB))
        again = ask_chat("SAY:" + "kept " * 20)
        engine.ask(again)
        assert engine.ask(again).facts.cached_tokens > 0
        long = engine.start(ask_chat("SAY:" + "x" * 2000))
        engine.wait(lambda: engine.answers[long].deltas)
        engine.limit(0, GIB)
        engine.wait(lambda: limits_set(tmp_path))
        assert not engine.answers[long].endings
        asked_beside = engine.ask(again)
        assert asked_beside.facts.cached_tokens == 0
        assert asked_beside.facts.peak is not None
        assert asked_beside.facts.peak.prompt_cache_bytes == 0
        assert not engine.answers[long].endings
        assert engine.answer(long).text == "x" * 2000
        engine.limit(MIB)  # and back
        engine.ask(again)
        assert engine.ask(again).facts.cached_tokens > 0
    assert limits_set(tmp_path) == [f"set_memory_limit {GIB}"]


def test_a_limit_does_not_wait_for_the_end_of_an_image(tmp_path: Path) -> None:
    with counting(tmp_path) as engine:
        engine.load(spec("image"))
        run = engine.start(ImageRequest(prompt="a red circle", steps=200), str(tmp_path / "image"))
        engine.wait(lambda: any(delta.step == 1 for delta in engine.answers[run].deltas))
        engine.limit(0, GIB)
        engine.wait(lambda: limits_set(tmp_path))
        assert not engine.answers[run].endings
        engine.cancel(run)
        engine.answer(run)
    assert limits_set(tmp_path) == [f"set_memory_limit {GIB}"]


# ── Grants ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_ends_where_its_memory_does(tmp_path: Path) -> None:
    with EngineProcess(tmp_path / "log") as engine:
        engine.load(scripted(tmp_path / "model"))
        request = ask_chat("SAY:" + "x" * 100)
        whole = engine.ask(request)
        assert (whole.text, whole.facts.finish_reason) == ("x" * 100, "stop")
        prompt_tokens = whole.facts.prompt_tokens
        cut = engine.ask(request, tokens=prompt_tokens + 7)
        assert (cut.text, cut.facts.finish_reason) == ("x" * 7, "length")
        assert engine.ask(ask_chat("SAY:" + "x" * 100, max_tokens=5), tokens=prompt_tokens + 7).text == "x" * 5
        for tokens in (1, prompt_tokens):
            error = engine.ask(request, tokens=tokens).error
            assert error.code is ErrorCode.INSUFFICIENT_MEMORY
            assert error.details == {"prompt_tokens": prompt_tokens}
            assert f"{prompt_tokens} tokens" in error.message
        assert engine.ask(request, tokens=prompt_tokens + 1).text == "x"


# ── Out of memory ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_step_without_memory_ends_the_engine_and_says_why(tmp_path: Path) -> None:
    with failing(tmp_path, "decode") as engine:
        engine.load(spec("chat"))
        error = engine.ask(ask_chat("Hello there", max_tokens=8)).error
        assert error.code is ErrorCode.ENGINE_CRASHED
        assert error.retryable
        assert "ran out of memory while it worked" in error.message
        assert engine.process.wait(30) == 1


def test_a_model_that_memory_does_not_hold_is_not_loaded_and_says_why(tmp_path: Path) -> None:
    for kind in ("chat", "image"):
        (tmp_path / kind).mkdir()
        with failing(tmp_path / kind, "load") as engine:
            failed = engine.try_load(spec(kind))
            assert isinstance(failed, LoadFailed)
            assert failed.error.code is ErrorCode.INSUFFICIENT_MEMORY
            assert engine.process.wait(30) == 1


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
