"""What this node has sent to others and their reports do not contain yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from herd_mcp.jobs import Kind

KEEP_S = 30.0
"""An addition goes at the latest then: a node that has not reported for so long is not placed on."""
MOST = 10_000


@dataclass(frozen=True, slots=True)
class Addition:
    """One job on top of a node's report, in seconds of its GPU alone."""

    kind: Kind
    model: str
    service_s: float
    load_s: float = 0.0


@dataclass(slots=True)
class _Entry:
    addition: Addition
    until_s: float
    seen_at: tuple[int, int] | None = None
    """(incarnation, revision) of the report that contains it; None while the node has not answered."""


class Sent:
    """Additions by node. Times are seconds of one clock of the caller's."""

    def __init__(self) -> None:
        self._nodes: dict[str, dict[object, _Entry]] = {}

    def add(self, node_id: str, key: object, addition: Addition, now_s: float, keep_s: float = KEEP_S) -> None:
        """From the moment that it is sent, so that what is placed meanwhile knows of it."""
        entries = self._nodes.setdefault(node_id, {})
        if len(entries) >= MOST:
            del entries[next(iter(entries))]
        entries[key] = _Entry(addition, now_s + keep_s)

    def accepted(self, node_id: str, key: object, incarnation: int, revision: int) -> None:
        """The node took it, and tells so from that report on."""
        if entry := self._nodes.get(node_id, {}).get(key):
            entry.seen_at = (incarnation, revision)

    def drop(self, node_id: str, key: object) -> None:
        self._nodes.get(node_id, {}).pop(key, None)

    def drop_everywhere(self, key: object) -> None:
        for entries in self._nodes.values():
            entries.pop(key, None)

    def of(self, node_id: str, incarnation: int, revision: int, now_s: float) -> Iterable[Addition]:
        """What the node's report of that revision does not contain."""
        entries = self._nodes.get(node_id)
        if not entries:
            return ()
        gone = [
            key
            for key, entry in entries.items()
            if now_s > entry.until_s or (entry.seen_at is not None and entry.seen_at <= (incarnation, revision))
        ]
        for key in gone:
            del entries[key]
        return [entry.addition for entry in entries.values()]
