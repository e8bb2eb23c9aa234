"""What the machine is that measured, in words that name nobody and no place."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import psutil

LIBRARIES = ("mlx", "mlx-lm", "mflux", "mcp")


@dataclass(frozen=True, slots=True)
class Machine:
    """The load averages are of the minute before the measurement and of its last minute."""

    date: str
    system: str
    cores: int
    memory_gib: int
    device: str
    versions: str
    load_before: float
    load_after: float

    def __str__(self) -> str:
        return (
            f"{self.date}: {self.system}, {self.cores} cores, {self.memory_gib} GiB, MLX on the {self.device}; "
            f"load average {self.load_before:.1f} before, {self.load_after:.1f} at the end; {self.versions}."
        )


def look(load_before: float) -> Machine:
    """Call it at the end, with the `load()` of the beginning."""
    return Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        system=f"{'macOS' if platform.system() == 'Darwin' else platform.system()} {platform.machine()}",
        cores=psutil.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30),
        device="GPU" if platform.system() == "Darwin" else "CPU",
        versions=", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in LIBRARIES)]),
        load_before=load_before,
        load_after=load(),
    )


def load() -> float:
    """Processes that wanted to run during the last minute, on average."""
    return os.getloadavg()[0]
