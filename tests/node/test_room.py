"""Who gets memory and a place among the engines, as tables: no clock, no process, no disk. The budget is 100 bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from herd_mcp import pipe
from herd_mcp.jobs import ErrorCode, ErrorInfo
from herd_mcp.node.decide import next_tick_at
from herd_mcp.node.events import (
    Cancel,
    Close,
    Drain,
    Effect,
    Heard,
    Measured,
    Refuse,
    Release,
    Tell,
    Tick,
    Unload,
    Warm,
)
from herd_mcp.node.lanes import Engine, EngineKey, Plan, Run, State, capacity_at
from herd_mcp.node.memory import Needs
from herd_mcp.node.room import load_s, turn_runs
from herd_mcp.state import Level
from tests.node.test_decide import (
    LIMITS,
    begun,
    done,
    ended,
    gone,
    new_state,
    plan_of,
    play,
    ready,
    started,
    submit,
    told,
)

PX = Needs(20, work_bytes=10, px_bytes=1.0)
TOKENS = Needs(20, work_bytes=10, cache=pipe.CacheShape(fixed_bytes=10))
CHAT = plan_of("a", TOKENS, 8, kind="chat")
PINNED = plan_of("p", Needs(60), pinned=True)


def engine_of(state: State, model: str = "a") -> Engine:
    engine = state.lanes[EngineKey(model)].engine
    assert engine is not None
    return engine


def ask(state: State, job_id: str, plan: Plan, size: int = 0, now: float = 0.0) -> list[Effect]:
    return play(state, submit(job_id, plan=plan, size=size), Release(job_id), now=now)


def warm(state: State, plan: Plan, now: float = 0.0) -> None:
    """Loaded, and idle since `now`."""
    assert started(play(state, Warm(plan), now=now))
    ready(state, plan.key.model, now=now)


def failed(effects: list[Effect], job_id: str) -> ErrorInfo:
    (error,) = [
        effect.event.error
        for effect in effects
        if isinstance(effect, Tell) and effect.job_id == job_id and effect.event.type == "failed"
    ]
    return error


def refused(effects: list[Effect]) -> ErrorInfo:
    (refusal,) = effects
    assert isinstance(refusal, Refuse)
    return refusal.error


# ── Reservations ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_engine_reserves_what_runs_in_it_needs_and_gives_it_back_when_that_ends() -> None:
    state = new_state()
    ask(state, "j1", CHAT)
    assert engine_of(state).reserved_bytes == 40, "the job that it is loaded for can begin"
    ask(state, "j2", CHAT)
    runs = begun(ready(state))
    assert len(runs) == 2
    assert state.reserved_bytes == 50
    done_chat(state, runs[0])
    assert state.reserved_bytes == 40
    done_chat(state, runs[1])
    assert state.reserved_bytes == 20


def done_chat(state: State, run: int, now: float = 0.0) -> list[Effect]:
    facts = pipe.ChatFacts(
        finish_reason="stop", prompt_tokens=1, cached_tokens=0, completion_tokens=1, prefill_s=1, decode_s=1
    )
    key = EngineKey("a")
    return play(state, Heard(key, engine_of(state).generation, pipe.Done(run=run, facts=facts)), now=now)


def test_a_run_that_does_not_fit_beside_the_others_waits_until_one_of_them_ends() -> None:
    state = new_state(replace(LIMITS, queue_limit=10))
    for n in range(8):
        ask(state, f"j{n}", CHAT)
    runs = begun(ready(state))
    assert len(runs) == 7
    assert state.reserved_bytes == 100
    assert len(begun(done_chat(state, runs[0]))) == 1


def test_what_a_job_waits_for_is_not_taken_by_a_younger_one_and_what_is_over_may_be() -> None:
    state = new_state()
    ask(state, "a0", plan_of("a", Needs(45)))
    ready(state)
    assert started(ask(state, "b0", plan_of("b", Needs(60)))) == [], "it waits for a's 45 and for 15 of the free 55"
    assert started(ask(state, "c0", plan_of("c", Needs(50)))) == []
    play(state, Cancel("c0"))
    assert len(started(ask(state, "d0", plan_of("d", Needs(40))))) == 1


def test_two_that_wait_do_not_count_on_the_same_memory() -> None:
    state = new_state()
    ask(state, "a0", plan_of("a", Needs(60)))
    ready(state)
    ask(state, "b0", plan_of("b", Needs(60)))
    ask(state, "c0", plan_of("c", Needs(60)))
    assert started(ask(state, "d0", plan_of("d", Needs(30)))) == []


def test_what_one_that_waits_sets_aside_is_used_by_the_engine_it_waits_for_while_that_has_its_turn() -> None:
    state = new_state()
    plan = plan_of("a", Needs(30, work_bytes=40))
    ask(state, "a0", plan)
    (run,) = begun(ready(state))
    ask(state, "b0", plan_of("b", Needs(80)))
    ask(state, "a1", plan)
    assert len(begun(done(state, run))) == 1


def test_one_more_chat_waits_for_its_own_engine_and_takes_no_busy_engine_of_others_for_itself() -> None:
    state = new_state()
    ask(state, "b0", plan_of("b", Needs(50)))
    (run,) = begun(ready(state, "b"))
    for n in range(3):
        ask(state, f"a{n}", CHAT)
    assert len(begun(ready(state))) == 2
    ask(state, "b1", plan_of("b", Needs(50)))
    play(state, Tick(), now=20.0)
    assert len(begun(done(state, run, "b", now=20.0))) == 1


def test_newer_estimates_count_for_what_runs_already_as_far_as_there_is_memory() -> None:
    state = new_state()
    ask(state, "j1", plan_of("a", Needs(40)))
    ready(state)
    ask(state, "j2", plan_of("a", Needs(70)))
    assert state.reserved_bytes == 70


@pytest.mark.parametrize(
    ("plan", "size", "details"),
    [
        (plan_of("a", PX), 71, {"needed_bytes": 101, "budget_bytes": 100, "fits_px": 70}),
        (
            plan_of("a", Needs(20, cache=pipe.CacheShape(window_token_bytes=1, window_tokens=512)), kind="chat"),
            300,
            {"needed_bytes": 532, "budget_bytes": 100},
        ),
        (
            plan_of("a", Needs(0, cache=pipe.CacheShape(token_bytes=1)), kind="chat"),
            300,
            {"needed_bytes": 556, "budget_bytes": 300, "fits_tokens": 44},
        ),
    ],
)
def test_what_never_fits_is_refused_with_the_largest_that_would(plan: Plan, size: int, details: dict[str, int]) -> None:
    state = new_state(replace(LIMITS, budget_bytes=details["budget_bytes"]))
    error = refused(play(state, submit("j", plan=plan, size=size)))
    assert error.code == ErrorCode.INSUFFICIENT_MEMORY
    assert error.details == details


# ── The exact count ───────────────────────────────────────────────────────────────────────────────────────────────────


def longer(state: State, run: int, tokens: object = 300) -> list[Effect]:
    error = ErrorInfo(
        code=ErrorCode.INSUFFICIENT_MEMORY, message="the prompt is longer", details={"prompt_tokens": tokens}
    )
    return play(state, Heard(EngineKey("a"), engine_of(state).generation, pipe.RunFailed(run=run, error=error)))


def grants(effects: list[Effect]) -> list[int]:
    return [
        effect.command.tokens
        for effect in effects
        if hasattr(effect, "command") and isinstance(effect.command, pipe.Start)
    ]


def test_a_chat_whose_prompt_is_longer_than_thought_begins_again_with_what_was_counted_and_before_those_behind_it() -> (
    None
):
    state = new_state()
    plan = replace(CHAT, capacity=1)
    for n in range(3):
        ask(state, f"j{n}", plan, size=20)
    effects = ready(state)
    assert grants(effects) == [20]
    (run,) = begun(effects)
    again = longer(state, run)
    assert told(again, "j0")[-1] == "progress"
    assert begun(again) == [run]
    assert grants(again) == [310], "300 of the prompt, 10 of the answer"
    assert told(longer(state, run), "j0") == ["failed"], "only once"


def test_a_chat_that_begins_again_is_counted_no_longer_than_the_context() -> None:
    state = new_state()
    ask(state, "j", replace(CHAT, spec=CHAT.spec.model_copy(update={"context_tokens": 305})), size=20)
    (run,) = begun(ready(state))
    assert grants(longer(state, run)) == [305]


def test_a_count_that_never_fits_fails_with_the_numbers() -> None:
    state = new_state(replace(LIMITS, budget_bytes=300))
    ask(state, "j", replace(CHAT, needs=Needs(20, cache=pipe.CacheShape(token_bytes=1))), size=0)
    (run,) = begun(ready(state))
    error = failed(longer(state, run), "j")
    assert error.details == {"needed_bytes": 20 + 310 + 256, "budget_bytes": 300, "fits_tokens": 24}
    assert state.runs == {}


@pytest.mark.parametrize("tokens", [None, -1, 0, True, "300", 2**50])
def test_a_count_that_makes_no_sense_is_a_plain_failure(tokens: object) -> None:
    state = new_state()
    ask(state, "j", CHAT)
    (run,) = begun(ready(state))
    assert failed(longer(state, run, tokens), "j").message == "the prompt is longer"


def test_a_chat_that_is_cancelled_while_its_prompt_is_counted_is_not_begun_again() -> None:
    state = new_state()
    ask(state, "j", CHAT)
    (run,) = begun(ready(state))
    play(state, Cancel("j"))
    assert begun(longer(state, run)) == []
    assert state.runs == {}


# ── Warm, unload, pins, places ────────────────────────────────────────────────────────────────────────────────────────


def test_a_warm_engine_is_loaded_once_for_all_who_want_it() -> None:
    state = new_state()
    plan = plan_of("a", Needs(60))
    assert len(started(play(state, Warm(plan), Warm(plan), submit("j", plan=plan), Release("j")))) == 1
    assert len(begun(ready(state))) == 1


def test_a_warm_engine_that_does_not_load_is_not_tried_again() -> None:
    state = new_state()
    play(state, Warm(plan_of("a", Needs(60))))
    assert started(gone(state)) == []
    assert state.lanes == {}


def test_a_warm_engine_takes_the_place_of_an_idle_one_and_waits_for_a_busy_one_without_holding_anybody_up() -> None:
    state = new_state()
    warm(state, plan_of("a", Needs(60)))
    assert ended(play(state, Warm(plan_of("b", Needs(60))))) == ["a"]
    assert len(started(gone(state))) == 1
    ask(state, "b1", plan_of("b", Needs(60)))
    (run,) = begun(ready(state, "b"))
    assert play(state, Warm(plan_of("a", Needs(60)))) == []
    assert next_tick_at(state) == LIMITS.engine_stall_s
    assert state.claim_at is None
    ask(state, "b2", plan_of("b", Needs(60)))
    play(state, Tick(), now=20.0)
    effects = done(state, run, "b")
    assert ended(effects) == []
    (run,) = begun(effects)
    assert ended(done(state, run, "b")) == ["b"]
    assert [start.key.model for start in started(gone(state, "b"))] == ["a"]


def test_what_never_fits_is_not_warmed_and_nothing_is_on_a_node_that_ends() -> None:
    state = new_state()
    assert refused(play(state, Warm(plan_of("a", Needs(101))))).code == ErrorCode.INSUFFICIENT_MEMORY
    assert refused(play(state, Drain(), Warm(plan_of("a", Needs(60))))).code == ErrorCode.DRAINING
    assert state.lanes == {}


def test_unloading_ends_an_idle_engine_at_once_and_a_busy_one_after_all_that_waits_for_it() -> None:
    state = new_state()
    plan = plan_of("a", Needs(60))
    warm(state, plan)
    assert ended(play(state, Unload(plan.key))) == ["a"]
    gone(state)
    ask(state, "j1", plan)
    ask(state, "j2", plan)
    (run,) = begun(ready(state))
    assert ended(play(state, Unload(plan.key))) == []
    (run,) = begun(done(state, run))
    assert ended(done(state, run)) == ["a"]


def test_unloading_ends_an_engine_that_loads_and_a_job_that_comes_then_gets_the_next() -> None:
    state = new_state()
    plan = plan_of("a", Needs(60))
    play(state, Warm(plan))
    assert ended(play(state, Unload(plan.key))) == ["a"]
    ask(state, "j1", plan)
    effects = gone(state)
    assert [start.key.model for start in started(effects)] == ["a"]
    assert told(effects, "j1") == []


def test_unloading_what_is_only_wanted_forgets_the_wish_and_warming_again_forgets_the_unloading() -> None:
    state = new_state()
    ask(state, "b1", plan_of("b", Needs(60)))
    (run,) = begun(ready(state, "b"))
    play(state, Warm(plan_of("a", Needs(60))), Unload(EngineKey("a")))
    assert list(state.lanes) == [EngineKey("b")]
    play(state, Unload(EngineKey("b")), Warm(plan_of("b", Needs(60))), Unload(EngineKey("nobody")))
    assert ended(done(state, run, "b")) == []


def test_a_pinned_engine_ends_neither_for_room_nor_for_being_idle_but_when_it_is_unloaded() -> None:
    state = new_state()
    warm(state, PINNED)
    assert next_tick_at(state) is None
    assert ended(play(state, Tick(), now=1e6)) == []
    error = refused(play(state, submit("j", reserve=50)))
    assert error.details == {"needed_bytes": 50, "budget_bytes": 100, "pinned_bytes": 60}
    assert refused(play(state, Warm(plan_of("a", Needs(50))))).details["pinned_bytes"] == 60
    assert ended(play(state, Unload(PINNED.key))) == ["p"]


def test_a_job_that_waits_while_a_pinned_model_takes_its_room_fails_with_the_numbers() -> None:
    state = new_state()
    ask(state, "j0", plan_of("b", Needs(60)))
    (run,) = begun(ready(state, "b"))
    ask(state, "p1", PINNED)
    ask(state, "j1", plan_of("b", Needs(60)))
    play(state, Tick(), now=5.0)
    assert ended(done(state, run, "b", now=5.0)) == ["b"]
    assert failed(gone(state, "b"), "j1").details["pinned_bytes"] == 60


@pytest.mark.parametrize(("own_s", "ends_at"), [(None, 300), (20.0, 20), (0.0, None)])
def test_a_model_may_have_its_own_time_until_it_is_unloaded(own_s: float | None, ends_at: float | None) -> None:
    state = new_state()
    warm(state, replace(plan_of("a", Needs(60)), idle_unload_s=own_s))
    assert next_tick_at(state) == ends_at
    assert ended(play(state, Tick(), now=ends_at or 1e6)) == (["a"] if ends_at else [])


def test_no_more_engines_than_max_loaded_and_the_one_longest_unused_goes_first() -> None:
    state = new_state(replace(LIMITS, max_loaded=2))
    for model, now in (("a", 2.0), ("b", 1.0)):
        warm(state, plan_of(model, Needs(1)), now=now)
    effects = ask(state, "j", plan_of("c", Needs(1)), now=3.0)
    assert ended(effects) == ["b"]
    assert started(effects) == []
    assert [start.key.model for start in started(gone(state, "b"))] == ["c"]


def test_pinned_models_that_take_every_place_are_named_in_the_refusal() -> None:
    state = new_state(replace(LIMITS, max_loaded=1))
    warm(state, PINNED)
    assert refused(play(state, submit("j", reserve=1))).details == {"max_loaded": 1, "pinned": 1}


# ── Turns ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_while_its_turn_lasts_an_engine_starts_younger_jobs_and_then_it_ends_for_the_one_that_waits() -> None:
    state = new_state()
    state.load_s[EngineKey("b")] = 10.0
    ask(state, "a0", plan_of("a", Needs(60)))
    (run,) = begun(ready(state))
    ask(state, "b0", plan_of("b", Needs(60)), now=1.0)
    assert next_tick_at(state) == 11.0
    for n in range(1, 3):
        ask(state, f"a{n}", plan_of("a", Needs(60)), now=2.0)
    (run,) = begun(done(state, run, now=5.0))
    play(state, Tick(), now=11.0)
    effects = done(state, run, now=12.0)
    assert begun(effects) == []
    assert ended(effects) == ["a"]
    assert [start.key.model for start in started(gone(state))] == ["b"]


def test_an_older_backlog_is_a_turn_long_and_then_the_lane_stands_behind_the_one_that_waits() -> None:
    state = new_state(replace(LIMITS, queue_limit=100))
    for n in range(20):
        ask(state, f"a{n}", plan_of("a", Needs(60)), now=0.0)
    (run,) = begun(ready(state))
    ask(state, "b0", plan_of("b", Needs(60)), now=0.5)
    served = 0
    now = 2.0
    while True:
        effects = done(state, run, now=now)
        if not begun(effects):
            break
        (run,) = begun(effects)
        served += 1
        now += 1.0
    assert served == turn_runs(1) == 8
    assert ended(effects) == ["a"]
    assert [start.key.model for start in started(gone(state))] == ["b"], "and not a again, whose jobs are older"


def test_how_long_a_load_takes_is_measured_and_guessed_from_the_weights_before() -> None:
    state = new_state(replace(LIMITS, budget_bytes=10**11))
    play(state, Warm(plan_of("a", Needs(4 * 10**9))), Warm(plan_of("b", Needs(1))), now=5.0)
    assert [load_s(state, lane) for lane in state.lanes.values()] == [4.0, 1.0]
    ready(state, now=17.0)
    assert load_s(state, state.lanes[EngineKey("a")]) == 12.0


# ── Pressure ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("level", "runs"), [("normal", [32, 3, 1]), ("moderate", [16, 1, 1]), ("high", [8, 1, 1]), ("critical", [1, 1, 1])]
)
def test_the_shorter_memory_is_the_fewer_runs_an_engine_has(level: Level, runs: list[int]) -> None:
    assert [capacity_at(level, capacity) for capacity in (32, 3, 1)] == runs
    state = new_state(replace(LIMITS, queue_limit=100))
    for n in range(40):
        ask(state, f"j{n}", plan_of("a", Needs(60), 32))
    play(state, Measured(level))
    assert len(begun(ready(state))) == runs[0]


def test_on_a_mac_critically_short_of_memory_no_engine_starts_beside_one_that_works() -> None:
    state = new_state()
    ask(state, "a0", plan_of("a", Needs(20)))
    (run,) = begun(ready(state))
    play(state, submit("b0", "b", reserve=20), Measured("critical"), Release("b0"))
    assert len(state.lanes) == 2
    assert state.lanes[EngineKey("b")].engine is None
    error = refused(play(state, submit("c0", "c", reserve=20)))
    assert (error.code, error.retryable) == (ErrorCode.BUSY, True)
    assert error.details["retry_after_s"] >= 1
    assert play(state, replace(submit("c1", "c", reserve=20), forced=True)) != []
    assert isinstance(play(state, submit("a1", reserve=20))[0], Tell), "its engine is there"
    assert [start.key.model for start in started(done(state, run))] == ["b"]


def test_nothing_is_warmed_on_a_mac_short_of_memory_until_it_has_some() -> None:
    state = new_state()
    assert play(state, Measured("high"), Warm(plan_of("a", Needs(20)))) == []
    assert len(started(play(state, Measured("moderate")))) == 1
    play(state, Close())


def test_a_run_that_is_put_back_keeps_its_place() -> None:
    state = new_state()
    for n in range(3):
        ask(state, f"j{n}", plan_of("a", Needs(60)))
    lane = state.lanes[EngineKey("a")]
    runs: list[Run] = list(lane.waiting)
    lane.waiting.remove(runs[1])
    lane.put_back(runs[1])
    assert list(lane.waiting) == runs
