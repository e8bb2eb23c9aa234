"""The engine process itself: how it starts, what it survives, how it ends."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from herd_mcp.engines.engine import Engine
from herd_mcp.engines.worker import Outbox, Worker
from herd_mcp.jobs import ErrorCode
from herd_mcp.pipe import Cancel, EngineSpec, Limit, LoadFailed, LoadingNow, Ready, RunFailed
from tests.engines.pipe_client import EngineProcess, ask_chat
from tests.engines.scripted_model import build

BUILTIN = Path(__file__).parents[2] / "herd_mcp" / "builtin" / "herd-tiny-chat"


def spec(folder: Path, *, trust: bool = True) -> EngineSpec:
    return EngineSpec(kind="chat", model="m", path=str(folder), trust_remote_code=trust)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path / "log") as process:
        yield process


@pytest.mark.parametrize("loaded", [False, True])
def test_it_ends_when_its_stdin_ends(process: EngineProcess, tmp_path: Path, loaded: bool) -> None:
    if loaded:
        process.load(spec(build(tmp_path / "model")))
        run = process.start(ask_chat("SAY:" + "x" * 3000))
        process.wait(lambda: process.answers[run].deltas)
    assert process.process.stdin is not None
    process.process.stdin.close()
    began = time.monotonic()
    assert process.process.wait(10) == 0
    assert time.monotonic() - began < 2


def test_it_ends_when_nobody_reads_it_any_more(process: EngineProcess, tmp_path: Path) -> None:
    process.load(spec(build(tmp_path / "model")))
    process.stop_reading = True
    process.start(ask_chat("SAY:" + "x" * 3000))
    assert process.process.wait(20) == 0


def test_garbage_is_a_line_in_the_log_and_nothing_else(process: EngineProcess, tmp_path: Path) -> None:
    process.send_line(b"not json at all")
    process.load(spec(build(tmp_path / "model")))
    for line in (
        b"",
        b"{}",
        b'{"op": "dance"}',
        b"\xff\xfe\x00",
        b'{"op": "start", "run": 7}',
        b'{"op": "cancel", "run": 99}',
    ):
        process.send_line(line)
    assert process.ask(ask_chat("SAY:still here")).text == "still here"
    log = process.log.read_text()
    assert log.count("not a command") == 6
    assert "dance" in log
    assert isinstance(process.answers[7].ending, RunFailed), "a run that was asked for has an ending"


def test_a_second_load_and_a_run_number_in_use_are_ignored(process: EngineProcess, tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    process.load(spec(folder))
    run = process.start(ask_chat("SAY:" + "x" * 100))
    process.send_line(json.dumps({"op": "start", "run": run, "request": ask_chat("SAY:y").model_dump()}).encode())
    process.send_line(json.dumps({"op": "load", "spec": spec(folder).model_dump()}).encode())
    assert process.answer(run).text == "x" * 100
    assert process.ask(ask_chat("SAY:z")).text == "z"
    assert "second load" in process.log.read_text()


def test_ready_comes_after_progress_and_after_one_token(process: EngineProcess, tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    ready = process.load(spec(folder))
    assert ready.context_tokens == 4096
    assert ready.weights_bytes == 4
    fractions = [message.fraction for message in process.messages if isinstance(message, LoadingNow)]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert isinstance(process.messages[-1], Ready)


def test_a_conversation_is_held_to_the_nodes_limit_where_that_is_less(process: EngineProcess, tmp_path: Path) -> None:
    limited = spec(build(tmp_path / "model")).model_copy(update={"context_tokens": 100})
    assert process.load(limited).context_tokens == 100
    refused = process.ask(ask_chat("x" * 120)).error
    assert (refused.code, refused.details["context_tokens"]) == (ErrorCode.INVALID_REQUEST, 100)
    assert process.ask(ask_chat("SAY:z", max_tokens=90)).text == "z"


def test_a_model_that_cannot_say_a_token_is_never_ready(process: EngineProcess, tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    source = (folder / "scripted.py").read_text()
    (folder / "scripted.py").write_text(source.replace("batch, length = x.shape", "raise RuntimeError('broken')"))
    failed = process.try_load(spec(folder))
    assert isinstance(failed, LoadFailed)
    assert "broken" in failed.error.message
    assert process.process.wait(10) == 1


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _index_names_more(folder: Path) -> None:
    names = {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize(
    ("breakage", "named"),
    [
        (_without("config.json"), "config.json"),
        (_without("tokenizer.json"), "tokenizer.json"),
        (_cut, "model.safetensors is cut short"),
        (_index_names_more, "model-00001-of-00002.safetensors"),
        (shutil.rmtree, "its folder is not there any more"),
    ],
)
def test_a_broken_folder_is_refused_with_what_is_missing(
    process: EngineProcess, tmp_path: Path, breakage: Callable[[Path], None], named: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BUILTIN, folder)
    breakage(folder)
    failed = process.try_load(spec(folder, trust=False))
    assert isinstance(failed, LoadFailed)
    assert failed.error.code == ErrorCode.MODEL_INCOMPLETE
    assert named in failed.error.message
    assert process.process.wait(10) == 1


def test_code_in_a_model_folder_is_not_run_unless_the_spec_trusts_it(process: EngineProcess, tmp_path: Path) -> None:
    failed = process.try_load(spec(build(tmp_path / "model"), trust=False))
    assert isinstance(failed, LoadFailed)
    assert failed.error.code == ErrorCode.KIND_NOT_SUPPORTED
    assert "custom" in failed.error.message


def test_an_unknown_architecture_is_named(process: EngineProcess, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BUILTIN, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no_such_thing"}))
    failed = process.try_load(spec(folder, trust=False))
    assert isinstance(failed, LoadFailed)
    assert failed.error.code == ErrorCode.KIND_NOT_SUPPORTED
    assert "no_such_thing" in failed.error.message


def test_a_step_that_raises_fails_every_run_once_and_ends_the_process(process: EngineProcess, tmp_path: Path) -> None:
    process.load(spec(build(tmp_path / "model")))
    innocent = process.start(ask_chat("SAY:" + "x" * 3000))
    process.wait(lambda: process.answers[innocent].deltas)
    guilty = process.start(ask_chat("RAISE"))
    for run in (innocent, guilty):
        error = process.answer(run).error
        assert error.code == ErrorCode.ENGINE_CRASHED
        assert "the script says so" in error.message
        assert error.retryable
    assert process.process.wait(10) == 1


def test_what_libraries_print_does_not_reach_the_pipe(process: EngineProcess, tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    with (folder / "scripted.py").open("a") as file:
        file.write('\nimport os, sys\nprint("printed")\nos.write(1, b"written")\nassert sys.stdin.read() == ""\n')
    process.load(spec(folder))
    assert process.ask(ask_chat("SAY:clean")).text == "clean"
    log = process.log.read_text()
    assert "printed" in log
    assert "written" in log


def test_an_engine_without_work_rests_and_then_goes_on_waiting() -> None:
    worker = Worker(io.BytesIO(), Outbox(0))

    class Resting:
        def limit(self, limit: Limit) -> None: ...

        def rest(self) -> None:
            worker._inbox.put(Cancel(run=7))

    assert worker._await_command(cast(Engine, Resting())) == Cancel(run=7)
