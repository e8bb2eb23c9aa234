"""A real engine process, driven over its real pipes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from herd_mcp.jobs import ChatRequest, ErrorInfo, Request, Sampling, ToolCall
from herd_mcp.pipe import (
    MESSAGE,
    Cancel,
    ChatFacts,
    Done,
    EngineSpec,
    ImageFacts,
    Limit,
    Load,
    LoadFailed,
    LoadingNow,
    Message,
    Ready,
    RunCancelled,
    RunDelta,
    RunFailed,
    Start,
    Step,
    WaitingForTurn,
)

LIMIT_S = 60.0
WORKER = (sys.executable, "-m", "herd_mcp.engines.worker")
_T = TypeVar("_T")


@dataclass
class Answer:
    """Everything that one run brought."""

    deltas: list[RunDelta] = field(default_factory=list)
    endings: list[Done | RunFailed | RunCancelled] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def reasoning(self) -> str:
        return "".join(delta.reasoning for delta in self.deltas)

    @property
    def tool_calls(self) -> list[ToolCall]:
        return [call for delta in self.deltas for call in delta.tool_calls]

    @property
    def ending(self) -> Done | RunFailed | RunCancelled:
        (ending,) = self.endings
        return ending

    @property
    def facts(self) -> ChatFacts:
        assert isinstance(self.ending, Done), self.ending
        assert isinstance(self.ending.facts, ChatFacts)
        return self.ending.facts

    @property
    def image_facts(self) -> ImageFacts:
        assert isinstance(self.ending, Done), self.ending
        assert isinstance(self.ending.facts, ImageFacts)
        return self.ending.facts

    @property
    def error(self) -> ErrorInfo:
        assert isinstance(self.ending, RunFailed), self.ending
        return self.ending.error


class EngineProcess:
    """A worker with a reader thread. Use as a context manager."""

    def __init__(self, log: Path, command: Sequence[str] = WORKER) -> None:
        self.messages: list[Message] = []
        self.answers: dict[int, Answer] = {}
        self.log = log
        self.stop_reading = False
        """Set it to close our end of the engine's messages at the next line."""
        self._changed = threading.Condition()
        self._closed = False
        self._next_run = 0
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={key: value for key, value in os.environ.items() if key != "MLX_DISABLE_COMPILE"},
            )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.process.wait()
            self._thread.join()

    def send_line(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def load(self, spec: EngineSpec) -> Ready:
        """Load and wait for readiness; the spec's failure to load is an AssertionError."""
        ending = self.try_load(spec)
        assert isinstance(ending, Ready), (ending, self.log.read_text())
        return ending

    def try_load(self, spec: EngineSpec) -> Ready | LoadFailed:
        self.send_line(Load(spec=spec).model_dump_json().encode())
        self.wait(lambda: any(isinstance(message, (Ready, LoadFailed)) for message in self.messages))
        return next(message for message in self.messages if isinstance(message, (Ready, LoadFailed)))

    def start(self, request: Request, spool: str = "", tokens: int = 0) -> int:
        run = self._next_run
        self._next_run += 1
        with self._changed:
            self.answers[run] = Answer()
        self.send_line(Start(run=run, request=request, spool=spool, tokens=tokens).model_dump_json().encode())
        return run

    def cancel(self, run: int) -> None:
        self.send_line(Cancel(run=run).model_dump_json().encode())

    def limit(self, prompt_cache_bytes: int, memory_limit_bytes: int = 0) -> None:
        limit = Limit(prompt_cache_bytes=prompt_cache_bytes, memory_limit_bytes=memory_limit_bytes)
        self.send_line(limit.model_dump_json().encode())

    def answer(self, run: int) -> Answer:
        """The whole answer, once it has ended."""
        self.wait(lambda: self.answers[run].endings)
        return self.answers[run]

    def ask(self, request: Request, tokens: int = 0) -> Answer:
        return self.answer(self.start(request, tokens=tokens))

    def wait(self, condition: Callable[[], _T]) -> _T:
        """Until `condition` holds; an AssertionError when the process ends before or LIMIT_S pass."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition() or self._closed, LIMIT_S), "waited too long"
            result = condition()
        assert result, f"the engine ended; its log: {self.log.read_text()}"
        return result

    def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                if self.stop_reading:
                    break
                assert line.isascii()
                with self._changed:
                    self._take(MESSAGE.validate_json(line))
                    self._changed.notify_all()
        finally:
            self.process.stdout.close()
            with self._changed:
                self._closed = True
                self._changed.notify_all()

    def _take(self, message: Message) -> None:
        self.messages.append(message)
        if isinstance(message, Step):
            assert len({delta.run for delta in message.runs}) == len(message.runs), "one delta per run and step"
            for delta in message.runs:
                answer = self.answers[delta.run]
                assert not answer.endings, "a delta after the end"
                answer.deltas.append(delta)
        elif not isinstance(message, (LoadingNow, Ready, LoadFailed, WaitingForTurn)):
            self.answers.setdefault(message.run, Answer()).endings.append(message)


def ask_chat(text: str, **fields: Any) -> ChatRequest:
    """A request with one user message; `sampling` may be given as a dict."""
    messages = fields.pop("messages", ({"role": "user", "content": text},))
    sampling = Sampling.model_validate(fields.pop("sampling", {}))
    return ChatRequest.model_validate({"messages": messages, "sampling": sampling, **fields})
