"""The decisions of a node, as tables and as properties: no clock, no process, no disk."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from herd_mcp import pipe
from herd_mcp.jobs import ErrorCode, ErrorInfo, ImageRequest
from herd_mcp.node.decide import decide, next_tick_at
from herd_mcp.node.events import (
    Cancel,
    Close,
    Drain,
    Effect,
    EndEngine,
    Event,
    Exited,
    Heard,
    Refuse,
    Release,
    Send,
    StartEngine,
    Submit,
    Tell,
    Tick,
)
from herd_mcp.node.lanes import EngineKey, Limits, Plan, State

LIMITS = Limits(queue_limit=3, idle_unload_s=300, load_timeout_s=60, engine_stall_s=30, budget_bytes=100)
READY = pipe.Ready(weights_bytes=1, active_bytes=1, peak_bytes=1)
TERMINAL = ("completed", "failed", "cancelled")


def new_state(limits: Limits = LIMITS) -> State:
    return State(node="here", limits=limits)


def submit(job_id: str, model: str = "a", *, reserve: int = 60, capacity: int = 1, timeout_s: float = 1e9) -> Submit:
    spec = pipe.EngineSpec(kind="image", model=model, path=f"/{model}")
    plan = Plan(EngineKey(model), spec, reserve_bytes=reserve, capacity=capacity)
    return Submit(job_id, 1, ImageRequest(prompt="x"), plan, spool="/spool", timeout_s=timeout_s)


def play(state: State, *events: Event, now: float = 0.0) -> list[Effect]:
    return [effect for event in events for effect in decide(state, event, now)]


def started(effects: list[Effect]) -> list[StartEngine]:
    return [effect for effect in effects if isinstance(effect, StartEngine)]


def ended(effects: list[Effect]) -> list[str]:
    return [effect.key.model for effect in effects if isinstance(effect, EndEngine)]


def told(effects: list[Effect], job_id: str) -> list[str]:
    return [effect.event.type for effect in effects if isinstance(effect, Tell) and effect.job_id == job_id]


def begun(effects: list[Effect]) -> list[int]:
    return [e.command.run for e in effects if isinstance(e, Send) and isinstance(e.command, pipe.Start)]


def ready(state: State, model: str = "a", now: float = 0.0) -> list[Effect]:
    engine = state.lanes[EngineKey(model)].engine
    assert engine is not None
    return play(state, Heard(EngineKey(model), engine.generation, READY), now=now)


def gone(state: State, model: str = "a", reason: str = "it was killed") -> list[Effect]:
    engine = state.lanes[EngineKey(model)].engine
    assert engine is not None
    return play(state, Exited(EngineKey(model), engine.generation, reason))


def done(state: State, run: int, model: str = "a") -> list[Effect]:
    engine = state.lanes[EngineKey(model)].engine
    assert engine is not None
    facts = pipe.ImageFacts(width=64, height=64, steps=4, seed=1, guidance=None, quantize=None, run_s=1.0)
    return play(state, Heard(EngineKey(model), engine.generation, pipe.Done(run=run, facts=facts)))


def test_a_job_is_not_started_before_it_is_released() -> None:
    state = new_state()
    assert started(play(state, submit("j"))) == []
    assert len(started(play(state, Release("j")))) == 1


def test_a_ready_engine_starts_the_next_job_when_one_is_done() -> None:
    state = new_state()
    play(state, submit("j1"), submit("j2"), Release("j1"), Release("j2"))
    first = begun(ready(state))
    assert len(first) == 1
    effects = done(state, first[0])
    assert told(effects, "j1") == ["completed"]
    assert len(begun(effects)) == 1


def test_the_queue_is_bounded_and_says_when_to_come_back() -> None:
    state = new_state()
    play(state, submit("j1"), submit("j2"), submit("j3"))
    (refusal,) = play(state, submit("j4"))
    assert isinstance(refusal, Refuse)
    assert refusal.error.code == ErrorCode.BUSY
    assert refusal.error.details["retry_after_s"] >= 1


def test_a_model_larger_than_the_budget_is_refused_with_the_numbers() -> None:
    (refusal,) = play(new_state(), submit("j", reserve=101))
    assert isinstance(refusal, Refuse)
    assert refusal.error.code == ErrorCode.INSUFFICIENT_MEMORY
    assert refusal.error.details == {"needed_bytes": 101, "budget_bytes": 100}


def test_an_idle_engine_makes_room_and_the_next_starts_only_when_it_is_gone() -> None:
    state = new_state()
    play(state, submit("j1"), Release("j1"))
    done(state, begun(ready(state))[0])
    effects = play(state, submit("j2", "b"), Release("j2"))
    assert ended(effects) == ["a"]
    assert started(effects) == []
    assert [start.key.model for start in started(gone(state))] == ["b"]


def test_a_busy_engine_is_not_ended_and_starts_nothing_younger_than_the_job_that_waits_for_room() -> None:
    state = new_state()
    play(state, submit("j1"), Release("j1"))
    run = begun(ready(state))[0]
    assert ended(play(state, submit("j2", "b"), Release("j2"))) == []
    play(state, submit("j3", "a"), Release("j3"), now=1.0)
    effects = done(state, run)
    assert begun(effects) == []
    assert ended(effects) == ["a"]


def test_two_engines_run_beside_each_other_when_both_fit() -> None:
    state = new_state()
    effects = play(state, submit("j1", "a", reserve=50), submit("j2", "b", reserve=50), Release("j1"), Release("j2"))
    assert sorted(start.key.model for start in started(effects)) == ["a", "b"]


def test_a_job_that_waits_is_cancelled_at_once_and_a_running_one_by_its_engine() -> None:
    state = new_state()
    play(state, submit("j1"), submit("j2"), Release("j1"), Release("j2"))
    (run,) = begun(ready(state))
    assert told(play(state, Cancel("j2")), "j2") == ["cancelled"]
    effects = play(state, Cancel("j1"))
    assert told(effects, "j1") == []
    assert [e.command for e in effects if isinstance(e, Send)] == [pipe.Cancel(run=run)]
    engine = state.lanes[EngineKey("a")].engine
    assert engine is not None
    over = play(state, Heard(EngineKey("a"), engine.generation, pipe.RunCancelled(run=run)))
    assert told(over, "j1") == ["cancelled"]


def test_jobs_of_an_engine_that_dies_fail_and_those_that_wait_get_a_new_one() -> None:
    state = new_state()
    play(state, submit("j1"), submit("j2"), Release("j1"), Release("j2"))
    ready(state)
    effects = gone(state)
    assert told(effects, "j1") == ["failed"]
    assert told(effects, "j2") == []
    assert len(started(effects)) == 1


def test_a_model_that_does_not_load_fails_all_who_wait_for_it_with_its_reason() -> None:
    state = new_state()
    play(state, submit("j1"), submit("j2"), Release("j1"), Release("j2"))
    engine = state.lanes[EngineKey("a")].engine
    assert engine is not None
    error = ErrorInfo(code=ErrorCode.MODEL_INCOMPLETE, message="vae/ is empty.")
    play(state, Heard(EngineKey("a"), engine.generation, pipe.LoadFailed(error=error)))
    failures = [e.event for e in gone(state) if isinstance(e, Tell)]
    assert [getattr(event, "error", None) for event in failures] == [error, error]


def test_words_of_an_engine_that_was_replaced_are_not_heard() -> None:
    state = new_state()
    play(state, submit("j1"), submit("j2"), Release("j1"), Release("j2"))
    old = state.lanes[EngineKey("a")].engine
    assert old is not None
    (run,) = begun(ready(state))
    gone(state)
    facts = pipe.ImageFacts(width=64, height=64, steps=4, seed=1, guidance=None, quantize=None, run_s=1.0)
    late = Heard(EngineKey("a"), old.generation, pipe.Done(run=run, facts=facts))
    assert play(state, late) == []


def test_an_engine_that_says_nothing_while_it_works_is_ended_once() -> None:
    state = new_state()
    play(state, submit("j1"), Release("j1"))
    ready(state)
    assert ended(play(state, Tick(), now=29.0)) == []
    assert ended(play(state, Tick(), now=30.0)) == ["a"]
    assert ended(play(state, Tick(), now=31.0)) == []


def test_an_idle_engine_is_not_taken_for_hung_and_ends_after_its_time() -> None:
    state = new_state()
    play(state, submit("j1"), Release("j1"))
    done(state, begun(ready(state))[0])
    assert next_tick_at(state) == 300
    assert ended(play(state, Tick(), now=299.0)) == []
    assert ended(play(state, Tick(), now=300.0)) == ["a"]


def test_work_after_a_long_idle_time_is_not_a_stall() -> None:
    state = new_state()
    play(state, submit("j1"), Release("j1"))
    done(state, begun(ready(state))[0])
    play(state, submit("j2"), Release("j2"), now=200.0)
    assert ended(play(state, Tick(), now=201.0)) == []


def test_a_job_over_its_time_fails_and_its_engine_is_told_to_let_go() -> None:
    state = new_state()
    play(state, submit("j1", timeout_s=10), Release("j1"))
    (run,) = begun(ready(state))
    effects = play(state, Tick(), now=10.0)
    assert told(effects, "j1") == ["failed"]
    assert [e.command for e in effects if isinstance(e, Send)] == [pipe.Cancel(run=run)]
    assert told(done(state, run), "j1") == []


def test_loading_longer_than_the_setting_ends_the_engine() -> None:
    state = new_state(Limits(3, 300, load_timeout_s=20, engine_stall_s=30, budget_bytes=100))
    play(state, submit("j1"), Release("j1"))
    assert ended(play(state, Tick(), now=20.0)) == ["a"]
    assert told(gone(state), "j1") == ["failed"]


def test_a_draining_node_refuses_new_jobs_and_takes_those_it_had_accepted() -> None:
    state = new_state()
    (refusal,) = play(state, Drain(), submit("j1"))
    assert isinstance(refusal, Refuse)
    assert refusal.error.code == ErrorCode.DRAINING


def test_a_node_that_ends_starts_nothing_for_those_who_wait() -> None:
    state = new_state()
    play(state, submit("j1"), submit("j2"), Release("j1"), Release("j2"))
    ready(state)
    play(state, Close())
    assert started(gone(state)) == []


# ── Any order of events ───────────────────────────────────────────────────────────────────────────────────────────────

MODELS = {"a": (60, 1), "b": (50, 4), "c": (30, 2), "big": (101, 1)}


class World:
    """Engines and owners that do what they may in any order; counts what each job was told."""

    def __init__(self) -> None:
        self.state = new_state()
        self.now = 0.0
        self.live: dict[tuple[str, int], dict[int, str]] = {}
        self.outcomes: Counter[str] = Counter()
        self.submitted: list[str] = []
        self.released: set[str] = set()

    def do(self, event: Event) -> None:
        self.carry_out(decide(self.state, event, self.now))
        self.check()

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Refuse(job_id, _):
                    self.outcomes[job_id] += 1
                case Tell(job_id, _, event) if event.type in TERMINAL:
                    self.outcomes[job_id] += 1
                case StartEngine(key, generation, _):
                    self.live[key.model, generation] = {}
                case Send(key, generation, pipe.Start(run=run)):
                    jobs = {r.number: r.job_id for r in self.state.runs.values()}
                    assert jobs[run] in self.released, "a job was started before it was on disk"
                    self.live[key.model, generation][run] = jobs[run]

    def check(self) -> None:
        assert self.state.reserved_bytes <= self.state.limits.budget_bytes
        assert all(count == 1 for count in self.outcomes.values()), "an outcome was told twice"
        for lane in self.state.lanes.values():
            if lane.engine is not None:
                assert len(lane.engine.running) <= lane.plan.capacity
        due = next_tick_at(self.state)
        assert due is None or due > self.now - 1e9

    def engine(self, index: int) -> tuple[str, int] | None:
        keys = sorted(self.live)
        return keys[index % len(keys)] if keys else None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "release", "cancel", "ready", "over", "fail", "gone", "tick", "wait"]),
        st.integers(0, 9),
        st.sampled_from(sorted(MODELS)),
    ),
    max_size=80,
)


def act(world: World, what: str, index: int, model: str) -> None:
    if what == "submit":
        job_id = f"j{len(world.submitted)}"
        world.submitted.append(job_id)
        reserve, capacity = MODELS[model]
        world.do(submit(job_id, model, reserve=reserve, capacity=capacity, timeout_s=500))
    elif what in ("release", "cancel") and world.submitted:
        job_id = world.submitted[index % len(world.submitted)]
        world.released |= {job_id} if what == "release" else set()
        world.do(Release(job_id) if what == "release" else Cancel(job_id))
    elif what in ("tick", "wait"):
        world.now += 1 if what == "tick" else 40
        world.do(Tick())
    elif (engine := world.engine(index)) is not None:
        act_engine(world, what, index, engine)


def act_engine(world: World, what: str, index: int, engine: tuple[str, int]) -> None:
    model, generation = engine
    key = EngineKey(model)
    runs = sorted(world.live[engine])
    if what == "ready":
        world.do(Heard(key, generation, READY))
    elif what == "gone":
        del world.live[engine]
        world.do(Exited(key, generation, "it was killed"))
    elif what in ("over", "fail") and runs:
        run = runs[index % len(runs)]
        del world.live[engine][run]
        error = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="no")
        message = pipe.RunCancelled(run=run) if what == "over" else pipe.RunFailed(run=run, error=error)
        world.do(Heard(key, generation, message))


@given(STEPS)
def test_in_any_order_of_events_memory_is_never_over_and_every_job_has_one_outcome(
    steps: list[tuple[str, int, str]],
) -> None:
    world = World()
    for what, index, model in steps:
        act(world, what, index, model)
    # Then all goes well until nothing is left to do.
    for job_id in world.submitted:
        world.released.add(job_id)
        world.do(Release(job_id))
    for _ in range(20 * len(world.submitted) + 20):
        condemned = {(lane.plan.key.model, e.generation) for lane, e in world.state.engines() if e.condemned}
        for engine in sorted(world.live):
            if engine not in world.live:
                continue
            act_engine(world, "gone" if engine in condemned else "ready", 0, engine)
            while world.live.get(engine):
                act_engine(world, "over", 0, engine)
    assert world.state.runs == {}
    assert world.outcomes == Counter(world.submitted)
