"""A Mac with a job does not fall asleep for want of its owner: a child of the node says so to the system.

Not run on a Mac. `caffeinate -i` holds off idle sleep only (not a closed lid, nor an empty battery); with `-w` it ends
with the node, however that ends. Elsewhere nothing is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Sequence

log = logging.getLogger(__name__)

LINGER_S = 10.0
"""How long it goes on after the last job, so that one job after the other does not start a process each."""


def command(pid: int, platform: str = sys.platform) -> list[str]:
    """What keeps the system awake as long as the process `pid` lives; empty where there is nothing of that kind."""
    return ["/usr/bin/caffeinate", "-i", "-w", str(pid)] if platform == "darwin" else []


class Awake:
    """Runs the command while it is wanted."""

    def __init__(self, command: Sequence[str], linger_s: float = LINGER_S) -> None:
        self._command = command
        self._linger_s = linger_s
        self._wanted = asyncio.Event()
        self._unwanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.pid: int | None = None

    def want(self, wanted: bool) -> None:
        """From the loop; costs nothing when it is so already."""
        if not self._command or wanted == self._wanted.is_set():
            return
        if wanted:
            self._wanted.set()
            self._unwanted.clear()
            if self._task is None:
                self._task = asyncio.create_task(self._run())
        else:
            self._wanted.clear()
            self._unwanted.set()

    async def _run(self) -> None:
        try:
            while self._wanted.is_set():
                await self._hold()
        except OSError as error:
            log.warning("this machine may fall asleep over a job: %s", error)
            self._command = ()
        finally:
            self._task = None

    async def _hold(self) -> None:
        nothing = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*self._command, stdin=nothing, stdout=nothing, stderr=nothing)
        self.pid = process.pid
        try:
            while self._wanted.is_set():
                await self._unwanted.wait()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wanted.wait(), self._linger_s)
        finally:
            self.pid = None
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def close(self) -> None:
        """End it, and wait until it is gone."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
