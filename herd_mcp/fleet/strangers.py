"""Who was turned away and why: shown to people, bounded, with few lines in the log however many come."""

from __future__ import annotations

import logging
from dataclasses import dataclass

log = logging.getLogger(__name__)

MOST_SHOWN = 32
SHOWN_S = 600.0
"""After its last try a stranger is shown for this long."""
LINE_EVERY_S = 60.0
"""Between two lines in the log."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """One that is not let in. `who` is a checked id or address, never free text of its own."""

    who: str
    reason: str
    seen_at: float
    times: int = 1


class Strangers:
    """Those turned away of late."""

    def __init__(self) -> None:
        self._shown: dict[str, Stranger] = {}
        self._line_at = float("-inf")
        self._unsaid = 0

    def add(self, who: str, reason: str, now: float) -> None:
        """Note one that was turned away. Logged if it is a new one or has a new reason, once in LINE_EVERY_S."""
        before = self._shown.pop(who, None)
        self._shown[who] = Stranger(who, reason, now, before.times + 1 if before else 1)
        while len(self._shown) > MOST_SHOWN:
            del self._shown[next(iter(self._shown))]
        if before and before.reason == reason:
            return
        if now - self._line_at < LINE_EVERY_S:
            self._unsaid += 1
            return
        others = f" ({self._unsaid} others since the last such line)" if self._unsaid else ""
        log.warning("%s is not let in: %s%s", who, reason, others)
        self._line_at, self._unsaid = now, 0

    def shown(self, now: float) -> list[Stranger]:
        """The latest last."""
        self._shown = {who: one for who, one in self._shown.items() if now - one.seen_at < SHOWN_S}
        return list(self._shown.values())
