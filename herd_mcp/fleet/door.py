"""Who is let in, and what is believed of what they tell: of themselves, and of those who are shut out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from herd_mcp.fleet.link import Link
from herd_mcp.fleet.links import Links
from herd_mcp.fleet.membership import MOST_NODES, Members, wire_problem
from herd_mcp.fleet.places import merged
from herd_mcp.fleet.strangers import Strangers
from herd_mcp.fleet.trusted import Trusted
from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.state import NodeState


class Door:
    """`on_shed` is called when members were dropped, `on_revoked` when another told whom it shut out."""

    def __init__(
        self,
        node_id: str,
        trust: Trusted,
        members: Members,
        links: Links,
        strangers: Strangers,
        *,
        on_shed: Callable[[], None],
        on_revoked: Callable[[], None],
    ) -> None:
        self._node_id = node_id
        self._trust = trust
        self._members = members
        self._links = links
        self._strangers = strangers
        self._on_shed = on_shed
        self._on_revoked = on_revoked
        self._loop = asyncio.get_running_loop()
        self._remembered: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._shed: frozenset[str] = frozenset()

    def take(self, caller_id: str, state: NodeState) -> tuple[Link, bool]:
        """Believe what a node tells of itself. The way to it, and whether what it told is new. Raises HerdError where
        it is not let in."""
        problem = ""
        if caller_id == self._node_id:
            problem = "it says that it is this very node: a home was copied; remove trust/node_id on one of the two"
        elif state.node_id != caller_id:
            problem = f"it told the state of another node, {state.node_id}"
        elif caller_id in self._trust.revoked:
            problem = "it was removed from this herd"
        else:
            problem = wire_problem(state.wire)
        if problem:
            raise self._refusal(caller_id, problem)
        self._take_revoked(state)
        if caller_id in self._trust.revoked:
            raise self._refusal(caller_id, "it left this herd")
        report = self._members.report(state, self._loop.time())
        if report == "full":
            raise self._refusal(caller_id, f"this herd has {MOST_NODES} nodes, and more do not work together yet")
        if report == "double":
            raise self._refusal(caller_id, "two say that they are this node, and the one that started later counts")
        link = self._links.to(caller_id)
        link.heard(state, self._trust.revoked)
        if report == "new":
            self._remember(state)
        return link, report == "new"

    def shed(self) -> None:
        """Know nothing more of those who are shut out by now."""
        gone = self._trust.revoked - self._shed
        if not gone:
            return
        self._shed |= gone
        self._members.drop(gone)
        self._links.drop(gone)
        for node_id in gone:
            self._remembered.pop(node_id, None)
        self._on_shed()

    def _take_revoked(self, state: NodeState) -> None:
        """Shut out whom another member shut out, and pass it on."""
        if set(state.revoked) <= self._trust.revoked:
            return
        if not self._trust.revoke(state.revoked):
            return
        if self._node_id in state.revoked:
            reason = f"{state.name} says that this Mac was taken out of the herd"
            self._strangers.add(self._node_id, reason, self._loop.time())
        self.shed()
        self._on_revoked()

    def _remember(self, state: NodeState) -> None:
        what = state.name, merged(state.addresses)
        if what[1] and self._remembered.get(state.node_id) != what:
            self._remembered[state.node_id] = what
            self._trust.remember(state.node_id, *what)

    def _refusal(self, node_id: str, problem: str) -> HerdError:
        self._strangers.add(node_id, problem, self._loop.time())
        code = ErrorCode.UNAUTHORIZED if node_id in self._trust.revoked else ErrorCode.FORBIDDEN
        return HerdError(code, f"Not let in: {problem}.")
