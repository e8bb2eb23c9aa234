"""Seconds of a clock that nobody sets and that goes on while the Mac sleeps: for what is good for a while.

`time.time` jumps when the Mac's clock is corrected; `time.monotonic` stands still on macOS while the Mac sleeps.
"""

from __future__ import annotations

import time

# Linux's is BOOTTIME, whose MONOTONIC_RAW stands still in sleep; on macOS MONOTONIC_RAW is mach_continuous_time.
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC))


def steady_s() -> float:
    """Seconds since some moment. Compare with others of this process only."""
    return time.clock_gettime(_CLOCK)
