"""Who is in the herd and how they are, as seen from one node. Arithmetic only: the time is given, nothing is sent.

All times are seconds of one clock of the receiver; clocks of other nodes are compared with nothing but themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from herd_mcp.state import WIRE_MAJOR, NodeState

Status = Literal["online", "draining", "degraded", "offline"]
Report = Literal["new", "same", "old", "double", "full"]
"""What a report was: `double` is of an earlier start than one that is there, `full` of one node too many."""

MOST_NODES = 32
"""In one herd, this node among them."""
DEGRADED_S = 15.0
"""Without a report for this long a node is degraded."""
OFFLINE_S = 30.0
"""The same for offline."""
FORGOTTEN_S = 24 * 3600.0
"""The same until it is not listed any more. Its addresses stay remembered."""
FAILED_CALLS = 2
"""So many calls in a row that did not reach a node make it degraded, though it may be heard of."""
BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 30.0
"""Before the second call to a node that was not reached, doubled for each further one; and the longest."""


@dataclass(frozen=True, slots=True)
class View:
    """What is known of another node."""

    state: NodeState
    """The newest that it told."""
    heard_at: float
    woke_at: float | None = None
    """This Mac slept, or did not run, until then, and has not heard of the node since."""
    failures: int = 0
    """Calls in a row that did not reach it."""
    why: str = ""
    """What was wrong with the last of them."""


def age_of(state: NodeState) -> tuple[int, int]:
    """What tells the newer of two states of one node."""
    return state.incarnation, state.revision


def after_report(view: View | None, state: NodeState, now: float) -> View | None:
    """The view after a report of the node itself; None if the report is older than what is known.

    An earlier start counts only when the later one is silent: then the node's clock was set back between the two. A
    report that was merely late cannot be that late, since every call ends sooner.
    """
    if view is None:
        return View(state, now)
    if state.incarnation != view.state.incarnation:
        if state.incarnation < view.state.incarnation and silent_s(view, now) < OFFLINE_S:
            return None
        return View(state, now)
    if state.revision < view.state.revision:
        return None
    return replace(view, state=state, heard_at=now, woke_at=None)


def after_failure(view: View, why: str) -> View:
    """The view after a call that did not reach the node."""
    return replace(view, failures=view.failures + 1, why=why)


def after_sleep(view: View, now: float, unseen_s: float) -> View:
    """The view after this Mac slept: stale until the next report. `unseen_s` of it are not on the clock of `now`."""
    if status_of(view, now)[0] == "offline":
        return replace(view, heard_at=view.heard_at - unseen_s)
    return replace(view, heard_at=view.heard_at - unseen_s, woke_at=now)


def silent_s(view: View, now: float) -> float:
    """For how long this node has listened to the other in vain."""
    return now - (view.heard_at if view.woke_at is None else view.woke_at)


def status_of(view: View, now: float) -> tuple[Status, str]:
    """How a node is, and why it is not online.

    1. It said that it ends: offline.
    2. Silent for OFFLINE_S: offline.
    3. Not heard of since this Mac slept, or silent for DEGRADED_S: degraded.
    4. FAILED_CALLS in a row did not reach it: degraded, whatever it tells, since no work can be brought to it.
    5. What it says of itself.
    """
    why = f": {view.why}" if view.failures else ""
    silent = silent_s(view, now)
    if view.state.status == "offline":
        return "offline", view.state.reason or "it was stopped"
    if silent >= OFFLINE_S:
        return "offline", f"not heard of for {now - view.heard_at:.0f} s{why}"
    if view.woke_at is not None:
        return "degraded", f"not heard of since this Mac slept{why}"
    if silent >= DEGRADED_S:
        return "degraded", f"not heard of for {silent:.0f} s{why}"
    if view.failures >= FAILED_CALLS:
        return "degraded", f"it does not answer{why}"
    return view.state.status, view.state.reason


def seen(view: View, now: float) -> NodeState:
    """The node's state with its status as it is seen from here."""
    status, reason = status_of(view, now)
    heard_s = min(max(now - view.heard_at, 0.0), 1e8)
    return view.state.model_copy(update={"status": status, "reason": reason[:1000], "heard_s": round(heard_s, 1)})


def backoff_s(failures: int) -> float:
    """How long to wait after so many failed calls in a row, seconds."""
    return min(BACKOFF_S * 2.0 ** min(failures - 1, 10), LONGEST_BACKOFF_S) if failures else 0.0


def wire_problem(wire: tuple[int, int]) -> str:
    """Why a node that speaks this version cannot work with this one; empty if it can."""
    if wire[0] == WIRE_MAJOR:
        return ""
    older = "this Mac" if wire[0] > WIRE_MAJOR else "that Mac"
    return f"it speaks version {wire[0]} between nodes and this Mac version {WIRE_MAJOR}: update herd-mcp on {older}"


def told_apart(states: Iterable[NodeState], taken: Collection[str] = ()) -> list[NodeState]:
    """The states, by name, with a part of the id after names that several have, or that are `taken`."""
    ordered = sorted(states, key=lambda state: (state.name, state.node_id))
    names = Counter(state.name.casefold() for state in ordered)
    names.update(name.casefold() for name in taken)
    return [
        state.model_copy(update={"name": f"{state.name[:52]}-{state.node_id}"})
        if names[state.name.casefold()] > 1
        else state
        for state in ordered
    ]


class Members:
    """The views of all other nodes. Never more than MOST_NODES with this one."""

    def __init__(self) -> None:
        self.views: dict[str, View] = {}

    def report(self, state: NodeState, now: float) -> Report:
        """Take a node's own report. Only of `new` and `same` ones is anything kept."""
        before = self.views.get(state.node_id)
        if before is None and not self._room(now):
            return "full"
        after = after_report(before, state, now)
        if after is None:
            return "double" if before and state.incarnation < before.state.incarnation else "old"
        self.views[state.node_id] = after
        return "same" if before and age_of(before.state) == age_of(state) else "new"

    def reached(self, node_id: str) -> None:
        """A call to the node was answered."""
        if (view := self.views.get(node_id)) and view.failures:
            self.views[node_id] = replace(view, failures=0, why="")

    def failed(self, node_id: str, why: str) -> None:
        """A call did not reach it."""
        if view := self.views.get(node_id):
            self.views[node_id] = after_failure(view, why)

    def slept(self, now: float, unseen_s: float) -> None:
        """This Mac slept, or did not run, until now."""
        self.views = {node_id: after_sleep(view, now, unseen_s) for node_id, view in self.views.items()}

    def drop(self, node_ids: Collection[str]) -> None:
        """Know nothing of these any more."""
        for node_id in node_ids:
            self.views.pop(node_id, None)

    def forget(self, now: float) -> None:
        """Drop those that have been gone for long."""
        self.drop([node_id for node_id, view in self.views.items() if now - view.heard_at >= FORGOTTEN_S])

    def statuses(self, now: float) -> dict[str, Status]:
        return {node_id: status_of(view, now)[0] for node_id, view in self.views.items()}

    def shown(self, now: float, own_name: str) -> list[NodeState]:
        """All others as they are seen from here, by name."""
        return told_apart((seen(view, now) for view in self.views.values()), (own_name,))

    def _room(self, now: float) -> bool:
        """Whether one more may come in; of a full herd the one that is offline for longest goes."""
        if len(self.views) < MOST_NODES - 1:
            return True
        gone = [
            (view.heard_at, node_id) for node_id, view in self.views.items() if status_of(view, now)[0] == "offline"
        ]
        self.drop([min(gone)[1]] if gone else [])
        return bool(gone)
