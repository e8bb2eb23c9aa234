"""When a Mac does nothing for others: by hand, by schedule, on battery. What is asked on it itself it always does.

The pause by hand lies in a file, so that it outlives the node. The rest is pure; times are passed in.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.settings import DAY_MINUTES, Settings, pause_time
from herd_mcp.state import MAX_PAUSE_S, Power

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ByHand:
    until: float | None = None
    """Unix time; None is until `herd-mcp resume`."""


def why(by_hand: ByHand | None, times: Sequence[str], on_battery: bool, power: Power, now: float) -> str:
    """Why nothing is done for others at `now` (Unix time), as a sentence for them; empty where nothing hinders.
    `times` and `on_battery` as in the settings."""
    reasons = []
    if by_hand is not None and by_hand.until is None:
        reasons.append("its owner paused it")
    elif by_hand is not None and by_hand.until is not None and now < by_hand.until:
        reasons.append(f"its owner paused it until {time.strftime('%a %H:%M', time.localtime(by_hand.until))}")
    if times and (of_schedule := scheduled(times, time.localtime(now))):
        reasons.append(f"its owner needs it at this time (pause_times: {of_schedule})")
    if on_battery and power.source == "battery":
        left = "" if power.battery_percent is None else f", {power.battery_percent}% left"
        reasons.append(f"it runs on battery{left} (pause_on_battery)")
    return "; ".join(reasons)


def scheduled(times: Sequence[str], local: time.struct_time) -> str:
    """The first of the times of the setting that it is now, by the Mac's own clock; empty for none."""
    minute, day = local.tm_hour * 60 + local.tm_min, local.tm_wday
    for text in times:
        days, begins, ends = pause_time(text)
        over_night = ends <= begins
        if day in days and begins <= minute < (DAY_MINUTES if over_night else ends):
            return text
        if over_night and (day - 1) % 7 in days and minute < ends:
            return text
    return ""


class Pauses:
    """What the owner of this Mac allows, with the pause by hand as it is kept."""

    def __init__(self, home: Path, settings: Settings) -> None:
        self._home = home
        self._settings = settings
        self._by_hand = read(home)

    def why(self, power: Power, now: float) -> str:
        return why(self._by_hand, self._settings.pause_times, self._settings.pause_on_battery, power, now)

    async def begin(self, for_s: float | None = None) -> None:
        """By hand, for so many seconds; None is until `end`. Raises HerdError(disk)."""
        await self._keep(ByHand(None if for_s is None else time.time() + min(for_s, MAX_PAUSE_S)))

    async def end(self) -> None:
        """Of the pause by hand. Raises HerdError(disk)."""
        await self._keep(None)

    async def _keep(self, by_hand: ByHand | None) -> None:
        try:
            await asyncio.to_thread(write, self._home, by_hand)
        except OSError as error:
            message = f"The pause cannot be written down: {error}."
            raise HerdError(ErrorCode.DISK, message, "`herd-mcp doctor` looks at the disk.", retryable=True) from error
        self._by_hand = by_hand


# ── By hand ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def file_of(home: Path) -> Path:
    return home / "run" / "pause.json"


def read(home: Path) -> ByHand | None:
    """The pause by hand. One that cannot be read has no end: its owner wanted one."""
    path = file_of(home)
    try:
        until = json.loads(path.read_text())["until"]
        if until is None or math.isfinite(until):
            return ByHand(until)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError) as error:
        log.warning("%s cannot be read (%r): paused until `herd-mcp resume`", path, error)
    return ByHand()


def write(home: Path, by_hand: ByHand | None) -> None:
    """Keep it, or forget it. Raises OSError."""
    path = file_of(home)
    if by_hand is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(mode=0o700, exist_ok=True)
    beside = path.with_suffix(".new")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        json.dump({"until": by_hand.until}, file)
    beside.replace(path)
