"""The look at this Mac's memory and at what each engine holds of it: one timer for all, as long as the node lives."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterable

import psutil

from herd_mcp.node import darwin
from herd_mcp.node.events import Measured
from herd_mcp.node.lanes import EngineKey
from herd_mcp.node.pressure import Hysteresis, Reading, ReadMemory

log = logging.getLogger(__name__)

BUSY_S = 1.0
"""Between two looks while there are engines."""
EMPTY_S = 5.0
"""The same without any."""

Pids = Iterable[tuple[EngineKey, int, int]]
"""Key, generation and process of the engines that there are."""


def held_bytes(pid: int) -> int | None:
    """What a process holds for itself, in bytes; None when it is gone.

    macOS: its footprint, since the resident set leaves out what Metal has and what was compressed. Linux: the
    resident set without what it shares, since every engine maps the same libraries.
    """
    try:
        if sys.platform == "darwin":
            return darwin.footprint(pid)
        memory = psutil.Process(pid).memory_info()
        return max(memory.rss - getattr(memory, "shared", 0), 0)
    except (OSError, psutil.Error):
        return None


class Watch:
    """Reads and tells. `engines` says which there are; `tell` gets what was found and must not block."""

    def __init__(self, read: ReadMemory, engines: Callable[[], Pids], tell: Callable[[Measured], None]) -> None:
        self._read = read
        self._engines = engines
        self._tell = tell
        self._reading: Reading | None = None
        self._felt = Hysteresis()
        self._failed = False

    @property
    def available_bytes(self) -> int | None:
        """As of the last look: memory that could be used without swapping. None before the first."""
        return self._reading.available_bytes if self._reading else None

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                self.look()
                self._failed = False
            except Exception:  # a system that tells nothing for once must not end the watch for good
                if not self._failed:
                    log.exception("the memory could not be read")
                self._failed = True
            await asyncio.sleep(BUSY_S if any(True for _ in self._engines()) else EMPTY_S)

    def look(self) -> None:
        """One look: some tenths of a millisecond."""
        self._reading = self._read(self._reading)
        self._felt = self._felt.after(self._reading, time.monotonic())
        held = [(key, generation, held_bytes(pid)) for key, generation, pid in self._engines()]
        self._tell(Measured(self._felt.level, tuple((key, n, bytes_) for key, n, bytes_ in held if bytes_ is not None)))
