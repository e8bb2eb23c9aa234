"""What the others know of this Mac: its state, read when it may have changed, and told at once to those who have an
older one that matters. Times are the running loop's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from herd_mcp.fleet.link import Link
from herd_mcp.fleet.links import Links
from herd_mcp.fleet.reports import Reporter
from herd_mcp.fleet.trusted import Trusted
from herd_mcp.state import NodeState

TELL_S = 0.05
"""A change waits this long for others that come with it."""
GAP_S, GAP_PER_NODE_S = 0.1, 0.01
"""Between two tellings of changes: at least this, and so much for each other node."""
FRESH_S = 1.0
"""How old this node's state may be in an answer while nothing says that it changed."""


class Telling:
    """`look_first` is called before each look at this node."""

    def __init__(self, reporter: Reporter, links: Links, trust: Trusted, look_first: Callable[[], None]) -> None:
        self.addresses: tuple[str, ...] = ()
        """Where this node is reached, as it tells."""
        self._reporter = reporter
        self._links = links
        self._trust = trust
        self._look_first = look_first
        self._loop = asyncio.get_running_loop()
        self._parting: dict[str, str] = {}
        self._dirty = False
        self._timer: asyncio.TimerHandle | None = None
        self._told_at = float("-inf")
        self._read_at = self._loop.time()

    def state(self) -> NodeState:
        """This node's state, read and stamped now."""
        self._dirty, self._read_at = False, self._loop.time()
        self._look_first()
        if self._reporter.look(addresses=self.addresses, **self._parting):
            self.soon()
        return self._reporter.state

    def state_for(self, link: Link) -> NodeState:
        """As it was read a moment ago, with some of those of whom the other may not know that they are shut out."""
        if self._dirty or self._loop.time() - self._read_at > FRESH_S:
            self.state()
        return self._reporter.state.model_copy(update={"revoked": link.part_of(self._trust.revoked)})

    def owes(self, link: Link) -> bool:
        """Whether something that matters has not been told to the other."""
        return link.told < self._reporter.matter.revision or link.owes(self._trust.revoked)

    def changed(self) -> None:
        """Something changed here, or may have."""
        self._dirty = True
        self.soon()

    def soon(self) -> None:
        """Tell what matters to those who do not know it."""
        if self._timer is None:
            gap_s = max(GAP_S, GAP_PER_NODE_S * len(self._links))
            at = max(self._loop.time() + TELL_S, self._told_at + gap_s)
            self._timer = self._loop.call_at(at, self._tell)

    def part(self, reason: str) -> None:
        """This node goes: from now on it tells that and why, to whoever it still speaks with."""
        if self._timer:
            self._timer.cancel()
        self._parting = {"status": "offline", "reason": reason}
        self.state()

    def _tell(self) -> None:
        self._told_at = now = self._loop.time()
        try:
            if self._dirty:
                self.state()
        finally:  # not sooner: what the look found is told here
            self._timer = None
        for link in self._links:
            if not link.failures and self.owes(link):
                link.alarm.hurry(now)
