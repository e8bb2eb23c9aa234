"""One engine process: started, spoken to over its private pipe, ended with its whole process group.

No engine outlives its node. The engine exits when its stdin ends; where it cannot (stopped, inside C code) a sitter,
a shell that waits for the node's end of a pipe to close, kills the engine's process group. The sitter is a member of
that group, so the group's number cannot pass to strangers while the sitter lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process, SubprocessStreamProtocol
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from herd_mcp import pipe

log = logging.getLogger(__name__)

WORKER: tuple[str, ...] = (sys.executable, "-P", "-m", "herd_mcp.engines.worker")
"""The command that becomes an engine. The one place where a test puts an engine that misbehaves."""
SITTER = 'read g; cat >/dev/null; kill -9 -"$g"'
LAST_WORDS_LINES = 12
EXIT_S = 1.0
"""How long a process may take to exit after it closed its pipe; then it is killed."""
REAP_S = 10.0
"""How long the system may take to deliver a killed process before the log says so."""


class RunningEngine(Protocol):
    """What a node asks of an engine, be it a process or a scripted one."""

    pid: int

    def send(self, command: pipe.Load | pipe.Start | pipe.Cancel | pipe.Limit) -> None: ...

    def end(self, reason: str) -> None: ...

    async def run(self) -> str: ...


StartProcess = Callable[[pipe.EngineSpec, Callable[[pipe.Message], None], Path], Awaitable[RunningEngine]]
"""As `EngineProcess.start`."""


class _Death(SubprocessStreamProtocol):
    """Tells when the process itself is gone. asyncio's `wait` also waits for the ends of its pipes, which a forked
    child may hold open for ever."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=pipe.MAX_MESSAGE_BYTES, loop=loop)
        self.told = asyncio.Event()

    def process_exited(self) -> None:
        self.told.set()
        super().process_exited()


class EngineProcess:
    """A running engine. `on_message` is called on the event loop."""

    def __init__(
        self,
        transport: asyncio.SubprocessTransport,
        death: _Death,
        sitter: Process,
        on_message: Callable[[pipe.Message], None],
        spec: pipe.EngineSpec,
    ) -> None:
        self.pid = transport.get_pid()
        self._transport = transport
        self._death = death
        self._process = Process(transport, death, asyncio.get_running_loop())
        self._sitter = sitter
        self._on_message = on_message
        self._name = spec.model
        self._path = spec.path
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS_LINES)
        self._end_reason = ""
        self._over = False

    @classmethod
    async def start(
        cls,
        spec: pipe.EngineSpec,
        on_message: Callable[[pipe.Message], None],
        hub_cache: Path,
    ) -> EngineProcess:
        """Start the process and give it its model to load. `hub_cache`: some image models read parts of other
        repositories there. Raises OSError when it cannot be started."""
        loop = asyncio.get_running_loop()
        transport, death = await loop.subprocess_exec(
            lambda: _Death(loop), *WORKER,
            stdin=PIPE, stdout=PIPE, stderr=PIPE, process_group=0, env=_environment(hub_cache),
        )  # fmt: skip
        pid = transport.get_pid()
        try:
            sitter = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", SITTER, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, process_group=pid
            )
        except BaseException:
            transport.kill()
            transport.close()
            raise
        assert sitter.stdin is not None
        sitter.stdin.write(f"{pid}\n".encode())
        engine = cls(transport, death, sitter, on_message, spec)
        engine.send(pipe.Load(spec=spec))
        return engine

    def send(self, command: pipe.Load | pipe.Start | pipe.Cancel | pipe.Limit) -> None:
        """Queue a command on the pipe. A dead engine takes nothing: its exit is reported by `run`."""
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(pipe.COMMAND.dump_json(command, ensure_ascii=True) + b"\n")

    def end(self, reason: str) -> None:
        """Kill the process group. `run` returns soon after."""
        self._end_reason = self._end_reason or reason
        self._kill_group()

    async def run(self) -> str:
        """Pass on every message until the process is gone; returns why it ended, as part of a sentence.

        Returns only then: as long as the system has not let go of the process, it holds its memory.
        """
        errors = asyncio.create_task(self._read_errors())
        messages = asyncio.create_task(self._read_messages())
        death = asyncio.create_task(self._death.told.wait())
        try:
            await asyncio.wait({messages, death}, return_when=asyncio.FIRST_COMPLETED)
            if not death.done():
                await asyncio.wait({death}, timeout=EXIT_S)
            if not death.done():
                self.end("it closed its pipe and did not exit")
            await self._dead()
            # Its last words may still lie in the pipes. A child that left the group may hold them open for ever.
            await asyncio.wait({messages, errors}, timeout=EXIT_S)
            if messages.done():
                messages.result()
            why = self._why(self._process.returncode or 0)
        finally:
            self.end("the node ended it")
            await self._dead()
            for task in (errors, messages, death):
                task.cancel()
            await asyncio.wait({errors, messages, death})
            self._transport.close()
        return why

    async def _dead(self) -> None:
        """Until the process is gone, and with it what it forked into its group."""
        while not self._death.told.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._death.told.wait(), REAP_S)
                break
            log.error("the system has not let go of engine %s, pid %d, for %.0f s", self._name, self.pid, REAP_S)
        self._kill_group()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._sitter.wait(), REAP_S)
        self._over = True

    def _kill_group(self) -> None:
        if self._over:
            return  # the group's number may be somebody else's by now
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _read_messages(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:
                self.end("it sent a line longer than the pipe allows")
                return
            if not line.endswith(b"\n"):
                return  # the end, perhaps in the middle of a line: how the process died says more
            try:
                message = pipe.MESSAGE.validate_json(line)
            except ValidationError:
                log.error("engine %s sent what is not a message: %r", self._name, line[:200])
                self.end("it sent garbage on its pipe")
                return
            try:
                self._on_message(message)
            except Exception:
                self.end("the node made a mistake with what it said")
                raise

    async def _read_errors(self) -> None:
        """The engine's stderr, where libraries print, goes to the log in bounded pieces."""
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(8192):
            for line in data.decode(errors="replace").splitlines():
                if line.strip():
                    self._last_words.append(line.strip()[:500])
                    log.info("engine %s: %s", self._name, line.rstrip()[:500])

    def _why(self, code: int) -> str:
        if self._end_reason:
            return self._end_reason
        # Nobody who asks from outside shall learn where the model lies.
        last = f" ({self._last_words[-1].replace(self._path, self._name)})" if self._last_words else ""
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"it was killed by {signal.Signals(-code).name}{last}"
        return f"it exited with {code}{last}"


def _environment(hub_cache: Path) -> dict[str, str]:
    """What the engine inherits. It never downloads: pulling is the node's business, behind the gate."""
    return {
        **os.environ,
        "HF_HUB_CACHE": str(hub_cache),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
