"""What is too large, or takes too many steps, while memory is short: as tables, without clock or process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from herd_mcp import pipe
from herd_mcp.jobs import ChatRequest, Completed, ErrorCode, ErrorInfo, ImageRequest, ImageResult, Queued
from herd_mcp.node.events import Cancel, Effect, Event, Heard, Measured, Refuse, Release, Send, Submit, Tell, Tick
from herd_mcp.node.lanes import EngineKey, Plan, State
from herd_mcp.node.memory import Needs
from herd_mcp.node.relief import SHORT_IDLE_S
from herd_mcp.node.sizes import tokens_at_most
from herd_mcp.settings import GIB
from herd_mcp.state import Level
from tests.node.test_decide import LIMITS, begun, done, ended, new_state, play, ready, started

SIDES = {"moderate": 1500, "high": 1000, "critical": 500}
CONTEXTS = {"high": 3000, "critical": 300}
LIMITS_OF_LEVELS = replace(
    LIMITS,
    budget_bytes=16 * GIB,
    pressure_max_tokens={"high": 100},
    pressure_max_image_px=SIDES,  # type: ignore[arg-type]
    pressure_context_tokens=CONTEXTS,  # type: ignore[arg-type]
    pressure_max_steps={"high": 8},
    engine_stall_s=1e9,
)


def at(level: Level) -> State:
    state = new_state(LIMITS_OF_LEVELS)
    state.level = level
    return state


def picture(job_id: str, side: int, *, forced: bool = False, model: str = "a", steps: int | None = None) -> Submit:
    plan = Plan(EngineKey(model), pipe.EngineSpec(kind="image", model=model, path="/"), Needs(GIB), 1, steps=20)
    request = ImageRequest(prompt="x", steps=steps)
    return Submit(job_id, 1, request, plan, spool="", timeout_s=1000, forced=forced, size=side * side)


def draw(job_id: str, side: int, *, forced: bool = False) -> list[Event]:
    return [picture(job_id, side, forced=forced), Release(job_id)]


def talk(prompt_chars: int, max_tokens: int, context: int = 100_000) -> Submit:
    plan = Plan(
        EngineKey("c"), pipe.EngineSpec(kind="chat", model="c", path="/", context_tokens=context), Needs(GIB), 4
    )
    request = ChatRequest.model_validate(
        {"messages": [{"role": "user", "content": "x" * prompt_chars}], "max_tokens": max_tokens}
    )
    size = tokens_at_most(request, plan.max_tokens, context)
    return Submit("j", 1, request, plan, spool="", timeout_s=1000, size=size)


def refusals(effects: list[Effect]) -> list[ErrorInfo]:
    return [effect.error for effect in effects if isinstance(effect, Refuse)]


def queued(effects: list[Effect], job_id: str) -> list[str]:
    return [
        e.event.message for e in effects if isinstance(e, Tell) and e.job_id == job_id and isinstance(e.event, Queued)
    ]


# ── Refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("level", "side", "taken"),
    [
        ("normal", 8000, True),
        ("moderate", 1500, True),
        ("moderate", 1501, False),
        ("high", 1000, True),
        ("high", 1001, False),
        ("critical", 500, True),
        ("critical", 501, False),
    ],
)
def test_a_picture_over_the_size_of_the_level_is_not_taken(level: Level, side: int, taken: bool) -> None:
    assert (refusals(play(at(level), picture("j", side))) == []) == taken


def test_the_refusal_of_a_picture_names_the_level_the_seconds_and_the_size_that_goes_now() -> None:
    (error,) = refusals(play(at("high"), picture("j", 2000)))
    assert (error.code, error.retryable) == ("busy", True)
    assert error.details == {"retry_after_s": 30, "pressure": "high", "asked_px": 4_000_000, "fits_px": 1_000_000}
    assert "a picture of 4.00 megapixels is too large now" in error.message
    assert "Ask for at most 1000 × 1000 px" in error.hint
    assert refusals(play(at("high"), picture("j", 1000))) == [], "what it says that goes does go"


@pytest.mark.parametrize(
    ("level", "chars", "answer", "taken"),
    [
        ("normal", 90_000, 4096, True),
        ("moderate", 90_000, 4096, True),  # no limit of conversations at this level
        ("high", 6_000, 900, True),
        ("high", 6_000, 50_000, True),  # its answer is cut to 100
        ("high", 9_000, 10, False),
        ("critical", 300, 100, True),
        ("critical", 300, 200, False),  # nothing cuts answers at this level here
    ],
)
def test_a_conversation_over_the_length_of_the_level_is_not_taken_counted_with_the_answer_it_will_get(
    level: Level, chars: int, answer: int, taken: bool
) -> None:
    errors = refusals(play(at(level), talk(chars, answer)))
    assert (errors == []) == taken
    for error in errors:
        most = CONTEXTS[level]
        assert (error.code, error.details["fits_tokens"], error.details["asked_tokens"] > most) == ("busy", most, True)


def test_an_answer_as_long_as_the_context_hides_no_long_prompt() -> None:
    assert len(refusals(play(at("high"), talk(15_000, 8_000, context=8_000)))) == 1


# ── Accepted before ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_picture_that_was_accepted_waits_until_memory_is_back_is_told_why_and_lets_smaller_ones_pass() -> None:
    state = at("normal")
    play(state, *draw("large", 2000), *draw("small", 500))
    told = play(state, Measured("high"))
    assert queued(told, "large") == ["too large while this Mac is short of memory (high)"]
    assert queued(told, "small") == []
    (small,) = begun(ready(state))
    assert small == state.runs["small", 1].number
    assert begun(done(state, small)) == []
    back = play(state, Measured("normal"))
    assert begun(back) == [state.runs["large", 1].number]
    assert queued(back, "large") == [""]


def test_a_chat_that_turns_out_longer_than_it_was_taken_for_waits_too_if_it_is_too_long_now() -> None:
    state = at("normal")
    play(state, talk(15_000, 100), Release("j"))
    (run,) = begun(ready(state, "c"))
    play(state, Measured("high"))
    engine = state.lanes[EngineKey("c")].engine
    assert engine is not None
    error = ErrorInfo(code=ErrorCode.INSUFFICIENT_MEMORY, message="longer", details={"prompt_tokens": 9000})
    longer = pipe.RunFailed(run=run, error=error)
    assert begun(play(state, Heard(EngineKey("c"), engine.generation, longer))) == []
    assert len(begun(play(state, Measured("normal")))) == 1


def test_a_picture_goes_on_that_was_begun_before() -> None:
    state = at("normal")
    play(state, *draw("large", 2000))
    (run,) = begun(ready(state))
    assert ended(play(state, Measured("critical"))) == []
    assert state.runs["large", 1].number == run


def test_what_was_accepted_before_the_node_ended_is_not_refused_but_waits() -> None:
    state = at("high")
    told = play(state, *draw("large", 2000, forced=True))
    assert (refusals(told), started(told)) == ([], [])
    assert queued(told, "large") == ["too large while this Mac is short of memory (high)"]
    assert len(started(play(state, Measured("moderate")))) == 0, "it is too large for that, too"
    assert len(started(play(state, Measured("normal")))) == 1


def test_one_that_waits_for_memory_can_be_cancelled_and_its_time_runs_out() -> None:
    state = at("high")
    play(state, *draw("a", 2000, forced=True), *draw("b", 2000, forced=True))
    assert [e.event.type for e in play(state, Cancel("a")) if isinstance(e, Tell)] == ["cancelled"]
    assert [e.event.type for e in play(state, Tick(), now=1001) if isinstance(e, Tell)] == ["failed"]
    assert (state.runs, state.lanes) == ({}, {})


def test_an_engine_whose_only_work_waits_for_memory_gives_its_memory_back() -> None:
    state = at("normal")
    play(state, *draw("first", 500), *draw("large", 2000))
    (run,) = begun(ready(state))
    play(state, Measured("high"))
    done(state, run)
    assert ended(play(state, Measured("high"), now=SHORT_IDLE_S - 1)) == []
    assert ended(play(state, Measured("high"), now=SHORT_IDLE_S)) == ["a"]


def test_what_waits_for_memory_keeps_no_other_model_from_its_room() -> None:
    state = at("normal")
    state.limits = replace(LIMITS_OF_LEVELS, budget_bytes=GIB)
    play(state, *draw("first", 500), *draw("large", 2000))
    (run,) = begun(ready(state))
    play(state, Measured("high"), picture("other", 500, model="b"), Release("other"))
    assert ended(done(state, run)) == ["a"]


# ── Steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("level", "asked", "given", "said"),
    [
        ("normal", 30, 30, False),
        ("high", 30, 8, True),
        ("high", 8, 8, False),
        ("high", None, 8, True),
        ("moderate", None, None, False),
    ],
)
def test_a_picture_has_at_most_the_steps_of_the_level_and_says_so(
    level: Level, asked: int | None, given: int | None, said: bool
) -> None:
    state = at(level)
    play(state, picture("j", 500, steps=asked), Release("j"))
    (start,) = [e.command for e in ready(state) if isinstance(e, Send) and isinstance(e.command, pipe.Start)]
    assert isinstance(start.request, ImageRequest)
    assert start.request.steps == given
    facts = pipe.ImageFacts(width=64, height=64, steps=8, seed=1, guidance=None, quantize=None, run_s=1.0)
    engine = state.lanes[EngineKey("a")].engine
    assert engine is not None
    over = play(state, Heard(EngineKey("a"), engine.generation, pipe.Done(run=start.run, facts=facts)))
    (event,) = [e.event for e in over if isinstance(e, Tell)]
    assert isinstance(event, Completed)
    assert isinstance(event.result, ImageResult)
    assert event.result.limited_by == (
        "memory: the picture was drawn in 8 steps while this Mac is short of memory" if said else ""
    )
