"""Places the attempts of this node's jobs on the node that ends them soonest, this one or another."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from herd_mcp.fleet import placement
from herd_mcp.fleet.alone import Alone
from herd_mcp.fleet.ask import Ask, model_of
from herd_mcp.fleet.placement import Place
from herd_mcp.fleet.sent import Addition, Sent
from herd_mcp.jobs import ErrorCode, HerdError, Kind, NodeEstimate
from herd_mcp.orders import Accepted, Later, Order, Placed, Runner
from herd_mcp.state import NodeState

_K = TypeVar("_K")
_V = TypeVar("_V")

REFUSALS = 3
"""So often a job lets itself be turned away; then a node that has said how it is must take it."""
MOST_REFUSALS = 8
"""So often by nodes that had not been asked before, whose reports looked better than they are; then any must."""
TOLD_S = 10.0
"""How long what came with a refusal may count as newer than the reports, which come more often: theirs begin anew from
lower numbers where a node starts with its clock set back."""
UNREACHED_S = 10.0
"""How long a node that was not reached is left out, unless it starts anew before."""
FAILED_S, FAILED_HALF_S, FAILED_MOST_S = 20.0, 30.0, 120.0
"""A failure counts as so many seconds against a node, half of it after that time; together at most so many."""
MOVING_S = 2.0
"""How long a job that is about to move counts where it will go."""
MOST_PLACED = 4_096
PATIENCE_S = 60.0
"""How long a job that was accepted waits for a node: more than a Mac takes to start, or to be noticed again."""
UNREACHED = frozenset({ErrorCode.NODE_LOST, ErrorCode.LOCAL_NETWORK_DENIED})


@dataclass(slots=True)
class _Search:
    """What one job has met so far on its way to a node."""

    order: Order
    later_s: dict[str, float] = field(default_factory=dict)
    """Who turned it away, and when they would have been done."""
    left_s: dict[str, float] = field(default_factory=dict)
    """The nodes that it left, and when it would have been done there."""
    failed: dict[str, HerdError] = field(default_factory=dict)
    refusals: int = 0

    def next_attempt(self) -> None:
        """An attempt that a node did not take, or may have taken without our hearing of it, is over."""
        self.order = self.order.model_copy(update={"attempt": self.order.attempt + 1})


class HerdPlacer:
    """The `Placer` of a node in a herd. `local_state` and `views` give the states of this node and of the others as
    they are known now; `remote` the runner of another node, None where there is no way to it; `preferred` the models
    for requests that name none; `prefix_key` the herd's key for hashes of conversations. `now` is in seconds."""

    patience_s = PATIENCE_S

    def __init__(
        self,
        local: Runner,
        local_state: Callable[[], NodeState],
        views: Callable[[], list[NodeState]],
        remote: Callable[[str], Runner | None],
        *,
        preferred: Callable[[Kind], str | None],
        prefix_key: bytes,
        rng: random.Random,
        now: Callable[[], float] = lambda: asyncio.get_running_loop().time(),
    ) -> None:
        self._local = local
        self._local_state = local_state
        self._views = views
        self._remote = remote
        self._preferred = preferred
        self._prefix_key = prefix_key
        self._rng = rng
        self._now = now
        self._sent = Sent()
        self._told: dict[str, tuple[NodeState, float]] = {}
        """States that came with a refusal, and when: newer than the last report."""
        self._unreached: dict[str, tuple[int, float]] = {}
        """Incarnation of a node that was not reached, and when."""
        self._failed: dict[str, tuple[float, float]] = {}
        """Seconds against a node, and when they were counted."""
        self._placed_at: dict[tuple[str, int], float] = {}
        self._left: dict[str, dict[str, float]] = {}
        """By job that was moved: the nodes that it left, and the moment at which it would have been done there, as was
        thought then: what they tell of themselves is no better since, until one is idle."""

    # ── the Placer ──

    async def place(self, order: Order, *, avoid: frozenset[str] = frozenset()) -> Placed:
        """As `Placer.place`. A node that knows no other answers as if there were no herd."""
        self._sent.drop_everywhere(_moving(order))
        views = self._views()
        if not views:
            return await Alone(self._local).place(order)
        states = self._states(views)
        ask = self._ask(order, states)
        if ask is None:  # no node has such a model: this one says it best
            return Placed(order, self._local, await self._local.reserve(order), ())
        request = order.job.request
        assert request is not None
        resolved = order.job.model_copy(update={"request": request.model_copy(update={"model": ask.model})})
        search = _Search(
            order.model_copy(update={"job": resolved}), left_s=self._from_now(self._left.get(order.job.id, {}))
        )
        while True:
            places = self._rank(ask, states, search, avoid)
            chosen = placement.best(places, self._local.node_id, self._rng)
            if chosen is None:
                chosen = self._as_last(ask, search, places)
            if taken := await self._try(search, ask, chosen):
                self._note_placed(search.order)
                return Placed(search.order, *taken, tuple(place.estimate for place in places))
            states = self._states(self._views())

    def runner(self, node_id: str) -> Runner | None:
        """As `Placer.runner`."""
        return self._runner_of(node_id)

    def elsewhere(self, placed: Placed, *, avoid: frozenset[str] = frozenset()) -> bool:
        """As `Placer.elsewhere`. A job for which it says so counts where it will go until it is placed there."""
        here, views = placed.runner.node_id, self._views()
        states = self._states(views) if views else []
        ask = self._ask(placed.order, states) if states else None
        if ask is None:
            return False
        known = {here} | {state.node_id for state in states if not state.running and not state.queued}
        left = {
            node_id: at_s for node_id, at_s in self._left.get(placed.order.job.id, {}).items() if node_id not in known
        }
        places = self._rank(ask, states, _Search(placed.order, left_s=self._from_now(left)), avoid)
        mine = next((place for place in places if place.state.node_id == here), None)
        there = next((place for place in places if place.state.node_id != here and _free(place)), None)
        if mine is None or there is None or there.estimate.finish_s is None:
            return False
        mine_s = self._mine_s(placed, mine)
        if not placement.much_sooner(mine_s, there.choice_s):
            return False
        self._left[placed.order.job.id] = left | ({here: self._now() + mine_s} if mine_s < float("inf") else {})
        _drop_oldest(self._left, MOST_PLACED)
        addition = _addition(ask, there.estimate)
        self._sent.add(there.state.node_id, _moving(placed.order), addition, self._now(), MOVING_S)
        return True

    def note_failure(self, node_id: str) -> None:
        """An attempt failed there soon after it began: for a while the node is less attractive, and not excluded."""
        self._failed[node_id] = (min(self._penalty_s(node_id) + FAILED_S, FAILED_MOST_S), self._now())

    # ── one try ──

    async def _try(self, search: _Search, ask: Ask, chosen: Place) -> tuple[Runner, Accepted] | None:
        """Ask the node to take it: who did. None where it does not: `search` knows why."""
        node_id = chosen.state.node_id
        runner = self._runner_of(node_id)
        if runner is None:
            search.failed[node_id] = HerdError(ErrorCode.NODE_LOST, f"There is no way to {chosen.state.name}.")
            return None
        must = search.refusals >= MOST_REFUSALS or (search.refusals >= REFUSALS and node_id in search.later_s)
        expects_s = chosen.estimate.finish_s
        search.order = search.order.model_copy(update={"expects_s": expects_s, "must": search.order.must or must})
        key = (search.order.job.id, search.order.attempt)
        self._sent.add(node_id, key, _addition(ask, chosen.estimate), self._now())
        try:
            accepted = await runner.reserve(search.order)
        except Later as refusal:
            self._sent.drop(node_id, key)
            self._turned_away(search, chosen, refusal)
        except HerdError as error:
            self._sent.drop(node_id, key)
            search.failed[node_id] = error
            if error.info.code in UNREACHED and runner is not self._local:
                self._unreached[node_id] = (chosen.state.incarnation, self._now())
        except BaseException:
            self._sent.drop(node_id, key)
            raise
        else:
            self._sent.accepted(node_id, key, accepted.incarnation, accepted.revision)
            return runner, accepted
        search.next_attempt()
        return None

    def _turned_away(self, search: _Search, chosen: Place, refusal: Later) -> None:
        node_id = chosen.state.node_id
        if search.order.must:  # it may not; who does all the same is not asked again
            search.failed[node_id] = HerdError(ErrorCode.BUSY, f"{chosen.state.name} turns jobs away.", retryable=True)
            return
        search.refusals += 1
        search.later_s[node_id] = refusal.finish_s
        if refusal.state is not None and refusal.state.node_id == node_id:
            self._told[node_id] = (refusal.state, self._now())

    def _as_last(self, ask: Ask, search: _Search, places: list[Place]) -> Place:
        """This node, where it has the model and was not asked: it says best itself why it cannot. Raises HerdError."""
        mine = next((place for place in places if place.state.node_id == self._local.node_id), None)
        if mine is None or self._local.node_id in search.failed or model_of(mine.state, ask.model) is None:
            raise self._nobody(search, places)
        return mine

    # ── what is known ──

    def _ask(self, order: Order, states: list[NodeState]) -> Ask | None:
        """What there is to do; None where no node has a model for it."""
        request = order.job.request
        assert request is not None
        preferred = order.job.model or self._preferred(request.kind)
        try:
            name = placement.resolve(request, states, preferred)
        except HerdError as error:
            if error.info.code == ErrorCode.KIND_NOT_SUPPORTED:
                raise
            return None
        return placement.ask_of(request, name, self._prefix_key)

    def _states(self, views: list[NodeState]) -> list[NodeState]:
        return [self._local_state(), *map(self._newest, views)]

    def _newest(self, view: NodeState) -> NodeState:
        told = self._told.get(view.node_id)
        if told is None:
            return view
        state, at_s = told
        reported = (state.incarnation, state.revision) <= (view.incarnation, view.revision)
        if reported or view.status == "offline" or self._now() - at_s > TOLD_S:
            del self._told[view.node_id]
            return view
        return state.model_copy(update={"heard_s": self._now() - at_s})

    def _rank(self, ask: Ask, states: list[NodeState], search: _Search, avoid: frozenset[str]) -> list[Place]:
        now = self._now()
        excluded = {node_id: str(error) for node_id, error in search.failed.items()}
        for state in states:
            if state.node_id not in excluded and self._is_unreached(state):
                excluded[state.node_id] = "it was not reached just now"
        return placement.rank(
            ask,
            states,
            local_id=self._local.node_id,
            sent={
                state.node_id: self._sent.of(state.node_id, state.incarnation, state.revision, now) for state in states
            },
            excluded=excluded,
            later_s=search.left_s | search.later_s,
            penalty_s={node_id: self._penalty_s(node_id) for node_id in list(self._failed)},
            avoid=avoid,
        )

    def _is_unreached(self, state: NodeState) -> bool:
        entry = self._unreached.get(state.node_id)
        if entry is None:
            return False
        incarnation, at_s = entry
        if state.incarnation > incarnation or self._now() - at_s > UNREACHED_S:
            del self._unreached[state.node_id]
            return False
        return True

    def _penalty_s(self, node_id: str) -> float:
        seconds, at_s = self._failed.get(node_id, (0.0, 0.0))
        left_s = seconds * 0.5 ** ((self._now() - at_s) / FAILED_HALF_S) if seconds else 0.0
        if seconds and left_s < 0.1:
            del self._failed[node_id]
        return left_s

    def _runner_of(self, node_id: str) -> Runner | None:
        return self._local if node_id == self._local.node_id else self._remote(node_id)

    def _from_now(self, moments: dict[str, float]) -> dict[str, float]:
        return {node_id: at_s - self._now() for node_id, at_s in moments.items()}

    def _note_placed(self, order: Order) -> None:
        self._placed_at[order.job.id, order.attempt] = self._now()
        _drop_oldest(self._placed_at, MOST_PLACED)

    def _mine_s(self, placed: Placed, mine: Place) -> float:
        """When a job that waits on its node will be done there. All that the node has ahead, which contains the job
        and those behind it; sooner if it was expected sooner. One that is late is taken to be as late again, since the
        node knows less of its engines than it tells: one may hang."""
        row = mine.estimate
        if row.finish_s is None or mine.put_off:  # the node is out of it by now
            return float("inf")
        service_s = row.service_s or 0.0
        all_s = row.finish_s - service_s
        at_s = self._placed_at.get((placed.order.job.id, placed.order.attempt))
        if at_s is None or placed.order.expects_s is None:
            return all_s
        left_s = placed.order.expects_s - (self._now() - at_s)
        late_s = service_s - left_s
        return max(all_s, late_s) if late_s > 0 else min(all_s, left_s)

    # ── when nobody takes it ──

    def _nobody(self, search: _Search, places: list[Place]) -> HerdError:
        """Why, in the words of who knows best; `details["nodes"]` has the reason of each node."""
        nodes = {place.state.name: place.estimate.reason for place in places}
        busy = [error for error in search.failed.values() if error.info.code == ErrorCode.BUSY]
        mine = search.failed.get(self._local.node_id)
        if busy:  # one of them will have room again
            return _with_nodes(min(busy, key=_retry_after_s), nodes)
        if mine is not None:
            return _with_nodes(mine, nodes)
        reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in nodes.items())
        return HerdError(
            ErrorCode.NO_NODE,
            f"No Mac of the herd can take this now ({reasons}).",
            "`herd-mcp status` shows each of them.",
            retryable=True,
            details={"nodes": nodes},
        )


def _addition(ask: Ask, row: NodeEstimate) -> Addition:
    return Addition(ask.kind, ask.model, row.service_s or 0.0, row.load_s or 0.0)


def _drop_oldest(entries: dict[_K, _V], most: int) -> None:
    while len(entries) > most:
        del entries[next(iter(entries))]


def _free(place: Place) -> bool:
    return place.able and not place.last and not place.put_off


def _moving(order: Order) -> tuple[str, str]:
    """The key of a job that is about to move, whatever its attempt."""
    return "moving", order.job.id


def _retry_after_s(error: HerdError) -> float:
    after = error.info.details.get("retry_after_s")
    return float(after) if isinstance(after, int | float) else float("inf")


def _with_nodes(error: HerdError, nodes: dict[str, str]) -> HerdError:
    return HerdError.of(error.info.model_copy(update={"details": error.info.details | {"nodes": nodes}}))
