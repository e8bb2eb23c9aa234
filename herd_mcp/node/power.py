"""Where this Mac's power comes from, how full its battery is, and how hot it runs. What the system does not tell is
said to be unknown.

Not run on a Mac. psutil asks IOKit there and /sys/class/power_supply on Linux; how hot a Mac runs is a number that its
system keeps for notify(3), with the levels of Apple's header OSThermalNotification.h.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Literal

import psutil

from herd_mcp.node import darwin
from herd_mcp.state import Power

Thermal = Literal["nominal", "fair", "serious", "critical", "unknown"]
THERMAL: tuple[Thermal, ...] = ("nominal", "fair", "serious", "critical", "critical")
"""By macOS's level: nominal, moderate, heavy, trapping, sleeping."""


def read() -> Power:
    """Ask the system: some tenths of a millisecond, as far as is known. Not for the loop."""
    battery, level = None, None
    with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError, psutil.Error):
        battery = psutil.sensors_battery()
    mac = sys.platform == "darwin"
    if mac:
        with contextlib.suppress(OSError, AttributeError):
            level = darwin.thermal_level()
    return power_of(battery, level, mac=mac)


def power_of(battery: Any, thermal_level: int | None, *, mac: bool) -> Power:
    """From psutil's battery (None: there is none, or nothing is told) and macOS's thermal level."""
    known = thermal_level is not None and 0 <= thermal_level < len(THERMAL)
    thermal: Thermal = THERMAL[thermal_level] if thermal_level is not None and known else "unknown"
    if battery is None:  # a Mac without one is at the mains; another machine may not tell
        return Power(source="ac" if mac else "unknown", thermal=thermal)
    source: Literal["ac", "battery", "unknown"] = "unknown"
    if battery.power_plugged is not None:
        source = "ac" if battery.power_plugged else "battery"
    percent = None if battery.percent is None else min(max(round(battery.percent), 0), 100)
    return Power(source=source, battery_percent=percent, thermal=thermal)
