"""What the node does about engines that take turns: it ends the one that hangs and not those that wait for it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from herd_mcp import pipe
from herd_mcp.herd import Herd, open_herd
from herd_mcp.jobs import (
    ChatRequest,
    ChatResult,
    Completed,
    ImageRequest,
    ImageResult,
    Job,
    JobEvent,
    Kind,
    Result,
    Sampling,
)
from herd_mcp.node.decide import decide, next_tick_at
from herd_mcp.node.events import EndEngine, Heard, Release, Submit, Tick
from herd_mcp.node.lanes import EngineKey, Limits, Plan, State
from herd_mcp.node.memory import Needs
from herd_mcp.settings import load_settings
from tests.conftest import until

STALL_S = 30.0
DRAW = ImageRequest(prompt="a red circle", steps=4, seed=7)
TALK = ChatRequest.model_validate(
    {
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 100,
        "sampling": {"seed": 3, "logit_bias": {2: -1000}},
    }
)
ENDLESS = TALK.model_copy(update={"max_tokens": 3000, "sampling": Sampling(logit_bias={2: -1000})})


def working(*models: str) -> State:
    """A node whose engines of these models are ready and each have a job, since 0 s."""
    state = State("here", Limits(9, 300, 60, STALL_S, budget_bytes=1000))
    for model in models:
        spec = pipe.EngineSpec(kind="image", model=model, path=f"/{model}")
        plan = Plan(EngineKey(model), spec, Needs(1), capacity=1)
        decide(state, Submit(model, 1, DRAW, plan, "/spool", 1e9), 0)
        decide(state, Release(model), 0)
        hear(state, model, pipe.Ready(weights_bytes=1, active_bytes=1, peak_bytes=1), 0)
    return state


def hear(state: State, model: str, message: pipe.Message, now: float) -> None:
    engine = state.lanes[EngineKey(model)].engine
    assert engine is not None
    decide(state, Heard(EngineKey(model), engine.generation, message), now)


def ended(state: State, now: float) -> list[str]:
    return [effect.key.model for effect in decide(state, Tick(), now) if isinstance(effect, EndEngine)]


def test_who_waits_for_its_turn_is_not_ended_and_the_silent_one_is() -> None:
    state = working("holder", "waiter")
    for now in range(1, 100):
        hear(state, "waiter", pipe.WaitingForTurn(waited_s=now), now)
        assert ended(state, now) == (["holder"] if now == STALL_S else [])
    due = next_tick_at(state)
    assert due is not None
    assert due == 99 + STALL_S
    assert ended(state, due) == ["waiter"], "one that stopped saying so hangs too"


def test_an_engine_that_waits_while_it_loads_is_ended_at_the_limit_of_loading_and_not_before() -> None:
    state = State("here", Limits(9, 300, 60, STALL_S, budget_bytes=1000))
    spec = pipe.EngineSpec(kind="image", model="m", path="/m")
    decide(state, Submit("m", 1, DRAW, Plan(EngineKey("m"), spec, Needs(1), 1), "/spool", 1e9), 0)
    decide(state, Release("m"), 0)
    for now in range(1, 60):
        hear(state, "m", pipe.WaitingForTurn(waited_s=now), now)
        assert ended(state, now) == []
    assert ended(state, 60) == ["m"]


async def outcome(herd: Herd, job: Job) -> JobEvent:
    return [event async for event in herd.watch(job.id)][-1]


async def result(herd: Herd, job: Job) -> Result:
    event = await outcome(herd, job)
    assert isinstance(event, Completed), event
    return event.result


@pytest.mark.slow
async def test_an_image_beside_a_chat_is_the_picture_and_the_text_that_each_gives_alone(
    warm: Herd,
) -> None:
    alone = [await result(warm, await warm.submit(request, client="test")) for request in (DRAW, TALK)]
    jobs = [await warm.submit(request, client="test") for request in (DRAW, TALK)]
    together = await asyncio.gather(*(result(warm, job) for job in jobs))
    pictures = {
        picture.sha256: picture.image_id for picture in (alone[0], *together) if isinstance(picture, ImageResult)
    }
    texts = {text.text for text in (alone[1], *together) if isinstance(text, ChatResult)}
    assert len(pictures) == 1
    assert len(texts) == 1
    assert len((await warm.nodes())[0].engines) == 2
    home = warm.image_path(next(iter(pictures.values()))).parent.parent
    locks = [home / "run" / name for name in ("turn.next", "turn.gpu")]
    assert [path.stat().st_mode & 0o777 for path in (*locks, home / "run")] == [0o600, 0o600, 0o700]


@pytest.mark.slow
@pytest.mark.parametrize("stopped", ["image", "chat"])
async def test_a_stopped_engine_is_ended_and_the_other_does_its_job(herd_home: Path, stopped: Kind) -> None:
    """Whoever is stopped, holding the GPU or first in the queue for it: the other never ends for it."""
    image = DRAW.model_copy(update={"steps": 60})
    async with open_herd(load_settings(engine_stall_s=20)) as herd:
        jobs: dict[Kind, Job] = {
            "image": await herd.submit(image, client="test"),
            "chat": await herd.submit(ENDLESS, client="test"),
        }

        async def both_run() -> bool:
            return all([(await herd.job(job.id)).status == "running" for job in jobs.values()])

        await until(both_run, "both run", timeout_s=60)
        pids = {engine.kind: engine.pid for engine in (await herd.nodes())[0].engines}
        pid = pids[stopped]
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        events = {kind: await outcome(herd, job) for kind, job in jobs.items()}
        attempts = {kind: [a.outcome for a in (await herd.job(job.id)).attempts] for kind, job in jobs.items()}
        other: Kind = "chat" if stopped == "image" else "image"
        assert attempts[other] == ["completed"]
        assert attempts[stopped] == ["engine_crashed", "completed"]
        assert all(isinstance(event, Completed) for event in events.values())
        stats = (await herd.nodes())[0]
        assert {engine.kind: engine.pid for engine in stats.engines}[other] == pids[other]
