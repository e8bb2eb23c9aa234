"""Notices that this Mac slept, or that this process did not run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LOOK_S = 1.0
"""It is looked at least so often."""
SLEPT_S = 5.0
"""A look this much late means that nothing ran meanwhile."""


class SleepWatch:
    """Compares a clock that goes on in sleep with the looks at it."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._loop = asyncio.get_running_loop()
        self._looked = steady(), self._loop.time()

    def slept(self) -> float | None:
        """Since the last look, seconds that are not on the loop's clock; None if it did not sleep."""
        before_s, ran_s = self._looked
        self._looked = self._steady(), self._loop.time()
        gap_s = self._looked[0] - before_s
        return max(gap_s - (self._looked[1] - ran_s), 0.0) if gap_s > LOOK_S + SLEPT_S else None
