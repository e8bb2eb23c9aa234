"""Seconds of work ahead, by what is under way and what waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from herd_mcp import pipe
from herd_mcp.jobs import ChatRequest, ImageRequest, Message
from herd_mcp.node.events import Cancel, Event, Heard, Release, Submit, Warm
from herd_mcp.node.lanes import EngineKey, Plan, State
from herd_mcp.node.memory import Needs
from herd_mcp.node.rates import FirstRates, Rates
from herd_mcp.node.work import work_of
from herd_mcp.state import Work, decode_slowdown
from tests.node.test_decide import LIMITS, READY, new_state, plan_of, play

FIRST = FirstRates(step_s=10, fixed_s=20, prefill=100, decode=10, answer=100, per_byte=0.25, load_s=30)
IMAGE = replace(plan_of("i", Needs(10)), first=FIRST, steps=5)
CHAT = replace(plan_of("c", Needs(10), 4, kind="chat"), first=FIRST, max_tokens=1000)
MPX = 500_000
"""Pixels of each image here: with the default 5 steps it takes 35 s."""


@pytest.fixture
def state() -> State:
    return new_state(replace(LIMITS, queue_limit=1000))


def ahead(state: State, now: float = 0.0) -> Work:
    return work_of(state, Rates(), now, 0.0)


def image(job_id: str, **request: object) -> list[Event]:
    asked = ImageRequest.model_validate({"prompt": "x"} | request)
    return [Submit(job_id, 1, asked, IMAGE, "", 1e9, size=MPX), Release(job_id)]


def chat(job_id: str, prompt: str = "x" * 4000, max_tokens: int = 1000) -> list[Event]:
    asked = ChatRequest(messages=(Message(role="user", content=prompt),), max_tokens=max_tokens)
    return [Submit(job_id, 1, asked, CHAT, "", 1e9, size=1), Release(job_id)]


def say(state: State, plan: Plan, message: pipe.Message, now: float = 0.0) -> None:
    engine = state.lanes[plan.key].engine
    assert engine is not None
    play(state, Heard(plan.key, engine.generation, message), now=now)


def step(state: State, job_id: str, number: int, now: float) -> None:
    run = state.runs[job_id, 1].number
    say(state, IMAGE, pipe.Step(work=number + 1, runs=(pipe.RunDelta(run=run, step=number, steps=5),)), now)


def tokens(state: State, job_id: str, count: int, now: float) -> None:
    run, engine = state.runs[job_id, 1].number, state.lanes[CHAT.key].engine
    assert engine is not None
    for _ in range(count):
        say(state, CHAT, pipe.Step(work=engine.work + 1, runs=(pipe.RunDelta(run=run, text="x"),)), now)


def test_a_node_without_work_has_none_ahead(state: State) -> None:
    assert ahead(state) == Work()
    play(state, Warm(CHAT))
    say(state, CHAT, READY)
    assert ahead(state) == Work()


def test_an_image_counts_less_with_each_step(state: State) -> None:
    play(state, *image("j"))
    assert ahead(state) == Work(image_s=35, load_s=30)
    say(state, IMAGE, READY)
    assert ahead(state) == Work(image_s=35)
    assert ahead(state, 4.0).image_s == 31
    assert ahead(state, 400.0).image_s == 25  # it is slow with what is before its first step
    step(state, "j", 1, 10.0)
    assert ahead(state, 10.0).image_s == 4 * 5 + 5
    assert ahead(state, 12.0).image_s == 4 * 5 + 5 - 2
    assert ahead(state, 99.0).image_s == 3 * 5 + 5
    step(state, "j", 5, 30.0)
    assert ahead(state, 31.0).image_s == 5
    play(state, Cancel("j"))
    assert ahead(state, 31.0).image_s == 5


def test_images_that_wait_count_whole_whoever_asked_for_them(state: State) -> None:
    play(state, *image("mine"), *image("theirs", steps=8), *image("third", steps=10, image=b"x", image_strength=0.5))
    assert ahead(state).image_s == 35 + 50 + 35
    play(state, Cancel("theirs"))
    assert ahead(state).image_s == 70


def test_a_chat_counts_less_with_each_token_and_is_never_done_before_it_is(state: State) -> None:
    play(state, *chat("j"))
    say(state, CHAT, READY)
    assert ahead(state).chat_s == 10 + 10  # 1000 tokens of the prompt, 100 of the answer
    assert ahead(state, 4.0).chat_s == 6 + 10
    tokens(state, "j", 40, 10.0)
    assert ahead(state, 14.0).chat_s == 6
    tokens(state, "j", 200, 20.0)
    assert ahead(state, 40.0).chat_s == 2.5  # longer than expected: nobody knows, but it is not over
    tokens(state, "j", 750, 90.0)
    assert ahead(state, 100.0).chat_s == 1  # its limit is near


def test_chats_are_answered_together_as_far_as_the_engine_takes_them(state: State) -> None:
    for number in range(4):
        play(state, *chat(f"j{number}", prompt=""))
    say(state, CHAT, READY)
    assert ahead(state).chat_s == pytest.approx(10 * decode_slowdown(4), abs=0.01)
    for number in range(4, 8):
        play(state, *chat(f"j{number}", prompt=""))
    assert ahead(state).chat_s == pytest.approx(20 * decode_slowdown(4), abs=0.01)
    play(state, *(Cancel(f"j{number}") for number in range(4, 8)))
    tokens(state, "j0", 20, 1.0)
    for number in (1, 2, 3):
        tokens(state, f"j{number}", 75, 1.0)
    assert ahead(state).chat_s == 8  # the longest of them


def test_a_load_counts_by_its_fraction_and_without_one_by_its_time(state: State) -> None:
    play(state, Warm(CHAT))
    assert ahead(state, 10.0).load_s == 20
    assert ahead(state, 300.0).load_s == 3
    say(state, CHAT, pipe.LoadingNow(fraction=0.8), 10.0)
    assert ahead(state, 300.0).load_s == 6


def test_a_model_that_waits_for_its_place_is_loaded_first(state: State) -> None:
    play(state, *image("j"))
    say(state, IMAGE, READY)
    waiting = replace(CHAT, needs=Needs(95))
    asked = ChatRequest(messages=(Message(role="user", content="x"),), max_tokens=10)
    play(state, Submit("c", 1, asked, waiting, "", 1e9, size=1), Release("c"))
    assert EngineKey("c") in state.lanes
    assert ahead(state).load_s == 30


def test_a_very_long_queue_is_counted_without_looking_at_every_job(state: State) -> None:
    for number in range(900):
        play(state, *image(f"j{number}"))
    assert ahead(state).image_s == 900 * 35


def test_an_image_under_way_corrects_the_pace_of_those_behind_it(state: State) -> None:
    play(state, *image("one"), *image("two"))
    say(state, IMAGE, READY)
    before_s = ahead(state).image_s
    step(state, "one", 1, 100.0)
    step(state, "one", 3, 100.0 + 2 * 3 * 5)  # three times as long as 5 s for a step
    two_left_and_decode_s, all_of_the_other_s = 3 * (2 * 5 + 5), 3 * 35
    assert before_s == pytest.approx(70)
    assert ahead(state, 130.0).image_s == pytest.approx(two_left_and_decode_s + all_of_the_other_s)
