"""What Linux tells of its memory, as text under /proc and /sys. What is missing or odd counts as not told."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MEMINFO = Path("/proc/meminfo")
VMSTAT = Path("/proc/vmstat")
PRESSURE = Path("/proc/pressure/memory")
OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Group:
    """The tightest of the control groups around this process. Bytes."""

    limit_bytes: int
    available_bytes: int


def read(path: Path) -> str:
    """The file's text; empty where there is none or it may not be read."""
    with contextlib.suppress(OSError, ValueError):
        return path.read_text()
    return ""


def meminfo_bytes(text: str) -> dict[str, int]:
    """/proc/meminfo: `MemAvailable: 12 kB` and so on, in bytes."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        number = value.split()[:1]
        if number and number[0].isdecimal():
            found[name] = int(number[0]) * 1024
    return found


def counter(text: str, name: str) -> int:
    """A line `name number`, as in /proc/vmstat and memory.stat; 0 where there is none."""
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdecimal():
            return int(value)
    return 0


def stalled_pct(text: str) -> float:
    """/proc/pressure/memory: percent of the last 10 s in which some process waited for memory."""
    for line in text.splitlines():
        kind, *fields = line.split()
        if kind == "some":
            for field in fields:
                name, _, value = field.partition("=")
                if name == "avg10":
                    with contextlib.suppress(ValueError):
                        return float(value)
    return 0.0


def group_folders(text: str) -> list[Path]:
    """/proc/self/cgroup: the folders of the memory groups around this process, the innermost first.

    In a container the path is often that of the host and is not there; the root of what is mounted is then its own.
    """
    folders: list[Path] = []
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        _, controllers, path = parts
        if "memory" in controllers.split(","):
            root = GROUPS / "memory"
        elif controllers == "":
            root = GROUPS
        else:
            continue
        inside = PurePosixPath("/", path)
        folders += [root / part.relative_to("/") for part in (inside, *inside.parents) if ".." not in part.parts]
    return folders


def limited(limit: str) -> bool:
    """Whether the text is a limit: version 2 says `max` for none, version 1 nearly 2**63."""
    return limit.strip().isdecimal() and int(limit) < 2**62


def group_of(limit: str, usage: str, stat: str) -> Group | None:
    """One group from its files: memory.max and memory.current, or of version 1 memory.limit_in_bytes and
    memory.usage_in_bytes; and memory.stat, which tells how much is files that can go. None where nothing limits it."""
    if not (limited(limit) and usage.strip().isdecimal()):
        return None
    names = ("inactive_file", "active_file")
    spare = sum(counter(stat, f"total_{name}") or counter(stat, name) for name in names)
    used = max(int(usage) - spare, 0)
    return Group(int(limit), max(int(limit) - used, 0))


def group() -> Group | None:
    """What limits this process and its children, None where nothing does."""
    found = []
    for folder in group_folders(read(OWN_GROUPS)):
        for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            if limited(text := read(folder / limit)):  # most are not, and need no further questions
                found.append(group_of(text, read(folder / usage), read(folder / "memory.stat")))
    groups = [one for one in found if one is not None]
    if not groups:
        return None
    return Group(min(one.limit_bytes for one in groups), min(one.available_bytes for one in groups))
