"""Who wants to know what changed: changes of one moment become one, and a slow reader holds a set, not a queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from herd_mcp.state import Change

MAX_HELD = 1024
"""Different changes a reader may fall behind by; then the oldest are dropped."""
PAUSE_S = 0.1


class Changes:
    """Tell with `tell`; read with `read`."""

    def __init__(self) -> None:
        self._readers: set[_Reader] = set()

    def tell(self, change: Change) -> None:
        """Note a change for every reader."""
        for reader in self._readers:
            reader.note(change)

    async def read(self) -> AsyncIterator[Change]:
        """Every change from now on, each at most ten times a second."""
        reader = _Reader()
        self._readers.add(reader)
        try:
            while True:
                for change in await reader.take():
                    yield change
                await asyncio.sleep(PAUSE_S)
        finally:
            self._readers.discard(reader)


class _Reader:
    def __init__(self) -> None:
        self._held: dict[Change, None] = {}
        self._some = asyncio.Event()

    def note(self, change: Change) -> None:
        self._held[change] = None
        if len(self._held) > MAX_HELD:
            del self._held[next(iter(self._held))]
        self._some.set()

    async def take(self) -> list[Change]:
        await self._some.wait()
        self._some.clear()
        held, self._held = list(self._held), {}
        return held
