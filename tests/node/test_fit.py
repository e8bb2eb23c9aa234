"""Whether there is room for a model, and what a person is told about it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from herd_mcp import pipe
from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.node.events import Exited, Heard, Measured, Release, StartEngine, Unload, Warm
from herd_mcp.node.fit import Fit, check_fit, check_level, fit_of, still_loading
from herd_mcp.node.lanes import EngineKey, Plan, State
from herd_mcp.node.loads import Loads
from herd_mcp.node.memory import Needs
from herd_mcp.settings import GIB
from herd_mcp.state import Level

from .test_decide import LIMITS, begun, new_state, play, ready, submit


def plan(model: str, gib: int = 6, **fields: object) -> Plan:
    spec = pipe.EngineSpec(kind="image", model=model, path=f"/{model}")
    return replace(Plan(EngineKey(model), spec, Needs(gib * GIB), capacity=1), **fields)  # type: ignore[arg-type]


def room_for(state: State, wanted: Plan) -> Fit:
    return fit_of(state, wanted.key, wanted.needs.load_bytes)


def with_loaded(*plans: Plan, max_loaded: int = 0) -> State:
    """A Mac with 10 GiB for models, on which these are loaded and idle, the first longest."""
    state = new_state(replace(LIMITS, budget_bytes=10 * GIB, max_loaded=max_loaded))
    for at, loaded in enumerate(plans):
        play(state, Warm(loaded), now=at)
        ready(state, loaded.key.model, now=at)
    return state


def test_a_model_that_is_loaded_or_fits_has_room_and_nothing_to_explain() -> None:
    state = with_loaded(plan("a"))
    assert (room_for(state, plan("a")).now, room_for(state, plan("b", 4)).reason) == (True, "")


def test_what_would_be_ended_first_is_named() -> None:
    state = with_loaded(plan("a", 3), plan("b", 4))
    assert room_for(state, plan("c", 5)).reason == "a would be ended first"
    assert room_for(state, plan("c", 8)).reason == "a and b would be ended first"


def test_a_model_beside_which_a_pinned_one_leaves_no_room_is_refused_for_good() -> None:
    state = with_loaded(plan("a", pinned=True))
    assert not room_for(state, plan("b")).now
    with pytest.raises(HerdError) as refused:
        check_fit(state, plan("b"))
    assert refused.value.info.code == ErrorCode.INSUFFICIENT_MEMORY
    assert refused.value.info.details["pinned_bytes"] == 6 * GIB


def test_beside_what_works_there_is_no_room_on_a_mac_critically_short_of_memory() -> None:
    state = with_loaded()
    begun(play(state, replace(submit("j", "a"), plan=plan("a", 1)), Release("j")))
    assert room_for(state, plan("b", 1)).now
    play(state, Measured("critical"))
    assert not room_for(state, plan("b", 1)).now
    assert "critically short" in room_for(state, plan("b", 1)).reason


@pytest.mark.parametrize("level", ["high", "critical"])
def test_who_asks_for_a_load_without_a_job_is_told_that_memory_is_too_short_for_it(level: Level) -> None:
    state = with_loaded(plan("a", 1, pinned=True))
    check_level(state, plan("b", 1))
    play(state, Measured(level))
    check_level(state, plan("a", 1))
    with pytest.raises(HerdError) as refused:
        check_level(state, plan("b", 1))
    assert refused.value.info.code == ErrorCode.BUSY
    assert refused.value.info.details["pressure"] == level
    play(state, Unload(EngineKey("a")))
    with pytest.raises(HerdError):  # it is there and ends
        check_level(state, plan("a", 1))


@pytest.mark.parametrize("how", ["works", "loads"])
def test_what_works_or_loads_is_not_counted_on_and_the_numbers_are_told(how: str) -> None:
    held = plan("a")
    state = with_loaded() if how == "loads" else with_loaded(held)
    if how == "loads":
        play(state, Warm(held))
    if how == "works":
        job = submit("j", "a")
        assert begun(play(state, replace(job, plan=held), Release("j")))
    fit = room_for(state, plan("b"))
    assert not fit.now
    assert (
        fit.reason
        == "it needs 6.0 GiB, 4.0 GiB of 10.0 GiB are free for models, and what works, loads or is pinned stays: a"
    )
    with pytest.raises(HerdError) as refused:
        check_fit(state, plan("b"))
    assert refused.value.info.code == ErrorCode.BUSY
    details = refused.value.info.details
    assert (details["needed_bytes"], details["free_bytes"], details["budget_bytes"]) == (6 * GIB, 4 * GIB, 10 * GIB)


def test_a_model_larger_than_the_budget_never_fits() -> None:
    with pytest.raises(HerdError) as refused:
        check_fit(with_loaded(), plan("a", 11))
    assert refused.value.info.code == ErrorCode.INSUFFICIENT_MEMORY
    assert "11.0 GiB" in room_for(with_loaded(), plan("a", 11)).reason


def test_places_count_beside_memory() -> None:
    assert room_for(with_loaded(plan("a", 1), max_loaded=1), plan("b", 1)).reason == "a would be ended first"
    fit = room_for(with_loaded(plan("a", 1, pinned=True), max_loaded=1), plan("b", 1))
    assert (fit.now, fit.reason) == (False, "max_loaded is 1, and what works, loads or is pinned stays: a")


def test_one_who_does_not_wait_is_told_how_far_it_is_and_when_to_come_back() -> None:
    state = with_loaded()
    play(state, Warm(plan("a")), now=100)
    engine = state.lanes[EngineKey("a")].engine
    assert engine is not None
    assert still_loading(state, plan("a"), engine, 101).info.details == {"retry_after_s": 5, "loading": 0.0}
    play(state, Heard(EngineKey("a"), engine.generation, pipe.LoadingNow(fraction=0.25)), now=110)
    told = still_loading(state, plan("a"), engine, 110).info
    assert told.details == {"retry_after_s": 30, "loading": 0.25}
    assert "25%" in told.message


class Dispatched:
    """Loads over a state without processes; events are decided at once."""

    def __init__(self) -> None:
        self.state = with_loaded()
        self.started: list[StartEngine] = []
        self.loads = Loads(self.state, self, load_timeout_s=1000)

    def __call__(self, event: object, refusals: object = None) -> None:
        self.started += [e for e in play(self.state, event) if isinstance(e, StartEngine)]  # type: ignore[arg-type]

    def say(self, message: pipe.Message) -> None:
        self(Heard(self.started[-1].key, self.started[-1].generation, message))

    def exit(self, reason: str) -> None:
        started = self.started[-1]
        self.loads.exiting(started.key, started.generation, reason)
        self(Exited(started.key, started.generation, reason))
        self.loads.engines_changed()


async def test_who_waits_for_a_model_that_is_unloaded_meanwhile_does_not_wait_on() -> None:
    node = Dispatched()
    loading = asyncio.create_task(node.loads.load(plan("a")))
    await asyncio.sleep(0)
    unloading = asyncio.create_task(node.loads.unload("a"))
    with pytest.raises(HerdError) as caught:
        await asyncio.wait_for(loading, 30)
    assert caught.value.info.code == ErrorCode.BUSY
    node.exit("unloaded")
    await unloading
    assert node.state.lanes == {}


async def test_who_waits_for_room_for_a_model_that_is_unloaded_meanwhile_does_not_wait_on() -> None:
    node = Dispatched()
    play(node.state, replace(submit("j", "b"), plan=plan("b")), Release("j"))
    loading = asyncio.create_task(node.loads.load(plan("a")))
    await asyncio.sleep(0)
    await node.loads.unload("a")
    with pytest.raises(HerdError) as caught:
        await asyncio.wait_for(loading, 30)
    assert caught.value.info.code == ErrorCode.BUSY


async def test_a_load_that_comes_while_the_engine_is_unloaded_gets_the_next_one() -> None:
    node = Dispatched()
    node.loads.warm(plan("a"))
    unloading = asyncio.create_task(node.loads.unload("a"))
    await asyncio.sleep(0)
    loading = asyncio.create_task(node.loads.load(plan("a")))
    await asyncio.sleep(0)
    node.exit("unloaded")
    await unloading
    node.say(pipe.Ready(weights_bytes=1, active_bytes=1, peak_bytes=1))
    node.loads.engines_changed()
    await asyncio.wait_for(loading, 30)


async def test_an_engine_that_does_not_end_is_not_told_to_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd_mcp.node.loads.END_S", 0.01)
    node = Dispatched()
    node.loads.warm(plan("a"))
    with pytest.raises(HerdError) as caught:
        await node.loads.unload("a")
    assert caught.value.info.code == ErrorCode.BUSY


async def test_who_waits_for_a_model_hears_why_it_did_not_load() -> None:
    node = Dispatched()
    loading = asyncio.create_task(node.loads.load(plan("a")))
    await asyncio.sleep(0)
    node.exit("SIGKILL")
    with pytest.raises(HerdError) as caught:
        await asyncio.wait_for(loading, 30)
    assert caught.value.info.code == ErrorCode.ENGINE_CRASHED
    assert "SIGKILL" in caught.value.info.message
    again = asyncio.create_task(node.loads.load(plan("a")))
    await asyncio.sleep(0)
    node.say(pipe.Ready(weights_bytes=1, active_bytes=1, peak_bytes=1))
    node.loads.engines_changed()
    await again
    unloading = asyncio.create_task(node.loads.unload("a"))
    await asyncio.sleep(0)
    node.exit("unloaded")
    await unloading
    assert not node.loads.loaded(EngineKey("a"))
    node(Unload(EngineKey("a")))
