"""Turns at the GPU: of the engine processes of one home, one computes at a time.

A turnstile of two file locks. Who wants to compute takes `turn.next`, then `turn.gpu`, and lets go of `turn.next`: so
at most one waits at the GPU itself, and who just had it queues behind that one. A plain lock would go back to its last
holder nearly every time. Turns are fair in time and not only in number, since one step of an image takes as long as
many tokens: who has waited long may hold long.

The system lets go of a process's locks when it ends, however it ends. A holder that hangs is the node's to end: it is
silent, while those who wait say so all the time.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

LEAST_HOLD_S = 0.03
"""A turn is not asked back sooner: handing over costs a wait for the GPU to finish."""
SHARE = 0.55
"""Part of the time just waited that a turn lasts at least."""
POLL_S = 0.001
"""Between two looks at a lock that another has. A blocking wait could not be left for a cancel."""


def hold_s(waited_s: float) -> float:
    """How long who waited `waited_s` may compute before it lets others."""
    return max(LEAST_HOLD_S, SHARE * waited_s)


def _never() -> bool:
    return False


class Turn:
    """This process's place at the GPU. Use from one thread; as a context manager it takes and gives.

    `folder`: where the locks are, the same for all who take turns; None for an engine that is alone.
    `flush` waits until the GPU has done what it was told. `report` is called with the seconds waited so far, about
    every `report_every_s` of a wait. `now` and `sleep` are seconds.
    """

    def __init__(
        self,
        folder: Path | None,
        flush: Callable[[], None],
        report: Callable[[float], None],
        report_every_s: float = 1.0,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.held = False
        self._flush = flush
        self._report = report
        self._report_every_s = report_every_s
        self._now = now
        self._sleep = sleep
        self._alone = folder is None
        self._since = self._waited_s = 0.0
        self._asked_at: float | None = None
        self._told_at = 0.0
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._next, self._gpu = (
                os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                for name in ("turn.next", "turn.gpu")
            )

    def take(self, enough: Callable[[], bool] = _never) -> bool:
        """Wait until it is our turn. False when `enough()` came first: then others go ahead, and the time waited
        counts on if we ask again."""
        if self.held or self._alone:
            self.held = True
            return True
        if self._asked_at is None:
            self._asked_at = self._told_at = self._now()
        if not self._wait(enough):
            return False
        self.held = True
        self._since = self._now()
        self._waited_s = self._since - self._asked_at
        self._asked_at = None
        return True

    def _wait(self, enough: Callable[[], bool]) -> bool:
        first = False  # of those who wait
        try:
            while True:
                first = first or _lock(self._next)
                if first and _lock(self._gpu):
                    return True
                if enough():
                    return False
                self._tell_waiting()
                self._sleep(POLL_S)
        finally:
            if first:
                fcntl.flock(self._next, fcntl.LOCK_UN)

    def _tell_waiting(self) -> None:
        now = self._now()
        assert self._asked_at is not None
        if now - self._told_at >= self._report_every_s:
            self._told_at = now
            self._report(now - self._asked_at)

    def wanted(self) -> bool:
        """Whether somebody else waits."""
        if self._alone or not _lock(self._next):
            return not self._alone
        fcntl.flock(self._next, fcntl.LOCK_UN)
        return False

    def due(self) -> bool:
        """Whether it is time to let others: our share is over and somebody waits. Cheap, for every token."""
        return self.held and not self._alone and self._now() - self._since >= hold_s(self._waited_s) and self.wanted()

    def give(self) -> None:
        """Let others, after the GPU has done what we told it. Also ends our waiting, if we waited."""
        self._asked_at = None
        if not self.held:
            return
        self.held = False
        if not self._alone:
            self._flush()
            fcntl.flock(self._gpu, fcntl.LOCK_UN)

    def offer(self, enough: Callable[[], bool] = _never) -> bool:
        """In the middle of work: if it is time, let others and wait for the next turn. False as `take`: then nothing
        may be computed any more."""
        if not self.due():
            return True
        self.give()
        return self.take(enough)

    def __enter__(self) -> Turn:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.give()


def alone() -> Turn:
    """For an engine that shares the GPU with no other."""
    return Turn(None, flush=lambda: None, report=lambda _: None)


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
