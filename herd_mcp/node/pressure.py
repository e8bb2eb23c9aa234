"""How short of memory this Mac is: what its system tells as one value, and the level that follows from it.

Everything is a fraction of this machine, so that a Mac of 8 GB is not short of memory for being small. Swap that was
used some time ago means nothing by itself; swap that is being written while little is available means much.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import psutil

from herd_mcp.node import darwin, linux
from herd_mcp.state import Level

LEVELS: tuple[Level, ...] = get_args(Level)
"""From the mildest."""
BELOW: dict[Level, float] = {"critical": 0.03, "high": 0.06, "moderate": 0.12}
"""Available memory as a fraction of all, below which the level is reached; twice that while the system suffers."""
STALLED_PCT = 10.0
"""The system suffers: processes wait for memory in so much of the time (Linux);"""
SWAPPING = 0.001
"""or so much of the memory is written to swap per second;"""
SWAPPED = 0.5
"""or swap holds so much, as a fraction of the memory; or macOS itself warns (`WARNING`)."""
WARNING, CRITICAL = 2, 4
"""What macOS says of itself, by what its compressor can still take. The first is moderate at least, the second
critical, whatever is available."""
EASE = 1.25
"""A level is left only when the system is above the thresholds by so much,"""
HOLD_S = 15.0
"""for so many seconds."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The memory of this machine at one moment; in a group with a limit, of the group. Bytes."""

    total_bytes: int
    available_bytes: int
    """Could be had now without taking it from others."""
    swap_used_bytes: int = 0
    swapped_out_bytes: int = 0
    """Written to swap since the system's start."""
    swapping_bytes_s: float = 0.0
    """Per second, since the reading before."""
    stalled_pct: float = 0.0
    """Linux: percent of the last 10 s in which some process waited for memory."""
    told: int | None = None
    """macOS: its own level; 1 is normal."""
    at: float = 0.0
    """Seconds, monotonic."""


ReadMemory = Callable[[Reading | None], Reading]


def read(before: Reading | None = None) -> Reading:
    """Ask the system; `before` is the reading that swapping is counted from."""
    reading = replace(_macos() if sys.platform == "darwin" else _linux(), at=time.monotonic())
    if before is None or reading.at <= before.at:
        return reading
    swapped = max(reading.swapped_out_bytes - before.swapped_out_bytes, 0)
    return replace(reading, swapping_bytes_s=swapped / (reading.at - before.at))


def _macos() -> Reading:
    """psutil's figures, which ask the kernel themselves, and what it leaves out."""
    memory = psutil.virtual_memory()
    reading = Reading(memory.total, memory.available)
    with contextlib.suppress(OSError):
        reading = replace(reading, swap_used_bytes=psutil.swap_memory().used)
    with contextlib.suppress(OSError):
        reading = replace(reading, told=darwin.pressure_level())
    with contextlib.suppress(OSError):
        reading = replace(reading, swapped_out_bytes=darwin.swapouts() * mmap.PAGESIZE)
    return reading


def _linux() -> Reading:
    swapped_out_bytes = linux.counter(linux.read(linux.VMSTAT), "pswpout") * mmap.PAGESIZE
    stalled_pct = linux.stalled_pct(linux.read(linux.PRESSURE))
    reading = of_meminfo(linux.meminfo_bytes(linux.read(linux.MEMINFO)))
    return in_group(replace(reading, swapped_out_bytes=swapped_out_bytes, stalled_pct=stalled_pct), linux.group())


def of_meminfo(facts: dict[str, int]) -> Reading:
    """What /proc/meminfo says. A kernel that does not tell what is available has at least what is free."""
    total = facts.get("MemTotal", 0)
    free = facts.get("MemFree", 0) + facts.get("Buffers", 0) + facts.get("Cached", 0) if facts else total
    swap_used = max(facts.get("SwapTotal", 0) - facts.get("SwapFree", 0), 0)
    return Reading(total, min(facts.get("MemAvailable", free), total), swap_used)


def in_group(reading: Reading, group: linux.Group | None) -> Reading:
    """The same within a group: its limit is all there is."""
    if group is None or group.limit_bytes >= reading.total_bytes > 0:
        return reading
    return replace(
        reading,
        total_bytes=group.limit_bytes,
        available_bytes=min(reading.available_bytes, group.available_bytes),
    )


def level(reading: Reading, ease: float = 1.0) -> Level:
    """How short of memory the machine is. Of what there is, available:

    - critical: below 3%, or below 6% while it suffers, or macOS says so;
    - high: below 6%, or below 12% while it suffers;
    - moderate: below 12%, or below 24% while it suffers, or macOS warns.

    It suffers while processes wait for memory in 10% of the time, while 0.1% of the memory is written to swap per
    second, while swap holds half as much as the memory, or while macOS warns. `ease` raises the thresholds.
    """
    if not reading.total_bytes:
        return "normal"  # the system tells nothing
    if (reading.told or 0) >= CRITICAL:
        return "critical"
    warned = (reading.told or 0) >= WARNING
    suffers = (
        warned
        or reading.stalled_pct >= STALLED_PCT
        or reading.swapping_bytes_s >= SWAPPING * reading.total_bytes
        or reading.swap_used_bytes >= SWAPPED * reading.total_bytes
    )
    available = reading.available_bytes / reading.total_bytes
    for name, below in BELOW.items():
        if available < below * ease * (2 if suffers else 1):
            return name
    return "moderate" if warned else "normal"


def at_least(level: Level, other: Level) -> bool:
    """Whether `level` is as severe as `other`, or more."""
    return LEVELS.index(level) >= LEVELS.index(other)


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """The level that others act on: up at once, down when readings were better by `EASE` for `HOLD_S`, and then to
    the worst of them. So it goes down at most once in `HOLD_S`."""

    level: Level = "normal"
    better: Level = "normal"
    """The worst since `better_since`."""
    better_since: float | None = None

    def after(self, reading: Reading, now: float) -> Hysteresis:
        """With one more reading, at `now` (seconds, monotonic)."""
        strict, eased = level(reading), level(reading, EASE)
        if not at_least(self.level, strict):
            return Hysteresis(strict)
        if at_least(eased, self.level):
            return Hysteresis(self.level)
        if self.better_since is None:
            return Hysteresis(self.level, eased, now)
        worst = eased if at_least(eased, self.better) else self.better
        if now - self.better_since < HOLD_S:
            return Hysteresis(self.level, worst, self.better_since)
        return Hysteresis(worst)
