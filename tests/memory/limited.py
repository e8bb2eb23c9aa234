"""A group of processes with a limit of memory, held by the kernel: who goes over it is killed.

Needs Linux with the memory controller of cgroup v1 below this process's own group, and the right to write there; a test
that cannot have it is skipped with the reason.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.parts import processes

CONTROLLER = Path("/sys/fs/cgroup/memory")
ENTER = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
GONE_S = 30.0
"""How long the kernel may take to let go of the last process of a group."""


@dataclass(frozen=True, slots=True)
class Group:
    """All are bytes. What a process of the group starts is in the group too."""

    path: Path
    limit_bytes: int

    def command(self, *words: str) -> tuple[str, ...]:
        """`words` as a command that enters the group before it begins; its process id stays."""
        return ("/bin/sh", "-c", ENTER, str(self.path), *words)

    @property
    def held_bytes(self) -> int:
        """What the processes hold now, without the files that the kernel keeps for them and gives up at once."""
        return self._table("memory.stat")["total_rss"]

    @property
    def peak_bytes(self) -> int:
        """The most that was ever counted, kept files included: it comes near the limit when models are read."""
        return int(self._read("memory.max_usage_in_bytes"))

    @property
    def kills(self) -> int:
        """Processes that the kernel has killed because the group was full."""
        return self._table("memory.oom_control")["oom_kill"]

    def _table(self, file: str) -> dict[str, int]:
        return {name: int(value) for name, value in map(str.split, self._read(file).splitlines())}

    def _read(self, file: str) -> str:
        return (self.path / file).read_text()


def own_group() -> Path | None:
    """This process's folder in the memory controller; None where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                return CONTROLLER / path.lstrip("/")
    return None


@contextlib.contextmanager
def group(limit_bytes: int) -> Iterator[Group]:
    """A new group, removed at the end; its processes must be gone by then. Skips where none can be made."""
    above = own_group()
    if above is None:
        pytest.skip("no memory controller of cgroup v1 here: NOT TESTED in a memory-limited group")
    path = above / f"herd-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"{error}: NOT TESTED in a memory-limited group")
    try:
        (path / "memory.limit_in_bytes").write_text(str(limit_bytes))
        yield Group(path, limit_bytes)
    finally:
        processes.wait(lambda: _removed(path), "the end of the group's processes", GONE_S)


def _removed(path: Path) -> bool:
    """A group can be removed once it is empty."""
    try:
        path.rmdir()
    except OSError:
        return False
    return True
