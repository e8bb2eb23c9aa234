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
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from herd_mcp import pipe

log = logging.getLogger(__name__)

SITTER = 'read g; cat >/dev/null; kill -9 -"$g"'
LAST_WORDS_LINES = 12
EXIT_S = 1.0
"""How long a process may take to exit after it closed its pipe; then it is killed."""
REAP_S = 10.0
"""How long the system may take to deliver a killed process."""


class EngineProcess:
    """A running engine. `on_message` and `on_exit` are called on the event loop; `on_exit` once, last."""

    def __init__(
        self, process: Process, sitter: Process, on_message: Callable[[pipe.Message], None], spec: pipe.EngineSpec
    ) -> None:
        self.pid = process.pid
        self._process = process
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
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "herd_mcp.engines.worker",
            stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=pipe.MAX_LINE_BYTES, process_group=0,
            env=_environment(hub_cache),
        )  # fmt: skip
        try:
            sitter = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", SITTER, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, process_group=process.pid
            )
        except BaseException:
            process.kill()
            raise
        assert sitter.stdin is not None
        sitter.stdin.write(f"{process.pid}\n".encode())
        engine = cls(process, sitter, on_message, spec)
        engine.send(pipe.Load(spec=spec))
        return engine

    def send(self, command: pipe.Load | pipe.Start | pipe.Cancel) -> None:
        """Queue a command on the pipe. A dead engine takes nothing: its exit is reported by `run`."""
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(pipe.COMMAND.dump_json(command, ensure_ascii=True) + b"\n")

    def end(self, reason: str) -> None:
        """Kill the process group. `run` returns soon after."""
        if self._over:
            return  # the group's number may be somebody else's by now
        self._end_reason = self._end_reason or reason
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def run(self) -> str:
        """Pass on every message until the process is gone; returns why it ended, as part of a sentence."""
        errors = asyncio.create_task(self._read_errors())
        try:
            await self._read_messages()
            try:
                await asyncio.wait_for(self._process.wait(), EXIT_S)
            except TimeoutError:
                self.end("it closed its pipe and did not exit")
            code = await asyncio.wait_for(self._process.wait(), REAP_S)
            why = self._why(code)
        finally:
            self.end("the node ended it")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._sitter.wait(), REAP_S)
            self._over = True
            errors.cancel()
        return why

    async def _read_messages(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:
                self.end("it sent a line longer than the pipe allows")
                return
            if not line:
                return
            try:
                message = pipe.MESSAGE.validate_json(line)
            except ValidationError:
                log.error("engine %s sent what is not a message: %r", self._name, line[:200])
                self.end("it sent garbage on its pipe")
                return
            self._on_message(message)

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
