"""The way to one other node: where it may be reached, when it is asked next, what it was told."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable, Iterable, Sequence

from herd_mcp.fleet.places import merged
from herd_mcp.orders import PeerApi
from herd_mcp.state import MAX_REVOKED_TOLD, NodeState

MakePeer = Callable[[str, tuple[str, ...]], PeerApi]


class Alarm:
    """A moment that may be moved while somebody waits for it. Seconds of the running loop."""

    def __init__(self, at: float) -> None:
        self.at = at
        self._moved = asyncio.Event()

    def set(self, at: float) -> None:
        """Ring at this moment instead."""
        self.at = at
        self._moved.set()

    def hurry(self, at: float) -> None:
        """Ring at this moment if it is sooner."""
        if at < self.at:
            self.set(at)

    async def rings(self) -> None:
        """Wait until the moment has come."""
        loop = asyncio.get_running_loop()
        while (left_s := self.at - loop.time()) > 0:
            self._moved.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._moved.wait()
            except TimeoutError:
                return


class Link:
    """One per other node. `addresses` are tried in turn: each call that fails makes the next one the first."""

    def __init__(self, node_id: str, make: MakePeer, now: float) -> None:
        self.node_id = node_id
        self.alarm = Alarm(now)
        self.told = 0
        """The revision of this node's state that the other has."""
        self.failures = 0
        self.tried_at = float("-inf")
        self.task: asyncio.Task[None] | None = None
        self._make = make
        self._addresses: tuple[str, ...] = ()
        self._peer: PeerApi | None = None
        self._shut_out: frozenset[str] = frozenset()
        """Those of whom the other knows that they are shut out, since its `_incarnation` began."""
        self._last_offered = ""
        self._incarnation: int | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    @property
    def peer(self) -> PeerApi:
        if self._peer is None:
            self._peer = self._make(self.node_id, self._addresses)
        return self._peer

    def told_of(self, addresses: Iterable[str], *, sure: bool) -> bool:
        """Take addresses to those that there are; `sure` ones come first. Whether there is a new one."""
        known = self._addresses
        # One that works stays the first, whatever is said; hints that nobody proved never push others out.
        first = known[:1] if not self.failures else ()
        after = merged(first, addresses, known) if sure else merged(known, addresses)
        if set(after) == set(known):
            return False
        new = bool(set(after) - set(known))
        self._addresses, self._peer = after, None
        return new

    def owes(self, revoked: frozenset[str]) -> bool:
        """Whether the other may not know of one of those that are shut out."""
        return not revoked <= self._shut_out

    def part_of(self, revoked: frozenset[str]) -> tuple[str, ...]:
        """Whom the other is told of next, of those that are shut out: it may know of none of these."""
        owed = sorted(revoked - self._shut_out)
        after = bisect.bisect_right(owed, self._last_offered)
        return tuple((owed[after:] + owed[:after])[:MAX_REVOKED_TOLD])

    def offered(self, revoked: Sequence[str]) -> None:
        """The other was told of these in an answer. Nobody hears that it came, and who cannot be called is told in
        answers alone: so the next has others."""
        self._last_offered = revoked[-1] if revoked else ""

    def knows(self, revoked: Iterable[str]) -> None:
        """The other took these from here."""
        self._shut_out |= frozenset(revoked)

    def heard(self, state: NodeState, revoked: frozenset[str]) -> None:
        """The other told its state, while these are shut out. One that was started anew may have lost what it knew."""
        if state.incarnation != self._incarnation:
            self._incarnation, self._shut_out = state.incarnation, frozenset()
        self.knows(revoked.intersection(state.revoked))

    def reached(self) -> None:
        self.failures = 0

    def missed(self) -> None:
        """A call did not reach it: the next address is tried first."""
        self.failures += 1
        if len(self._addresses) > 1:
            self._addresses = self._addresses[1:] + self._addresses[:1]
            self._peer = None

    def cancel(self) -> None:
        if self.task:
            self.task.cancel()
