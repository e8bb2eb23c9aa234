"""What a node does when memory gets short, as tables: no clock, no process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from herd_mcp import pipe
from herd_mcp.jobs import ChatRequest, ChatResult, Completed, ErrorCode, ErrorInfo, Failed
from herd_mcp.node.events import Cancel, Effect, Event, Exited, Heard, Measured, Release, Send, Submit, Tell
from herd_mcp.node.lanes import Engine, EngineKey, Plan, State
from herd_mcp.node.memory import Needs
from herd_mcp.node.relief import SETTLE_S, SHORT_IDLE_S, SPARE_BYTES
from herd_mcp.settings import GIB
from herd_mcp.state import Level
from tests.node.test_decide import LIMITS, begun, ended, new_state, play, ready

CAPS = {"moderate": 1000, "high": 100, "critical": 10}
KEPT = 1000
BUDGET = 16 * GIB


def short_state() -> State:
    return new_state(replace(LIMITS, budget_bytes=BUDGET, pressure_max_tokens=CAPS, engine_stall_s=1e9))  # type: ignore[arg-type]


def ask(job_id: str, model: str = "a", *, pinned: bool = False, max_tokens: int | None = None) -> list[Event]:
    spec = pipe.EngineSpec(kind="chat", model=model, path=f"/{model}", prompt_cache_bytes=KEPT)
    plan = Plan(EngineKey(model), spec, Needs(GIB), capacity=4, pinned=pinned)
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": "hello"}], "max_tokens": max_tokens})
    return [Submit(job_id, 1, request, plan, spool="", timeout_s=1e9), Release(job_id)]


def engine_of(state: State, model: str = "a") -> Engine:
    engine = state.lanes[EngineKey(model)].engine
    assert engine is not None
    return engine


def answer(
    state: State, run: int, model: str = "a", tokens: int = 1, reason: str = "stop", now: float = 0.0
) -> list[Effect]:
    facts = pipe.ChatFacts.model_validate(
        {
            "finish_reason": reason,
            "completion_tokens": tokens,
            "prompt_tokens": 1,
            "cached_tokens": 0,
            "prefill_s": 1,
            "decode_s": 1,
        }
    )
    return play(
        state, Heard(EngineKey(model), engine_of(state, model).generation, pipe.Done(run=run, facts=facts)), now=now
    )


def idle(state: State, model: str = "a", *, pinned: bool = False) -> None:
    play(state, *ask(f"job-{model}", model, pinned=pinned))
    (run,) = begun(ready(state, model))
    answer(state, run, model)


def measure(state: State, level: Level, now: float = 0.0, held: int | None = None, model: str = "a") -> list[Effect]:
    engine = state.lanes[EngineKey(model)].engine if EngineKey(model) in state.lanes else None
    told = ((EngineKey(model), engine.generation, held),) if engine is not None and held is not None else ()
    return play(state, Measured(level, told), now=now)


def limits(effects: list[Effect]) -> dict[str, int]:
    return {
        e.key.model: e.command.prompt_cache_bytes
        for e in effects
        if isinstance(e, Send) and isinstance(e.command, pipe.Limit)
    }


def starts(effects: list[Effect]) -> list[int | None]:
    return [
        e.command.request.max_tokens
        for e in effects
        if isinstance(e, Send) and isinstance(e.command, pipe.Start) and isinstance(e.command.request, ChatRequest)
    ]


# ── Levels ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("level", "kept"), [("moderate", 500), ("high", 100), ("critical", 0)])
def test_busy_engines_keep_less_at_each_level_and_all_again_at_normal(level: Level, kept: int) -> None:
    state = short_state()
    play(state, *ask("j"))
    ready(state)
    assert limits(measure(state, level)) == {"a": kept}
    assert limits(measure(state, level)) == {}, "only a change is told"
    assert limits(measure(state, "normal")) == {"a": KEPT}
    assert limits(measure(state, "normal")) == {}


def test_an_engine_that_becomes_ready_while_memory_is_short_keeps_less_from_the_beginning() -> None:
    state = short_state()
    play(state, *ask("j"))
    assert limits(measure(state, "high")) == {}, "it does not listen while it loads"
    assert limits(ready(state)) == {"a": 100}
    play(state, *ask("k", "b"))
    measure(state, "normal")
    assert limits(ready(state, "b")) == {}


@pytest.mark.parametrize(
    ("level", "idle_s", "ends"),
    [
        ("normal", 299, False),
        ("moderate", 299, False),
        ("high", SHORT_IDLE_S - 1, False),
        ("high", SHORT_IDLE_S, True),
        ("critical", 0, True),
    ],
)
def test_an_idle_engine_ends_sooner_the_shorter_memory_is(level: Level, idle_s: float, ends: bool) -> None:
    state = short_state()
    idle(state)
    assert ended(measure(state, level, now=idle_s)) == (["a"] if ends else [])
    assert ended(measure(state, level, now=idle_s)) == [], "once"


def test_at_critical_pinned_busy_and_loading_engines_stay_and_those_that_become_idle_end() -> None:
    state = short_state()
    idle(state, "pinned", pinned=True)
    play(state, *ask("b", "busy"), *ask("l", "loading"))
    (run,) = begun(ready(state, "busy"))
    assert ended(measure(state, "critical", now=1e6)) == []
    answer(state, run, "busy", now=1e6)
    assert ended(measure(state, "critical", now=1e6)) == ["busy"]


def test_at_critical_an_engine_stays_that_loads_or_whose_job_is_about_to_be_released() -> None:
    state = short_state()
    play(state, *ask("j"), Cancel("j"))
    assert ended(measure(state, "critical")) == [], "it loads"
    play(state, ask("k")[0])
    ready(state)
    assert ended(measure(state, "critical")) == []
    play(state, Cancel("k"))
    assert ended(measure(state, "critical")) == ["a"]


# ── Engines that take too much ────────────────────────────────────────────────────────────────────────────────────────

FINE = int(GIB * 1.2) + SPARE_BYTES
TOO_MUCH = FINE + 1


def working() -> State:
    state = short_state()
    play(state, *ask("j"))
    assert len(begun(ready(state))) == 1
    return state


def test_an_engine_over_its_reservation_twice_in_a_row_is_ended_with_both_numbers_and_once() -> None:
    state = working()
    assert ended(measure(state, "normal", held=TOO_MUCH)) == []
    effects = measure(state, "normal", held=TOO_MUCH)
    assert ended(effects) == ["a"]
    assert ended(measure(state, "normal", held=TOO_MUCH)) == []
    (end,) = effects
    effects = play(state, Exited(EngineKey("a"), engine_of(state).generation, end.reason))  # type: ignore[union-attr]
    (told,) = [e.event for e in effects if isinstance(e, Tell)]
    assert isinstance(told, Failed)
    assert told.error.code == "engine_crashed"
    assert "it took 1.33 GiB, 1.00 GiB were reserved for it" in told.error.message
    assert told.error.details == {"admitted": True, "held_bytes": TOO_MUCH, "reserved_bytes": GIB}


@pytest.mark.parametrize("held", [(FINE, FINE, FINE), (TOO_MUCH, FINE, TOO_MUCH, FINE)])
def test_within_margin_or_over_it_for_a_moment_an_engine_stays(held: tuple[int, ...]) -> None:
    state = working()
    assert [ended(measure(state, "normal", held=bytes_)) for bytes_ in held] == [[]] * len(held)


def test_one_that_takes_too_much_while_it_loads_is_ended_too() -> None:
    state = short_state()
    play(state, *ask("j"))
    measure(state, "normal", held=TOO_MUCH)
    assert ended(measure(state, "normal", held=TOO_MUCH)) == ["a"]


def test_the_margin_is_the_owners() -> None:
    state = short_state()
    state.limits = replace(state.limits, memory_margin=1.0)
    play(state, *ask("j"))
    ready(state)
    measure(state, "normal", held=TOO_MUCH)
    assert ended(measure(state, "normal", held=TOO_MUCH)) == []
    measure(state, "normal", held=2 * GIB + SPARE_BYTES + 1)
    assert ended(measure(state, "normal", held=2 * GIB + SPARE_BYTES + 1)) == ["a"]


def test_what_a_job_that_ended_held_has_some_seconds_to_come_back() -> None:
    state = working()
    engine = engine_of(state)
    engine.reserved_bytes = 3 * GIB
    measure(state, "normal", now=1.0, held=3 * GIB)
    engine.reserved_bytes = GIB
    for now in (2.0, 3.0, 4.0):
        assert ended(measure(state, "normal", now=now, held=3 * GIB)) == []
    late = 2 * SETTLE_S
    measure(state, "normal", now=late, held=3 * GIB)
    assert ended(measure(state, "normal", now=late + 1, held=3 * GIB)) == ["a"]


def test_an_idle_engine_has_the_same_seconds_after_its_last_job() -> None:
    state = short_state()
    idle(state)
    for now in (1.0, 2.0, 3.0):
        assert ended(measure(state, "normal", now=now, held=TOO_MUCH)) == []
    measure(state, "normal", now=SETTLE_S, held=TOO_MUCH)
    assert ended(measure(state, "normal", now=SETTLE_S + 1, held=TOO_MUCH)) == ["a"]


def test_a_measurement_of_an_engine_that_is_gone_says_nothing_of_the_next() -> None:
    state = working()
    generation = engine_of(state).generation
    for _ in range(3):
        assert play(state, Measured("normal", ((EngineKey("a"), generation + 1, TOO_MUCH),))) == []


# ── Shorter answers ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("level", "asked", "given"),
    [
        ("normal", 5000, 5000),
        ("normal", None, None),
        ("moderate", 5000, 1000),
        ("moderate", 500, 500),
        ("high", None, 100),
        ("critical", 11, 10),
        ("critical", 10, 10),
    ],
)
def test_a_chat_that_starts_at_a_level_gets_at_most_its_tokens(
    level: Level, asked: int | None, given: int | None
) -> None:
    state = short_state()
    play(state, *ask("j", max_tokens=asked))
    measure(state, level)
    assert starts(ready(state)) == [given]


def test_a_level_without_a_cap_cuts_nothing() -> None:
    state = short_state()
    state.limits = replace(state.limits, pressure_max_tokens={"critical": 10})
    play(state, *ask("j"))
    measure(state, "high")
    assert starts(ready(state)) == [None]


@pytest.mark.parametrize(
    ("tokens", "reason", "said"),
    [(100, "length", True), (40, "stop", False), (100, "stop", False), (40, "length", False)],
)
def test_an_answer_that_was_cut_says_so_and_others_do_not(tokens: int, reason: str, said: bool) -> None:
    state = short_state()
    play(state, *ask("j"))
    measure(state, "high")
    (run,) = begun(ready(state))
    (told,) = [e.event for e in answer(state, run, tokens=tokens, reason=reason) if isinstance(e, Tell)]
    assert isinstance(told, Completed)
    assert isinstance(told.result, ChatResult)
    assert told.result.limited_by == (
        "memory: the answer was limited to 100 tokens while this Mac is short of memory" if said else ""
    )


def test_an_answer_that_begins_again_when_memory_has_come_back_is_not_said_to_be_cut() -> None:
    state = short_state()
    play(state, *ask("j"))
    measure(state, "high")
    (run,) = begun(ready(state))
    state.level = "normal"
    error = ErrorInfo(code=ErrorCode.INSUFFICIENT_MEMORY, message="longer", details={"prompt_tokens": 300})
    again = play(state, Heard(EngineKey("a"), engine_of(state).generation, pipe.RunFailed(run=run, error=error)))
    assert starts(again) == [None]
    (told,) = [e.event for e in answer(state, run, tokens=4096, reason="length") if isinstance(e, Tell)]
    assert isinstance(told, Completed)
    assert isinstance(told.result, ChatResult)
    assert told.result.limited_by == ""
