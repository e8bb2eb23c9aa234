"""The child process around one engine: `python -m herd_mcp.engines.worker`.

Commands come as JSON lines on stdin, messages leave as JSON lines on a private copy of stdout, both defined in
`herd_mcp.pipe`. The first command is Load; the answer is LoadingNow …, then Ready or LoadFailed.
While another engine computes, WaitingForTurn comes between.

Three threads. The reader parses commands and ends the process the moment stdin ends, so that no engine outlives its
node. The preparer validates, renders and tokenises requests, one after the other. The main thread owns MLX: it loads,
admits, steps and frees. Every run that was started ends in exactly one of Done, RunFailed, RunCancelled.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import os
import queue
import signal
import sys
import threading
import traceback
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from pydantic import ValidationError

from herd_mcp.engines import errors
from herd_mcp.engines.engine import Engine
from herd_mcp.engines.runs import Runs
from herd_mcp.engines.turns import Turn
from herd_mcp.jobs import ErrorCode, ErrorInfo, HerdError, Kind
from herd_mcp.pipe import (
    COMMAND,
    LOADING_STEP,
    MAX_LINE_BYTES,
    Cancel,
    Done,
    EngineSpec,
    Limit,
    Load,
    LoadFailed,
    LoadingNow,
    Message,
    RunCancelled,
    RunFailed,
    Start,
    WaitingForTurn,
)

log = logging.getLogger("herd_mcp.engine")

REPORT_EVERY_S = 1.0
"""How often an engine says that it waits for its turn; sooner where the node's patience is short."""

REST_AFTER_S = 1.0
"""How long an engine without work keeps the memory that only makes the next request quicker."""

EXIT_ENDED = 0
"""The node closed the pipe."""
EXIT_FAILED = 1
"""The model did not load, or a step raised."""


class Outbox:
    """The way out. One write per line; blocks while the node reads slowly."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        line = memoryview(message.model_dump_json(ensure_ascii=True).encode("ascii") + b"\n")
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._fd, line) :]
            except BrokenPipeError:
                os._exit(EXIT_ENDED)


class Worker:
    """One engine with its threads and queues."""

    def __init__(self, commands: BinaryIO, outbox: Outbox) -> None:
        self._commands = commands
        self._outbox = outbox
        self._runs = Runs(outbox.send)
        self._loads: queue.SimpleQueue[Load] = queue.SimpleQueue()
        self._unprepared: queue.SimpleQueue[Start] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[tuple[Start, Any] | Cancel | None] = queue.SimpleQueue()
        """None only wakes the main thread."""
        self._limits: deque[Limit] = deque()
        self._engine: Engine | None = None
        self._turn: Turn

    def run(self) -> NoReturn:
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        engine = self._load(self._loads.get())
        self._engine = engine
        threading.Thread(target=self._prepare, args=(engine,), name="preparer", daemon=True).start()
        self._serve(engine)

    # ── main thread ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _load(self, load: Load) -> Engine:
        told = -1.0

        def report(fraction: float) -> None:
            nonlocal told
            if fraction >= told + LOADING_STEP:
                told = fraction
                self._outbox.send(LoadingNow(fraction=min(1.0, fraction)))
            self._turn.offer()

        try:
            from herd_mcp.engines import memory  # and MLX with it, which takes long: the reader listens meanwhile

            self._turn = make_turn(load.spec, self._outbox)
            memory.set_limits(load.spec)
            report(0.0)
            engine = make_engine(load.spec.kind, self._turn)
            ready = engine.load(load.spec, report)
            gc.freeze()  # else each full collection looks through all that libraries hold, beside a running step
        except HerdError as error:
            self._end_unloaded(load, error.info)
        except Exception as error:
            traceback.print_exc()
            self._end_unloaded(load, errors.of_load(error, load.spec.model))
        self._outbox.send(ready)
        return engine

    def _end_unloaded(self, load: Load, error: ErrorInfo) -> NoReturn:
        # Libraries put the folder into their words; it is nobody's business who asks from outside.
        words = error.message.replace(load.spec.path, load.spec.model)
        self._outbox.send(LoadFailed(error=error.model_copy(update={"message": words})))
        _end(EXIT_FAILED)

    def _serve(self, engine: Engine) -> NoReturn:
        busy = False
        while True:
            while busy and self._inbox.empty():
                busy = self._step(engine)
            self._obey(engine, self._await_command(engine))
            busy = True

    def _await_command(self, engine: Engine) -> tuple[Start, Any] | Cancel | None:
        with contextlib.suppress(queue.Empty):
            return self._inbox.get(timeout=REST_AFTER_S)
        engine.rest()
        return self._inbox.get()

    def _obey(self, engine: Engine, command: tuple[Start, Any] | Cancel | None) -> None:
        self._keep_to_limits(engine)
        if command is None:
            return
        if isinstance(command, Cancel):
            engine.cancel(command.run)
            return
        start, prepared = command
        if not self._runs.admit(start.run):
            return
        try:
            engine.admit(start, prepared)
        except Exception as error:
            self._runs.emit(RunFailed(run=start.run, error=errors.of_request(error)))

    def _step(self, engine: Engine) -> bool:
        """One piece of work, in our turn. False when there is none."""
        try:
            if not engine.settle(self._emit):
                self._turn.give()
                return False
            if self._turn.take(enough=lambda: not self._inbox.empty()):  # a cancel is obeyed while we wait
                engine.step(self._emit)
                if self._turn.due():
                    self._turn.give()
            return True
        except Exception as error:
            traceback.print_exc()
            self._runs.fail_all(error)
            _end(EXIT_FAILED)

    def _emit(self, message: Message) -> None:
        if isinstance(message, (Done, RunFailed, RunCancelled)) and self._runs.is_last(message.run):
            # The node watches an engine only while it has runs: one without may not keep others waiting.
            self._turn.give()
        self._runs.emit(message)
        if self._engine is not None:  # an image is one step, and a limit may not wait for its end
            self._keep_to_limits(self._engine)

    def _keep_to_limits(self, engine: Engine) -> None:
        while self._limits:
            engine.limit(self._limits.popleft())

    # ── other threads ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _prepare(self, engine: Engine) -> None:
        while True:
            start = self._unprepared.get()
            try:
                prepared = engine.prepare(start)
            except Exception as error:
                self._runs.emit(RunFailed(run=start.run, error=errors.of_request(error)))
            else:
                self._inbox.put((start, prepared))

    def _read(self) -> None:
        try:
            loaded = False
            while line := self._commands.readline(MAX_LINE_BYTES + 1):
                if not line.endswith(b"\n") and len(line) > MAX_LINE_BYTES:
                    _skip_line(self._commands)
                    log.error("a command is longer than %d bytes; ignored", MAX_LINE_BYTES)
                    continue
                command = self._parse(line)
                if isinstance(command, Load):
                    if loaded:
                        log.error("a second load; ignored, this process serves one model")
                        continue
                    loaded = True
                    self._loads.put(command)
                elif isinstance(command, Start):
                    self._start(command)
                elif isinstance(command, Cancel):
                    self._cancel(command)
                elif isinstance(command, Limit):
                    self._limits.append(command)
                    self._inbox.put(None)
        except BaseException:
            traceback.print_exc()
            _end(EXIT_FAILED)
        _end(EXIT_ENDED)

    def _parse(self, line: bytes) -> Load | Start | Cancel | Limit | None:
        try:
            return COMMAND.validate_json(line)
        except ValidationError as error:
            what = "; ".join(problem["msg"] for problem in error.errors(include_input=False, include_url=False)[:3])
            log.error("not a command, ignored (%d bytes): %s", len(line), what)
            self._fail_unreadable(line, what)
            return None

    def _fail_unreadable(self, line: bytes, what: str) -> None:
        """A start that cannot be read but has a number still gets its ending."""
        try:
            command = json.loads(line)
            run = command["run"] if command["op"] == "start" else None
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if isinstance(run, int) and self._runs.open(run):
            error = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message=f"The engine cannot read the request: {what}.")
            self._runs.emit(RunFailed(run=run, error=error))

    def _start(self, start: Start) -> None:
        if self._runs.open(start.run):
            self._unprepared.put(start)
        else:
            log.error("run %d is open already; the second start is ignored", start.run)

    def _cancel(self, cancel: Cancel) -> None:
        if not self._runs.cancel_waiting(cancel.run):
            return
        # Twice, in this order: the direct call reaches an engine in the middle of a long step, the queued one an
        # engine whose `admit` had not returned yet.
        self._inbox.put(cancel)
        if self._engine is not None:
            self._engine.cancel(cancel.run)


# ── Small parts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def make_turn(spec: EngineSpec, outbox: Outbox) -> Turn:
    import mlx.core as mx

    return Turn(
        Path(spec.turns) if spec.turns else None,
        flush=mx.synchronize,
        report=lambda waited_s: outbox.send(WaitingForTurn(waited_s=waited_s)),
        report_every_s=min(REPORT_EVERY_S, spec.stall_s / 4),
    )


def make_engine(kind: Kind, turn: Turn) -> Engine:
    """Import the one engine that is needed; each takes seconds and hundreds of megabytes."""
    import mlx.core as mx

    if mx.default_device().type == mx.DeviceType.cpu:
        # Without a GPU `mx.compile` calls the machine's C++ compiler, which may be absent and costs seconds when not.
        mx.disable_compile()
    if kind == "chat":
        from herd_mcp.engines.chat import ChatEngine

        return ChatEngine(turn)
    from herd_mcp.engines.image import ImageEngine

    return ImageEngine(turn)


def _skip_line(commands: BinaryIO) -> None:
    while (part := commands.readline(1 << 20)) and not part.endswith(b"\n"):
        pass


def _end(code: int) -> NoReturn:
    """End at once: no destructors, which could wait for a GPU or a lock."""
    sys.stderr.flush()
    os._exit(code)


def main() -> NoReturn:
    """Take stdin and stdout for the node alone: what libraries print goes to the log, and they read nothing."""
    events = os.dup(1)
    commands = os.dup(0)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for fd in (events, commands):
        os.set_inheritable(fd, False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Ctrl-C in a terminal reaches every process of the group; the node decides when an engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # An engine loads what lies on the disk; it never downloads.
    os.environ["HF_HUB_OFFLINE"] = "1"
    Worker(os.fdopen(commands, "rb"), Outbox(events)).run()


if __name__ == "__main__":
    main()
