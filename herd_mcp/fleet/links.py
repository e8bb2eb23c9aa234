"""The ways to all other nodes that may be of the herd, bounded whatever is announced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator

from herd_mcp.fleet.link import Link, MakePeer
from herd_mcp.fleet.membership import MOST_NODES

MOST_LINKS = 2 * MOST_NODES
MOST_HINTS = 128
MOST_TRIED, TRIES = 8, 3
"""Nodes that only an announcement knows: so many are called at the same time, so often each."""


class Links:
    """One per node, each with the task that keeps it. `member` says of whom more is known than an announcement."""

    def __init__(
        self, make: MakePeer, keep: Callable[[Link], Coroutine[None, None, None]], member: Callable[[str], bool]
    ) -> None:
        self._make, self._keep, self._member = make, keep, member
        self._links: dict[str, Link] = {}
        self._hints: dict[str, tuple[str, ...]] = {}

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links.values()))

    def __len__(self) -> int:
        return len(self._links)

    def get(self, node_id: str) -> Link | None:
        return self._links.get(node_id)

    def to(self, node_id: str) -> Link:
        """The way to a node, begun if there is none."""
        if node_id not in self._links:
            link = self._links[node_id] = Link(node_id, self._make, asyncio.get_running_loop().time())
            link.task = asyncio.create_task(self._keep(link), name=f"peer {node_id}")
        return self._links[node_id]

    def meet(self, node_id: str, addresses: Iterable[str]) -> None:
        """Begin a way to a node that was met before, while there is room."""
        if node_id not in self._links and len(self._links) < MOST_LINKS:
            self.to(node_id).told_of(addresses, sure=True)

    def hint(self, node_id: str, addresses: tuple[str, ...]) -> None:
        """Somebody announced a node that nobody knows."""
        self._hints.pop(node_id, None)
        self._hints[node_id] = addresses
        while len(self._hints) > MOST_HINTS:
            del self._hints[next(iter(self._hints))]
        self.follow_hints()

    def follow_hints(self) -> None:
        """Call those that were announced, the latest first, a few at a time."""
        tried = sum(not self._member(node_id) for node_id in self._links)
        while self._hints and tried < MOST_TRIED and len(self._links) < MOST_LINKS:
            node_id, addresses = self._hints.popitem()
            if node_id not in self._links:
                self.to(node_id).told_of(addresses, sure=False)
                tried += 1

    def given_up(self, link: Link) -> bool:
        """Whether this was announced and never proved; then it is no link any more, and its task ends."""
        if link.failures < TRIES or self._member(link.node_id):
            return False
        self._links.pop(link.node_id, None)
        return True

    def drop(self, node_ids: Collection[str]) -> None:
        for node_id in node_ids:
            self._hints.pop(node_id, None)
            if link := self._links.pop(node_id, None):
                link.cancel()
