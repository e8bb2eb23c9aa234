"""Who gets memory, and a place among the engines, when there is not enough for all. Pure arithmetic over the state.

A lane that does not fit *claims* room: what is free, then what idle engines hold (they end, the longest unused first),
then what busy ones hold. A busy engine without waiting work runs out by itself. One with waiting work has a *turn*: it
goes on for as long as the load of the claimant's engine takes, counted from when the claimant came or the engine was
ready, whichever is later. Then it starts nothing more that came after the claimant, runs out and ends. Of what came
before the claimant it may start `turn_runs` in that time, and goes on until it has; then it gives up its place.

So a swap pays: each engine may work at least as long as the load that ends its turn takes. And nobody starves: with two
lanes, a job that is first in its lane begins no later than

    the longer of its load and of `turn_runs` runs of the other  +  the longest run of the other  +  its load

after it came or after the other was ready, whichever is later, however many wait for the other. A lane's load is what
its last one took, before the first an estimate. With more lanes, those that came before go first, each one turn long.

What an older claim counts on is taken by no younger one, unless its holder is still in its turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from herd_mcp.node.events import EndEngine
from herd_mcp.node.lanes import Engine, EngineKey, Lane, State
from herd_mcp.node.rates import MIN_LOAD_S, READ_BYTES_PER_S

MIN_TURN_RUNS = 8


def turn_runs(capacity: int) -> int:
    """Runs in one turn of an engine that are not disturbed by who came after them."""
    return max(MIN_TURN_RUNS, 2 * capacity)


def load_s(state: State, lane: Lane) -> float:
    """Seconds that loading the lane's engine takes."""
    guess_s = max(MIN_LOAD_S, lane.plan.needs.load_bytes / READ_BYTES_PER_S)
    return state.load_s.get(lane.plan.key, guess_s)


def kept_bytes(lane: Lane, engine: Engine) -> int:
    """What an engine that may not be ended holds without work."""
    return min(engine.reserved_bytes, lane.plan.needs.load_bytes)


def end(key: EngineKey, engine: Engine, reason: str) -> EndEngine:
    """Order the end of an engine; it keeps its memory until it is gone."""
    engine.condemned = True
    return EndEngine(key, engine.generation, reason)


def settle(state: State) -> None:
    """Engines give back what nothing runs for, and take what runs need by what is known now, as far as there is."""
    free_bytes = state.limits.budget_bytes - state.reserved_bytes
    changes = [
        (lane.plan.needs.bytes_for([run.size for run in engine.running.values()]) - engine.reserved_bytes, engine)
        for lane, engine in state.engines()
        if engine.phase == "ready" and not engine.condemned
    ]
    for more, engine in sorted(changes, key=lambda change: change[0]):
        more = min(more, free_bytes)
        engine.reserved_bytes += more
        free_bytes -= more


@dataclass(slots=True)
class Wish:
    """What a lane needs beyond what it has."""

    bytes: int
    places: int = 0
    """1 for an engine, 0 for one more run in it."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What a claim sets aside of what is free. Its victims may use that while they are in their turn."""

    bytes: int
    places: int
    victims: frozenset[EngineKey]


class Room:
    """What there is to give away in one pass over the lanes, which come in the order of their places."""

    def __init__(self, state: State, now: float) -> None:
        self._state = state
        self._now = now
        engines = [engine for _, engine in state.engines()]
        self._free = Wish(state.limits.budget_bytes - state.reserved_bytes, self._free_places(len(engines)))
        leaving = [engine for engine in engines if engine.condemned]
        self._leaving = Wish(sum(engine.reserved_bytes for engine in leaving), len(leaving))
        self._holds: list[Hold] = []
        self._taken: set[EngineKey] = set()
        self.blocked: set[EngineKey] = set()
        """Engines that start nothing: their turn is over."""
        self.claim_at: float | None = None

    def _free_places(self, used: int) -> int:
        most = self._state.limits.max_loaded
        return most - used if most else 1_000_000

    def take(self, lane: Lane, wish: Wish) -> bool:
        """Whether the lane gets it, at once."""
        free = self._free_for(lane)
        if (wish.bytes > 0 and wish.bytes > free.bytes) or wish.places > max(free.places, 0):
            return False
        if wish.places and self._too_short():
            return False
        self._free.bytes -= wish.bytes
        self._free.places -= wish.places
        return True

    def _free_for(self, lane: Lane) -> Wish:
        holds = [hold for hold in self._holds if lane.plan.key not in hold.victims]
        return Wish(
            max(0, self._free.bytes - sum(hold.bytes for hold in holds)),
            max(0, self._free.places - sum(hold.places for hold in holds)),
        )

    def _too_short(self) -> bool:
        """This Mac is so short of memory that no engine starts beside one that works."""
        return self._state.level == "critical" and any(
            engine.running or engine.phase == "starting" for _, engine in self._state.engines()
        )

    def claim(self, lane: Lane, wish: Wish) -> list[EndEngine]:
        """Let room come for what `take` did not give. Returns the idle engines to end, if that is all it needs."""
        free = self._free_for(lane)
        missing = Wish(wish.bytes - free.bytes, wish.places - free.places)
        for_bytes = min(max(missing.bytes, 0), self._leaving.bytes)
        for_places = min(max(missing.places, 0), self._leaving.places)
        self._leaving = Wish(self._leaving.bytes - for_bytes, self._leaving.places - for_places)
        missing = Wish(missing.bytes - for_bytes, missing.places - for_places)
        all_of_it = wish.places > 0 and self._too_short()
        # Its own runs end first: for one more of them, and for what no job asks for, only engines without any work go.
        patient = lane.head is None or (lane.engine is not None and bool(lane.engine.running))
        victims: list[tuple[Lane, Engine]] = []
        for other, engine, gain in self._victims(lane):
            if not all_of_it and missing.bytes <= 0 and missing.places <= 0:
                break
            useful = gain.bytes or gain.places or all_of_it
            if not useful or (patient and (other.head is not None or not self._idle(other, engine, lane))):
                continue
            victims.append((other, engine))
            missing = Wish(missing.bytes - gain.bytes, missing.places - gain.places)
        keys = frozenset(other.plan.key for other, _ in victims)
        self._holds.append(
            Hold(
                max(0, min(free.bytes, free.bytes + missing.bytes)),
                max(0, min(free.places, free.places + missing.places)),
                keys,
            )
        )
        if not all_of_it and (missing.bytes > 0 or missing.places > 0):
            return []
        self._taken |= keys
        if not all_of_it and all(self._idle(other, engine, lane) for other, engine in victims):
            return [end(other.plan.key, engine, f"room for {lane.plan.spec.model}") for other, engine in victims]
        for other, engine in victims:
            self._press(other, engine, lane)
        return []

    def _victims(self, lane: Lane) -> Iterator[tuple[Lane, Engine, Wish]]:
        """Engines whose memory the lane may count on, with what each has to give.

        Of those with work, the ones that started a run longest ago come first: who is held back then stays chosen.
        """
        able = [
            (other, engine)
            for other, engine in self._state.engines()
            if other is not lane and not engine.condemned and other.plan.key not in self._taken
        ]
        able.sort(key=lambda pair: self._order(pair[0], pair[1], lane))
        for other, engine in able:
            if other.plan.pinned:
                yield other, engine, Wish(engine.reserved_bytes - kept_bytes(other, engine))
            else:
                yield other, engine, Wish(engine.reserved_bytes, 1)

    def _order(self, other: Lane, engine: Engine, lane: Lane) -> tuple[bool, float]:
        if self._idle(other, engine, lane):
            return False, engine.last_used_at
        return True, engine.starts[-1] if engine.starts else engine.started_at

    def _idle(self, other: Lane, engine: Engine, lane: Lane) -> bool:
        """Whether an engine may be ended at once for `lane`."""
        if engine.phase != "ready" or engine.running or other.plan.pinned:
            return False
        return other.head is None or (other.place > lane.place and self._now >= self._turn_ends_at(engine, lane))

    def _turn_ends_at(self, engine: Engine, lane: Lane) -> float:
        return self._turn_began_at(engine, lane) + load_s(self._state, lane)

    def _turn_began_at(self, engine: Engine, lane: Lane) -> float:
        return float("inf") if engine.ready_at is None else max(lane.place[0], engine.ready_at)

    def _press(self, other: Lane, engine: Engine, lane: Lane) -> None:
        """Hold the engine back when its turn is over."""
        if engine.ready_at is None:
            return
        over_at = self._turn_ends_at(engine, lane)
        if self._now < over_at:
            self.claim_at = over_at if self.claim_at is None else min(over_at, self.claim_at)
        elif other.place > lane.place:
            self.blocked.add(other.plan.key)
        elif len(engine.starts) == engine.starts.maxlen and engine.starts[0] > self._turn_began_at(engine, lane):
            other.yielded = (self._now, self._state.number())
