"""What a node tells of its Mac and what takes time to find out: asked by a thread, at most every `FRESH_S`."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from herd_mcp.node import power
from herd_mcp.state import Power

log = logging.getLogger(__name__)

FRESH_S = 30.0
LIMIT_S = 60.0
"""A system that has not answered in this time tells nothing, until it does."""


@dataclass(frozen=True, slots=True)
class Facts:
    power: Power
    disk_free_bytes: int | None


UNKNOWN = Facts(Power(), None)


class Surroundings:
    """`facts` as they were found last. Whoever looks at them sees to it that they stay fresh."""

    def __init__(self, folder: Path, read_power: Callable[[], Power] = power.read) -> None:
        self._folder = folder
        self._read_power = read_power
        self._asked_at = float("-inf")
        self._answered = True
        self._facts = UNKNOWN

    def facts(self) -> Facts:
        """At once; asks anew beside it when it is time. Its own thread, so that one that hangs holds up nothing, not
        even the end of the node."""
        age_s = time.monotonic() - self._asked_at
        if self._answered and age_s >= FRESH_S:
            self._answered, self._asked_at = False, time.monotonic()
            threading.Thread(target=self._ask, name="surroundings", daemon=True).start()
        elif not self._answered and age_s >= LIMIT_S:
            return UNKNOWN
        return self._facts

    def _ask(self) -> None:
        try:
            self._facts = Facts(self._read_power(), free_bytes(self._folder))
        except Exception:
            log.exception("this machine's power could not be read")
            self._facts = UNKNOWN
        finally:
            self._answered = True


def free_bytes(folder: Path) -> int | None:
    """On the disk of `folder`; None where the system does not tell."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
