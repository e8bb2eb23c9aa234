"""Files for this user only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from herd_mcp.jobs import ErrorCode, HerdError

log = logging.getLogger(__name__)


def write_private(path: Path, text: str) -> None:
    """A new file, on the disk when this returns. Raises OSError."""
    path.unlink(missing_ok=True)  # a file that is there would keep its mode
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have what was renamed and removed in the folder on the disk. Raises OSError."""
    if folder.exists():
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


class PrivateFolder:
    """Small files, each whole or not at all. No loop waits for the disk with `put`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        """Held while the folder changes."""
        self._unsaved: dict[str, str] = {}
        """By name of the file; the last text of each counts."""
        self._queued = False
        self._failed = False

    def write(self, name: str, text: str) -> None:
        """On the disk when this returns. Raises HerdError(disk)."""
        with self._lock:
            self._write(name, text)

    def put(self, name: str, text: str) -> None:
        """Have it written in another thread; what the disk does not take is told in the log, and tried again with what
        comes next. Where no loop runs nobody is kept waiting: then as `write`."""
        self._unsaved[name] = text
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._save()
            return
        if not self._queued:
            self._queued = True
            loop.run_in_executor(None, self._save_quietly)

    async def saved(self) -> None:
        """All that was put is on the disk. Raises HerdError(disk)."""
        await asyncio.to_thread(self._save)

    def remove(self, *patterns: str) -> None:
        """Files are gone from the disk, in this order, and what was put is not written any more. Raises
        HerdError(disk)."""
        with self._lock, self.disk():
            self._unsaved.clear()
            for pattern in patterns:
                for path in self.path.glob(pattern):
                    path.unlink(missing_ok=True)
            sync_folder(self.path)

    @contextlib.contextmanager
    def disk(self) -> Iterator[None]:
        """What the system refuses becomes HerdError(disk)."""
        try:
            yield
        except OSError as error:
            raise HerdError(
                ErrorCode.DISK,
                f"{self.path} cannot be written: {error.strerror}.",
                "Make room, or mend its permissions, and try again.",
            ) from error

    def _save_quietly(self) -> None:
        with contextlib.suppress(HerdError):
            self._save()

    def _save(self) -> None:
        with self._lock:
            self._queued = False
            for name in list(self._unsaved):
                text = self._unsaved.pop(name)
                try:
                    self._write(name, text)
                except HerdError as error:
                    self._unsaved.setdefault(name, text)
                    if not self._failed:
                        log.warning("what was told of the herd is not kept: %s", error)
                    self._failed = True
                    raise
            self._failed = False

    def _write(self, name: str, text: str) -> None:
        draft = self.path / f".{name}.draft"
        with self.disk():
            write_private(draft, text)
            draft.replace(self.path / name)
            sync_folder(self.path)
