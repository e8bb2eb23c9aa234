"""An engine that lives and talks and gets nowhere is found by the absence of progress, not of messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from herd_mcp.jobs import Failed
from tests.faults.dictate import ASK, Act, attempts, chat, dictated, has_status, image, noted, nothing_reserved, outcome
from tests.faults.engine import READY, Op

STALL_S = 2.0
BEAT_S = 0.1
HALF: Op = ["say", {"ev": "loading", "fraction": 0.5}]
EMPTY: Op = ["say", {"ev": "step", "work": 1}]
SAME: Op = ["say", {"ev": "step", "work": 1, "runs": [{"run": "RUN", "step": 1, "steps": 2}]}]

STUCK: dict[str, tuple[str, Act]] = {
    "says nothing while it loads": ("chat", {"load": [["hang"]]}),
    "tells the same fraction": ("chat", {"load": [["forever", [HALF], BEAT_S]]}),
    "tells steps without work": ("chat", {"run": [["forever", [EMPTY], BEAT_S]]}),
    "tells the same step": ("image", {"run": [["forever", [SAME], BEAT_S]]}),
}


@pytest.mark.parametrize(("kind", "act"), STUCK.values(), ids=STUCK)
async def test_an_engine_without_progress_is_ended_and_its_job_runs_once_more(
    tmp_path: Path, kind: str, act: Act
) -> None:
    acts: dict[str, Any] = {kind: [act, {}]}
    async with dictated(tmp_path / "f", engine_stall_s=STALL_S, **acts) as herd:
        job = await herd.submit(ASK[kind](), client="test")
        assert await attempts(herd, job) == ["engine_crashed", "completed"]


async def test_loading_that_comes_nearer_for_ever_ends_at_its_time(tmp_path: Path) -> None:
    acts: list[Act] = [{"load": [["closer", BEAT_S]]}, {}]
    async with dictated(tmp_path / "f", chat=acts, load_timeout_s=STALL_S) as herd:
        job = await herd.submit(chat(), client="test")
        assert await attempts(herd, job) == ["engine_crashed", "completed"]


async def test_all_who_wait_for_a_model_that_never_loads_have_one_outcome_each(tmp_path: Path) -> None:
    acts: list[Act] = [{"load": [["forever", [HALF], BEAT_S]]}]
    async with dictated(tmp_path / "f", chat=acts, engine_stall_s=STALL_S) as herd:
        jobs = [await herd.submit(chat(str(n)), client="test") for n in range(20)]
        for job in jobs:
            last = await outcome(herd, job)
            assert isinstance(last, Failed)
            assert last.error.code == "engine_crashed"
            assert await attempts(herd, job) == ["engine_crashed"] * 2
        await nothing_reserved(herd)
        assert len(noted(tmp_path / "f", "pids")) == 2, "they waited together"


async def test_a_load_that_failed_ends_at_once_though_the_process_lives_on(tmp_path: Path) -> None:
    error = {"code": "model_incomplete", "message": "vae/ is empty."}
    acts: list[Act] = [{"load": [["say", {"ev": "load_failed", "error": error}], ["hang"]]}]
    async with dictated(tmp_path / "f", chat=acts) as herd:
        job = await herd.submit(chat(), client="test")
        assert await attempts(herd, job) == ["model_incomplete"]
        await nothing_reserved(herd)


async def test_an_engine_that_does_not_let_go_of_a_cancelled_image_is_ended_and_the_next_one_is_drawn(
    tmp_path: Path,
) -> None:
    on: Op = ["say", {"ev": "step", "work": "MORE"}]
    acts: list[Act] = [{"load": [["say", READY]], "run": [["forever", [on], BEAT_S]]}, {}]
    async with dictated(tmp_path / "f", image=acts, engine_stall_s=STALL_S) as herd:
        job = await herd.submit(image(), client="test")
        after = await herd.submit(image(), client="test")
        await has_status(herd, job, "running")
        assert (await herd.cancel(job.id)).status == "cancelled"
        assert await attempts(herd, after) == ["completed"]
