"""The decisions of a node, as tables: no clock, no process, no disk."""

from __future__ import annotations

from dataclasses import replace

from herd_mcp import pipe
from herd_mcp.jobs import ChatRequest, ErrorCode, ErrorInfo, ImageRequest, Kind
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
from herd_mcp.node.memory import Needs

LIMITS = Limits(queue_limit=3, idle_unload_s=300, load_timeout_s=60, engine_stall_s=30, budget_bytes=100)
DRAW = ImageRequest(prompt="x")
TALK = ChatRequest.model_validate({"messages": [{"role": "user", "content": "x"}], "max_tokens": 10})
READY = pipe.Ready(weights_bytes=1, active_bytes=1, peak_bytes=1)


def new_state(limits: Limits = LIMITS) -> State:
    return State(node="here", limits=limits)


def submit(
    job_id: str,
    model: str = "a",
    *,
    reserve: int = 60,
    capacity: int = 1,
    timeout_s: float = 1e9,
    size: int = 0,
    plan: Plan | None = None,
) -> Submit:
    plan = plan or plan_of(model, Needs(reserve), capacity)
    request = TALK if plan.spec.kind == "chat" else DRAW
    return Submit(job_id, 1, request, plan, spool="/spool", timeout_s=timeout_s, size=size)


def plan_of(model: str, needs: Needs, capacity: int = 1, *, kind: Kind = "image", pinned: bool = False) -> Plan:
    spec = pipe.EngineSpec(kind=kind, model=model, path=f"/{model}")
    return Plan(EngineKey(model), spec, needs, capacity, pinned=pinned)


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


def done(state: State, run: int, model: str = "a", now: float = 0.0) -> list[Effect]:
    engine = state.lanes[EngineKey(model)].engine
    assert engine is not None
    facts = pipe.ImageFacts(width=64, height=64, steps=4, seed=1, guidance=None, quantize=None, run_s=1.0)
    return play(state, Heard(EngineKey(model), engine.generation, pipe.Done(run=run, facts=facts)), now=now)


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


def test_a_busy_engine_is_not_ended_and_when_its_turn_is_over_starts_nothing_younger_than_the_job_that_waits() -> None:
    state = new_state()
    play(state, submit("j1"), Release("j1"))
    run = begun(ready(state))[0]
    assert ended(play(state, submit("j2", "b"), Release("j2"))) == []
    play(state, submit("j3", "a"), Release("j3"), now=1.0)
    effects = done(state, run, now=1.0)
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


def test_all_jobs_of_an_engine_that_dies_are_told_and_run_again_one_at_a_time() -> None:
    state = new_state()
    jobs = [submit(f"j{n}", capacity=4) for n in range(3)]
    play(state, *jobs, *(Release(job.job_id) for job in jobs))
    assert len(begun(ready(state))) == 3
    effects = gone(state)
    assert [told(effects, job.job_id) for job in jobs] == [["failed"]] * 3
    assert state.runs == {}
    assert state.lanes == {}
    fresh = submit("new", capacity=4)
    again = [replace(job, attempt=2, forced=True, alone=True) for job in jobs[:2]]
    play(state, fresh, *again, Release("new"), *(Release(job.job_id, job.attempt) for job in again))
    order = begun(ready(state))
    for _ in range(3):
        assert len(order) == 1
        order = begun(done(state, order[0]))
    assert order == []


def test_an_engine_that_says_it_is_dying_gets_no_more_work() -> None:
    state = new_state()
    play(state, submit("j1"), submit("j2"), Release("j1"), Release("j2"))
    (run,) = begun(ready(state))
    engine = state.lanes[EngineKey("a")].engine
    assert engine is not None
    error = ErrorInfo(code=ErrorCode.ENGINE_CRASHED, message="a step raised")
    effects = play(state, Heard(EngineKey("a"), engine.generation, pipe.RunFailed(run=run, error=error)))
    assert told(effects, "j1") == ["failed"]
    assert ended(effects) == ["a"]
    assert begun(effects) == []


def test_an_engine_that_does_not_let_go_of_a_run_is_ended_though_it_works_on() -> None:
    state = new_state()
    play(state, submit("j1"), Release("j1"))
    ready(state)
    engine = state.lanes[EngineKey("a")].engine
    assert engine is not None
    play(state, Cancel("j1"))
    assert next_tick_at(state) == 30
    play(state, Heard(EngineKey("a"), engine.generation, pipe.Step(work=1)), now=29.0)
    assert ended(play(state, Tick(), now=30.0)) == ["a"]


def test_a_node_that_has_ended_takes_no_job_back() -> None:
    state = new_state()
    (refusal,) = play(state, Close(), replace(submit("j1"), forced=True))
    assert isinstance(refusal, Refuse)
    assert refusal.error.code == ErrorCode.INTERRUPTED
