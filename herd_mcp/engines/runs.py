"""Which runs of an engine are open, and the guard that each gets one ending and nothing after it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from herd_mcp.engines import errors
from herd_mcp.pipe import Done, Message, RunCancelled, RunFailed


class Runs:
    """Used by all threads of an engine. `send` writes to the node."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._lock = threading.RLock()
        self._phase: dict[int, Literal["waiting", "admitted"]] = {}

    def open(self, run: int) -> bool:
        """False for a number that is open already."""
        with self._lock:
            if run in self._phase:
                return False
            self._phase[run] = "waiting"
            return True

    def admit(self, run: int) -> bool:
        """False when it ended while it waited."""
        with self._lock:
            if run not in self._phase:
                return False
            self._phase[run] = "admitted"
            return True

    def cancel_waiting(self, run: int) -> bool:
        """End a run that the engine has not seen. True if the engine holds it and must be told."""
        with self._lock:
            phase = self._phase.get(run)
            if phase == "waiting":
                self.emit(RunCancelled(run=run))
            return phase == "admitted"

    def emit(self, message: Message) -> None:
        """Send; an ending closes its run, and a second ending of the same run is dropped."""
        if isinstance(message, (Done, RunFailed, RunCancelled)):
            with self._lock:
                if self._phase.pop(message.run, None) is None:
                    return
                self._send(message)
        else:
            self._send(message)

    def is_last(self, run: int) -> bool:
        """Whether it is the only open run."""
        with self._lock:
            return list(self._phase) == [run]

    def fail_all(self, error: Exception) -> None:
        """Fail every open run, for the engine ends."""
        with self._lock:
            for run, phase in list(self._phase.items()):
                self.emit(RunFailed(run=run, error=errors.of_crash(error, admitted=phase == "admitted")))
