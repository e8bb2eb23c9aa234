"""Models of which only some fit at a time, with work for all: who waits how long, and how often models are swapped.
A whole run over `decide` with a virtual clock."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd_mcp import pipe
from herd_mcp.node.decide import decide, next_tick_at
from herd_mcp.node.events import EndEngine, Event, Exited, Heard, Release, Send, StartEngine, Tell, Tick
from herd_mcp.node.lanes import EngineKey, Limits, State
from herd_mcp.node.room import turn_runs
from tests.node.test_decide import READY, submit

FACTS = pipe.ImageFacts(width=64, height=64, steps=4, seed=1, guidance=None, quantize=None, run_s=1.0)
END_S = 0.05
ROOM_FOR_ONE = Limits(1000, idle_unload_s=1e9, load_timeout_s=1e9, engine_stall_s=1e9, budget_bytes=100)


class Clients:
    """So many clients per model, each of whom asks again as soon as it was answered."""

    def __init__(
        self, models: tuple[str, ...], clients: int, *, capacity: int, run_s: float, load_s: float, limits: Limits
    ) -> None:
        self.state = State("here", limits)
        self.capacity, self.run_s, self.load_s = capacity, run_s, load_s
        self.now = 0.0
        self.order = itertools.count()
        self.ends = 0
        self.todo: list[tuple[float, int, Event]] = []
        self.asked: dict[str, tuple[str, float]] = {}
        self.alive: set[str] = set()
        self.waits: list[float] = []
        self.loads: list[tuple[float, str]] = []
        for client in range(clients):
            for model in models:
                self.ask(model, at=client * 0.001)

    def at(self, when: float, event: Event) -> None:
        heapq.heappush(self.todo, (when, next(self.order), event))

    def ask(self, model: str, at: float) -> None:
        job_id = f"{model}{len(self.asked)}"
        self.asked[job_id] = (model, at)
        self.at(at, submit(job_id, model, capacity=self.capacity))
        self.at(at, Release(job_id))

    def run(self, seconds: float) -> None:
        while True:
            tick = next_tick_at(self.state)
            if self.todo and (tick is None or self.todo[0][0] <= tick):
                self.now, _, event = heapq.heappop(self.todo)
            else:
                assert tick is not None, "jobs wait and nothing will happen"
                self.now, event = max(self.now, tick), Tick()
            if self.now > seconds:
                return
            self.do(event)

    def do(self, event: Event) -> None:
        if isinstance(event, Exited):
            self.alive.remove(event.key.model)
        for effect in decide(self.state, event, self.now):
            match effect:
                case StartEngine(key, generation, _):
                    assert not self.alive or self.state.limits.max_loaded > 1, "two are loaded"
                    self.alive.add(key.model)
                    self.loads.append((self.now, key.model))
                    self.at(self.now + self.load_s, Heard(key, generation, READY))
                case EndEngine(key, generation, reason):
                    assert reason.startswith("room for")
                    lane = self.state.lanes[key]
                    assert lane.engine is not None
                    assert not lane.engine.running, "it is ended under a running job"
                    self.at(self.now + END_S, Exited(key, generation, "it was ended"))
                case Send(key, generation, pipe.Start(run=run)):
                    (job_id,) = [r.job_id for r in self.state.runs.values() if r.number == run]
                    assert self.asked[job_id][0] == key.model, "the wrong model would answer"
                    self.waits.append(self.now - self.asked[job_id][1])
                    self.ends += 1
                    run_s = self.run_s * (0.7 + 0.3 * (self.ends * 37 % 100) / 100)  # no two end together
                    self.at(self.now + run_s, Heard(key, generation, pipe.Done(run=run, facts=FACTS)))
                case Tell(job_id, _, told) if told.type == "completed":
                    self.ask(self.asked[job_id][0], at=self.now)

    def waiting_now(self) -> list[float]:
        return [self.now - run.submitted_at for run in self.state.runs.values() if run.started_at is None]


SHAPES = [(1, 0.1, 5.0), (1, 2.0, 5.0), (1, 30.0, 5.0), (4, 1.0, 10.0), (32, 1.0, 3.0), (32, 5.0, 60.0), (8, 0.5, 20.0)]


@pytest.mark.parametrize(("capacity", "run_s", "load_s"), SHAPES)
@pytest.mark.parametrize("limits", [ROOM_FOR_ONE, replace(ROOM_FOR_ONE, budget_bytes=1000, max_loaded=1)])
def test_two_models_with_twenty_clients_each_and_room_for_one_wait_no_longer_than_a_turn_each(
    capacity: int, run_s: float, load_s: float, limits: Limits
) -> None:
    world = Clients(("a", "b"), 20, capacity=capacity, run_s=run_s, load_s=load_s, limits=limits)
    turn_s = max(load_s, turn_runs(capacity) / capacity * run_s) + run_s
    swap_s = load_s + END_S
    world.run(12 * (turn_s + swap_s))
    assert all(model != after for (_, model), (_, after) in zip(world.loads, world.loads[1:], strict=False))
    gaps = [later - earlier for (earlier, _), (later, _) in zip(world.loads[1:], world.loads[2:], strict=False)]
    assert min(gaps) >= 2 * load_s, "a swap costs more than the work that it ended"
    assert max(gaps) <= turn_s + swap_s, "the other waits for its turn"
    asked = [wait for wait in world.waits + world.waiting_now() if wait > 0]
    a_turn = capacity * -(-load_s // run_s)
    turns = max(1, -(-20 // a_turn))
    assert max(asked) <= turns * 2 * (turn_s + swap_s) + turn_s


@settings(max_examples=25)
@given(
    st.integers(2, 4),
    st.integers(1, 20),
    st.sampled_from([1, 2, 8, 32]),
    st.floats(0.5, 20),
    st.floats(0.1, 10),
)
def test_whoever_is_first_in_its_lane_begins_within_one_turn_of_each_other_model(
    models: int, clients: int, capacity: int, run_s: float, load_s: float
) -> None:
    names = tuple("abcd"[:models])
    world = Clients(names, clients, capacity=capacity, run_s=run_s, load_s=load_s, limits=ROOM_FOR_ONE)
    guess_s = max(load_s, 1.0)  # before the first load
    turn_s = max(guess_s, turn_runs(capacity) / capacity * run_s + run_s) + run_s + load_s + END_S
    world.run(3 * models * turn_s)
    last = dict.fromkeys(names, 0.0)
    for when, name in world.loads:
        assert when - last[name] <= (models + 1) * turn_s, (name, world.loads, turn_s)
        last[name] = when
    assert all(world.now - when <= (models + 1) * turn_s for when in last.values())


def test_a_model_alone_with_its_clients_is_never_swapped() -> None:
    world = Clients(("a",), 20, capacity=4, run_s=1.0, load_s=5.0, limits=ROOM_FOR_ONE)
    world.run(500)
    assert len(world.loads) == 1


def test_a_model_without_work_gives_its_memory_at_once() -> None:
    world = Clients(("a",), 1, capacity=1, run_s=3.0, load_s=5.0, limits=ROOM_FOR_ONE)
    world.run(7.9)
    world.do(submit("b0", "b"))
    world.asked["b0"] = ("b", 7.9)
    world.do(Release("b0"))
    assert world.loads == [(0.0, "a")]
    decided = decide(world.state, Heard(EngineKey("a"), engine_of(world.state, "a"), done_of(world.state, "a")), 8.0)
    assert [effect.key.model for effect in decided if isinstance(effect, EndEngine)] == ["a"]


def engine_of(state: State, model: str) -> int:
    engine = state.lanes[EngineKey(model)].engine
    assert engine is not None
    return engine.generation


def done_of(state: State, model: str) -> pipe.Done:
    engine = state.lanes[EngineKey(model)].engine
    assert engine is not None
    return pipe.Done(run=next(iter(engine.running)), facts=FACTS)
