"""What a node learns from how its engines end, and that it can unlearn it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from herd_mcp import pipe
from herd_mcp.jobs import ErrorCode, ErrorInfo
from herd_mcp.node.events import Exited, Heard, Measured, Release, Unload, Warm
from herd_mcp.node.lanes import Engine, EngineKey, State
from herd_mcp.node.learning import Learning
from herd_mcp.node.measured import Known
from herd_mcp.node.memory import Needs
from herd_mcp.node.needs import needs_of
from herd_mcp.node.shapes import LARGEST
from herd_mcp.settings import GIB, load_settings
from herd_mcp.state import ModelInfo
from tests.node.test_decide import LIMITS, begun, new_state, plan_of, play, ready, submit

KEY = EngineKey("a")
PLAN = plan_of("a", Needs(4 * GIB))
BUDGET = 10 * GIB
FOUR_TIMES = ((LARGEST, 4.0),)


def engine_of(state: State) -> Engine:
    engine = state.lanes[KEY].engine
    assert engine is not None
    return engine


def measure(state: State, *held: int) -> None:
    for bytes_ in held:
        play(state, Measured("normal", ((KEY, engine_of(state).generation, bytes_),)), now=100.0)


def node() -> tuple[State, Learning]:
    state = new_state(replace(LIMITS, budget_bytes=BUDGET, idle_unload_s=0))
    return state, Learning(state)


def test_an_engine_that_says_that_it_ran_out_of_memory_teaches_once_however_many_jobs_it_had() -> None:
    state, learning = node()
    several = replace(PLAN, capacity=4)
    play(state, *(event for n in "12" for event in (submit(n, plan=several), Release(n))))
    runs = begun(ready(state))
    error = ErrorInfo(code=ErrorCode.ENGINE_CRASHED, message="no more", details={"out_of_memory": True})
    for run in runs:
        message = pipe.RunFailed(run=run, error=error)
        learning.heard(KEY, engine_of(state).generation, message)
        play(state, Heard(KEY, engine_of(state).generation, message))
    learning.exiting(KEY, engine_of(state).generation)
    assert [factor for _, factor in learning.measured.get("a", None).factors] == [1.5]


def test_what_an_engine_was_ended_for_is_given_back_by_parts_when_the_next_ones_hold_less() -> None:
    state, learning = node()
    play(state, Warm(PLAN))
    ready(state, "a")
    measure(state, 8 * GIB, 8 * GIB)
    learning.exiting(KEY, engine_of(state).generation)
    play(state, Exited(KEY, engine_of(state).generation, "it took too much"))
    assert learning.measured.get("a", None).held_bytes == 8 * GIB
    for expected in (7.2, 6.56):
        play(state, Warm(plan_of("a", Needs(learning.measured.get("a", None).held_bytes))))
        ready(state, "a")
        measure(state, 4 * GIB, 3 * GIB)
        play(state, Unload(KEY))
        learning.exiting(KEY, engine_of(state).generation)
        play(state, Exited(KEY, engine_of(state).generation, "unloaded"))
        assert learning.measured.get("a", None).held_bytes == pytest.approx(expected * GIB, rel=1e-6)


def model(bytes_: int) -> ModelInfo:
    facts = {"name": "m", "kind": "chat", "family": "any", "source": "herd", "path": "/nowhere", "complete": True}
    return ModelInfo.model_validate(facts | {"bytes": bytes_, "bits": 4})


@pytest.mark.parametrize("known", [Known(held_bytes=11 * GIB), Known(FOUR_TIMES), Known(FOUR_TIMES, held_bytes=GIB)])
def test_what_was_seen_alone_refuses_no_model_but_gives_it_all_there_is(known: Known) -> None:
    settings = load_settings(prompt_cache_bytes=0)
    fits = needs_of(model(GIB), None, settings, BUDGET)
    budget = fits.smallest_bytes + 1
    seen = needs_of(model(GIB), None, settings, budget, known)
    assert seen.smallest_bytes == budget
    assert [factor for _, factor in seen.factors] == [1.0] * len(known.factors)
    assert needs_of(model(11 * GIB), None, settings, budget, known).smallest_bytes > budget, "its files alone do"
