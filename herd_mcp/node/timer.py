"""The one timer of a node, which also finds out that time went on without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

BEAT_S = 5.0
"""How often a node with work looks whether time went on without it."""
LATE_S = 2.0
"""A timer this late means that the node did not run: the Mac slept, or somebody stopped its processes."""


class Timer:
    """Calls `tick` once for each time that it is set, with the seconds that nothing ran here: 0 but after a sleep."""

    def __init__(self, tick: Callable[[float], None]) -> None:
        self._tick = tick
        self._handle: asyncio.TimerHandle | None = None

    def set(self, due: float | None, *, busy: bool) -> None:
        """`due`, in seconds of the loop's clock, replaces what it was set to; None is never. A node that is `busy`
        waits for nothing longer than BEAT_S."""
        loop = asyncio.get_running_loop()
        if due is not None:
            due = max(due, loop.time())
            if busy:
                due = min(due, loop.time() + BEAT_S)
        if self._handle is not None:
            if due is not None and abs(self._handle.when() - due) < 0.05:
                return
            if loop.time() > self._handle.when() + LATE_S:
                return  # it is about to be called, and to find out how late it is
            self._handle.cancel()
        self._handle = None if due is None else loop.call_at(due, self._call, due)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _call(self, due: float) -> None:
        self._handle = None
        late_s = asyncio.get_running_loop().time() - due
        self._tick(late_s if late_s > LATE_S else 0.0)
