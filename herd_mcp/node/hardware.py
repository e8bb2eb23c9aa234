"""What this machine is and how much memory it has now."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

from herd_mcp.jobs import Frozen
from herd_mcp.node import pressure


class Hardware(Frozen):
    platform: str
    chip: str
    cpu_cores: int
    total_bytes: int


def chip_from_cpuinfo(text: str) -> str:
    """The model name in Linux's /proc/cpuinfo, or an empty string."""
    for line in text.splitlines():
        if line.lower().startswith("model name"):
            return line.partition(":")[2].strip()
    return ""


def _chip() -> str:
    if sys.platform == "darwin":
        try:
            answer = subprocess.run(
                ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"],
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return platform.machine()
        return answer.stdout.strip() or platform.machine()
    try:
        return chip_from_cpuinfo(Path("/proc/cpuinfo").read_text()) or platform.machine()
    except OSError:
        return platform.machine()


@cache
def hardware() -> Hardware:
    """Asked once per process: none of it changes while a node runs. The memory is that of the group of processes this
    one is in, where it has a limit."""
    return Hardware(
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        chip=_chip(),
        cpu_cores=os.cpu_count() or 1,
        total_bytes=pressure.read().total_bytes,
    )


def available_bytes() -> int:
    """Memory that could be used now without swapping."""
    return pressure.read().available_bytes
