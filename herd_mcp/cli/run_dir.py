"""HERD_HOME/run: the lock that makes one node per home, and node.json that tells clients where it is."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herd_mcp import bridge
from herd_mcp.jobs import ErrorCode, HerdError

if TYPE_CHECKING:
    from collections.abc import Iterator

PRIVATE_FILE = 0o600


@contextlib.contextmanager
def as_herd_error() -> Iterator[None]:
    """The bridge's own exception, which may import nothing of ours, in the words of the rest: HerdError(no_node)."""
    try:
        yield
    except bridge.NoNode as problem:
        raise HerdError(ErrorCode.NO_NODE, str(problem)) from problem


def make_private(folder: Path) -> None:
    """The folder, made if need be, for this user only. Raises HerdError(no_node) when that cannot be."""
    with as_herd_error():
        bridge.private_folder(str(folder))


class NodeLock:
    """Held for a node's whole life; the system lets go of it when the process ends, however it ends."""

    def __init__(self, home: Path) -> None:
        self._path = home / "run" / "node.lock"
        self._fd = -1

    def take(self, *, wait_s: float = 0) -> bool:
        """Whether it is ours now, after trying for `wait_s` seconds."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    os.close(fd)
                    return False
                time.sleep(0.01)
            else:
                self._fd = fd
                return True

    def give(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def is_held(self) -> bool:
        """Whether a node of this home lives."""
        if not self._path.exists():
            return False
        if self.take():
            self.give()
            return False
        return True


def write_record(home: Path, record: dict[str, Any]) -> None:
    """run/node.json, whole or not at all, readable by this user only."""
    path = home / "run" / "node.json"
    draft = path.with_name(f".node.json.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    with os.fdopen(fd, "w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read_record(home: Path) -> dict[str, Any] | None:
    """What run/node.json says, or None. The node may be dead: ask it, or its lock. Raises HerdError(no_node) when
    somebody else could have written it."""
    with as_herd_error():
        return bridge.read_record(str(home))


def remove_record(home: Path, *, pid: int | None = None) -> None:
    """Take node.json away; with `pid`, only while it is that process's."""
    path = home / "run" / "node.json"
    if pid is not None:
        try:
            if json.loads(path.read_text()).get("pid") != pid:
                return
        except (OSError, ValueError):
            return
    path.unlink(missing_ok=True)
