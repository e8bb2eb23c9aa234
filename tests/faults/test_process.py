"""What an engine's process does: however it goes, or does not go, its jobs have one outcome and nothing is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from herd_mcp.jobs import Completed, Failed
from tests.conftest import until
from tests.faults.dictate import (
    ASK,
    LIMIT_S,
    Act,
    alive,
    attempts,
    chat,
    dictated,
    has_status,
    image,
    node,
    noted,
    nothing_reserved,
    outcome,
)
from tests.faults.engine import READY, Op

STALL_S = 2.0
SIGNALS = ("SIGKILL", "SIGABRT", "SIGSEGV", "SIGSTOP")
LOADING: Op = ["say", {"ev": "loading", "fraction": 0.3}]
PREFILL: Op = ["say", {"ev": "step", "work": "MORE"}]
TOKEN: Op = ["say", {"ev": "step", "work": "MORE", "runs": [{"run": "RUN", "text": "x"}]}]
STEPS: list[Op] = [
    ["say", {"ev": "step", "work": "MORE", "runs": [{"run": "RUN", "step": n, "steps": 2}]}] for n in (1, 2)
]
PHASES: dict[str, tuple[str, dict[str, list[Op]]]] = {
    "while it loads": ("chat", {"load": [LOADING]}),
    "in prefill": ("chat", {"run": [PREFILL]}),
    "while it answers": ("chat", {"run": [PREFILL, TOKEN]}),
    "between steps": ("image", {"run": STEPS[:1]}),
    "while it saves": ("image", {"run": [*STEPS, ["damage"]]}),
}
CASES = [  # each stop takes its seconds: two every day, the others when there is time
    pytest.param(phase, name, marks=pytest.mark.slow if name == "SIGSTOP" and n % 3 else [], id=f"{name} {phase}")
    for n, phase in enumerate(PHASES)
    for name in SIGNALS
]


def then(act: dict[str, list[Op]], op: Op) -> Act:
    """The act with one more deed at its end."""
    return {part: [*ops, op] for part, ops in act.items()}


@pytest.mark.parametrize(("phase", "name"), CASES)
async def test_a_death_costs_the_job_one_attempt_and_others_nothing(tmp_path: Path, phase: str, name: str) -> None:
    kind, act = PHASES[phase]
    other = "image" if kind == "chat" else "chat"
    acts: dict[str, Any] = {kind: [then(act, ["signal", name]), {}], other: [{"run": [["await", "go"], ["answer"]]}]}
    acts |= {"engine_stall_s": STALL_S} if name == "SIGSTOP" else {}
    async with dictated(tmp_path / "f", **acts) as herd:
        job = await herd.submit(ASK[kind](), client="test")
        beside = await herd.submit(ASK[other](), client="test") if name != "SIGSTOP" else None
        assert isinstance(await outcome(herd, job), Completed)
        assert await attempts(herd, job) == ["engine_crashed", "completed"]
        (tmp_path / "f" / "go").touch()
        if beside is not None:
            assert await attempts(herd, beside) == ["completed"]
        state = (await herd.nodes())[0]
        assert state.memory.reserved_bytes == sum(engine.reserved_bytes for engine in state.engines)
        assert not alive(int(noted(tmp_path / "f", "pids")[0])) or len(state.engines) == 2


@pytest.mark.parametrize("phase", PHASES)
async def test_a_second_death_is_the_one_outcome_and_the_memory_comes_back(tmp_path: Path, phase: str) -> None:
    kind, act = PHASES[phase]
    acts: dict[str, Any] = {kind: [then(act, ["signal", "SIGKILL"])]}
    async with dictated(tmp_path / "f", **acts) as herd:
        job = await herd.submit(ASK[kind](), client="test")
        last = await outcome(herd, job)
        assert isinstance(last, Failed)
        assert last.error.code == "engine_crashed"
        assert "SIGKILL" in last.error.message
        assert await attempts(herd, job) == ["engine_crashed"] * 2
        await nothing_reserved(herd)
        assert len(noted(tmp_path / "f", "pids")) == 2


ENDINGS: dict[str, list[Op]] = {
    "exits with 0": [["exit", 0]],
    "exits in the middle of a line": [["raw", '{"ev":"step","wor'], ["exit", 0]],
    "closes its pipe and lives": [["close"], ["hang"]],
    "dies and leaves a child on its pipes": [["fork", "group"], ["signal", "SIGKILL"]],
    "exits and leaves a child on its pipes": [["fork", "group"], ["exit", 0]],
    "dies and leaves a child that went away": [["fork", "away"], ["signal", "SIGKILL"]],
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
async def test_an_engine_that_ends_oddly_is_gone_with_what_it_forked_and_its_job_runs_once_more(
    tmp_path: Path, ending: list[Op]
) -> None:
    folder = tmp_path / "f"
    try:
        async with dictated(folder, chat=[{"run": [PREFILL, *ending]}, {}]) as herd:
            job = await herd.submit(chat(), client="test")
            assert await attempts(herd, job) == ["engine_crashed", "completed"]
            pids = [int(pid) for pid in noted(folder, "pids")]
            assert [alive(pid) for pid in pids] == [False] * (len(pids) - 1) + [True]
    finally:
        for stranger in noted(folder, "strangers"):  # it left the group: nobody knows that it was an engine's
            os.kill(int(stranger), signal.SIGKILL)


async def test_an_engine_that_dies_idle_with_its_pipe_held_open_gives_its_memory_back(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    try:
        acts: list[Act] = [{"run": [["answer"], ["fork", "away"], ["signal", "SIGKILL"]]}, {}]
        async with dictated(folder, chat=acts) as herd:
            assert await attempts(herd, await herd.submit(chat(), client="test")) == ["completed"]
            await nothing_reserved(herd)
            assert await attempts(herd, await herd.submit(chat(), client="test")) == ["completed"]
    finally:
        for stranger in noted(folder, "strangers"):
            os.kill(int(stranger), signal.SIGKILL)


async def test_an_engine_that_does_not_read_blocks_nobody_and_its_jobs_run_once_more(tmp_path: Path) -> None:
    acts: list[Act] = [{"load": [["say", READY], ["hang"]]}, {}]
    async with dictated(tmp_path / "f", chat=acts, engine_stall_s=STALL_S) as herd:
        jobs = [await herd.submit(chat("x" * 1_000_000), client="test") for _ in range(8)]
        await has_status(herd, jobs[-1], "running")
        drawing = await herd.submit(image(), client="test")
        assert await attempts(herd, drawing) == ["completed"]
        for job in jobs:
            assert await attempts(herd, job) == ["engine_crashed", "completed"]


async def test_an_engine_that_cannot_be_started_fails_its_job_after_two_tries(tmp_path: Path) -> None:
    async with node(["/no/such/program"], tmp_path) as herd:
        job = await herd.submit(chat(), client="test")
        last = await outcome(herd, job)
        assert isinstance(last, Failed)
        assert last.error.code == "engine_crashed"
        assert await attempts(herd, job) == ["engine_crashed"] * 2
        await nothing_reserved(herd)


async def test_an_engine_that_says_it_is_dying_gets_no_more_work(tmp_path: Path) -> None:
    dying = {"ev": "failed", "run": "RUN", "error": {"code": "engine_crashed", "message": "a step raised"}}
    acts: list[Act] = [{"run": [["say", dying], ["await", "never"]]}, {}]
    async with dictated(tmp_path / "f", image=acts) as herd:
        jobs = [await herd.submit(image(str(n)), client="test") for n in range(2)]
        assert await attempts(herd, jobs[0]) == ["engine_crashed", "completed"]
        assert await attempts(herd, jobs[1]) == ["completed"]
        assert len(noted(tmp_path / "f", "starts")) == 3


async def test_a_job_whose_engine_dies_as_the_node_ends_waits_for_the_next_start_and_holds_nobody_up(
    tmp_path: Path,
) -> None:
    acts: list[Act] = [{"run": [["signal", "SIGKILL"]]}, {"load": [["hang"]]}]
    async with dictated(tmp_path / "f", image=acts) as herd:
        job = await herd.submit(image(), client="test")

        async def waits_again() -> bool:
            # By its attempts: an engine that dies at once lets its job be "running" for a moment only.
            return len((await herd.job(job.id)).attempts) == 2

        await until(waits_again, "the job waits for its second engine", LIMIT_S)
    async with dictated(tmp_path / "f") as herd:
        assert await attempts(herd, job) == ["engine_crashed", "completed"]
