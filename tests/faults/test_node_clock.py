"""Clocks that jump and a Mac that sleeps: nothing runs out early for it, and nothing runs for ever."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from herd_mcp.clock import steady_s
from herd_mcp.herd import Herd, open_herd
from herd_mcp.jobs import ENDED, ChatRequest, ImageRequest, Message
from herd_mcp.node.decide import next_tick_at
from herd_mcp.node.events import Release, Slept, Tick
from herd_mcp.settings import load_settings
from herd_mcp.surfaces.mcp.gate import TOKEN_LIFE_S, Tokens
from tests.cli.program import until as wait
from tests.conftest import until
from tests.faults.node_process import ENDLESS_IMAGE, Faulty, a_home
from tests.node.test_decide import LIMITS, begun, ended, new_state, play, ready, submit, told

DAY_S = 86_400.0
SLEEP_S = 9.0


def test_the_five_minutes_of_a_token_are_on_a_clock_that_nobody_sets() -> None:
    expires_at = int(Tokens().issue("pull", "a").partition(".")[0], 16)
    assert abs(expires_at - (steady_s() + TOKEN_LIFE_S)) < 30


@pytest.mark.parametrize(
    "jump_s",
    [pytest.param(DAY_S, id="a day forward"), pytest.param(-DAY_S, id="a day back", marks=pytest.mark.slow)],
)
async def test_a_jump_of_the_clock_ends_no_job_and_no_engine_and_times_stay_sane(
    herd_home: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    wall = time.time
    settings = load_settings(job_timeout_s=600, engine_stall_s=300, idle_unload_s=600, load_timeout_s=300)
    async with open_herd(settings) as herd:
        job = await herd.submit(ImageRequest(prompt="x", steps=5), client="test")

        async def runs() -> bool:
            return (await herd.job(job.id)).status == "running"

        await until(runs, "the image is being drawn", 60)
        monkeypatch.setattr(time, "time", lambda: wall() + jump_s)

        async def over() -> bool:
            return (await herd.job(job.id)).status in ENDED

        await until(over, "the image is done", 60)
        done = await herd.job(job.id)
        assert done.status == "completed"
        assert done.finished_at is not None
        assert abs(done.finished_at - time.time()) < 60
        for measured in (done.timings.total_s, done.timings.run_s, done.timings.queue_s, done.timings.load_s):
            assert measured is not None
            assert 0 <= measured < 60
        (engine,) = (await herd.nodes())[0].engines
        assert (engine.phase, engine.idle_s < 60) == ("ready", True)


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S], ids=["a day forward", "a day back"])
async def test_answers_are_kept_as_long_as_promised_whatever_is_done_to_the_clock(
    herd_home: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    hour_s = 3600.0
    wall, steady = time.time, steady_s

    def after(seconds: float, jumped_s: float) -> None:
        monkeypatch.setattr(time, "time", lambda: wall() + seconds + jumped_s)
        monkeypatch.setattr("herd_mcp.owner.ended.steady_s", lambda: steady() + seconds)

    settings = load_settings(chat_keep_s=2 * hour_s)
    async with open_herd(settings) as herd:
        job_ids = [await answered(herd)]
    async with open_herd(settings) as herd:

        async def kept() -> list[bool]:
            await herd._owner.ended.forget_answers()
            stored = [await herd._history.get(job_id) for job_id in job_ids]
            return [job is not None and job.result is not None for job in stored]

        for jumped_s in (0.0, jump_s):
            after(0, jumped_s)
            job_ids.append(await answered(herd))
        after(hour_s, jump_s)
        assert await kept() == [True] * 3
        after(3 * hour_s, jump_s)
        assert await kept() == [False] * 3


async def answered(herd: Herd) -> str:
    """A chat that is over."""
    chat = ChatRequest(messages=(Message(role="user", content="hello"),), max_tokens=4)
    job = await herd.submit(chat, client="test")
    assert [event.type async for event in herd.watch(job.id)][-1] == "completed"
    return job.id


def test_time_in_which_the_node_slept_is_no_silence_and_no_delay() -> None:
    state = new_state()
    play(state, submit("j1", timeout_s=40), Release("j1"))
    ready(state)
    assert begun(play(state)) == []
    assert ended(play(state, Slept(100.0), Tick(), now=120.0)) == []
    assert next_tick_at(state) == 140.0  # 20 s of its 40 were used up
    assert told(play(state, Tick(), now=140.0), "j1") == ["failed"]


def test_an_engine_that_stays_silent_after_the_sleep_is_ended_all_the_same() -> None:
    state = new_state()
    play(state, submit("j1"), Release("j1"))
    ready(state)
    play(state, Slept(100.0), now=120.0)
    assert ended(play(state, Tick(), now=120.0 + LIMITS.engine_stall_s)) == ["a"]


def test_a_model_that_loads_through_a_sleep_has_its_whole_time() -> None:
    state = new_state()
    play(state, submit("j1"), Release("j1"))
    assert ended(play(state, Slept(100.0), Tick(), now=110.0)) == []


@pytest.mark.slow
def test_after_a_sleep_of_the_whole_mac_the_image_goes_on_in_the_same_engine(tmp_path: Path) -> None:
    with a_home(tmp_path, HERD_ENGINE_STALL_S="6", HERD_JOB_TIMEOUT_S="600") as faulty, faulty.running() as node:
        job_id = faulty.submit(ENDLESS_IMAGE)
        faulty.is_(job_id, "running")
        engine = faulty.engine_pid()
        # The engine first and last: it has said nothing when the node looks at its clock again.
        os.kill(engine, signal.SIGSTOP)
        os.kill(node.pid, signal.SIGSTOP)
        time.sleep(SLEEP_S)
        os.kill(node.pid, signal.SIGCONT)
        before = progress_of(faulty, job_id)
        os.kill(engine, signal.SIGCONT)
        wait(lambda: progress_of(faulty, job_id) > before)
        assert [attempt.outcome for attempt in faulty.job(job_id).attempts] == [""]
        assert faulty.engine_pid() == engine


def progress_of(faulty: Faulty, job_id: str) -> int:
    progress = faulty.job(job_id).progress
    return progress.step if progress else 0
