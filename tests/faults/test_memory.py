"""A node whose Mac gets short of memory, and engines that take more than was reserved for them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from herd_mcp.herd import Herd
from herd_mcp.jobs import ChatResult, Completed, Failed, HerdError, Job
from herd_mcp.node import pressure, watch
from herd_mcp.node.pressure import Reading
from herd_mcp.settings import GIB
from herd_mcp.state import Level
from herd_mcp.surfaces.mcp import results
from tests.conftest import until
from tests.faults.dictate import (
    CHAT,
    IMAGE,
    LIMIT_S,
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
from tests.faults.engine import Op

AVAILABLE: dict[Level, float] = {"normal": 0.5, "moderate": 0.1, "high": 0.05, "critical": 0.01}
WORKER = Path(__file__).parent / "worker.py"
GROW: list[Op] = [["say", {"ev": "step", "work": "MORE"}], ["grow", 1536]]
"""The built-in models reserve a third of a GiB."""
GROW_MORE: list[Op] = [GROW[0], ["grow", 3072]]
"""The second engine is given what the first one took."""
CUT = {"kind": "chat", "finish_reason": "length", "prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 512}
ANSWER_CUT: list[Op] = [
    ["say", {"ev": "step", "work": "MORE", "runs": [{"run": "RUN", "text": "ok"}]}],
    ["say", {"ev": "done", "run": "RUN", "facts": {**CUT, "prefill_s": 0.1, "decode_s": 0.1}}],
]


@pytest.fixture(autouse=True)
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node looks at the memory often, so that no test waits for a look."""
    for name in ("BUSY_S", "EMPTY_S"):
        monkeypatch.setattr(watch, name, 0.1)


class Mac:
    """A Mac of 16 GB that is as short of memory as the test says."""

    def __init__(self) -> None:
        self.level: Level = "normal"

    def read(self, _before: Reading | None) -> Reading:
        return Reading(16 * GIB, int(16 * GIB * AVAILABLE[self.level]))


async def feels(herd: Herd, level: Level) -> None:
    async def felt() -> bool:
        return (await herd.nodes())[0].memory.pressure == level

    await until(felt, f"the node knows that memory is {level}", LIMIT_S)


async def advice(herd: Herd) -> list[tuple[str, str]]:
    told = (await herd.health()).recommendations
    return [(item.severity, item.title) for item in told if item.check_id == "memory_pressure"]


async def test_a_busy_engine_keeps_less_while_memory_is_short_and_all_again_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressure, "HOLD_S", 0.1)
    mac = Mac()
    acts: dict[str, Any] = {"read_memory": mac.read, "prompt_cache_bytes": 1000, "node_name": "mini"}
    async with dictated(tmp_path / "f", chat=[{"run": [["hold"]]}], **acts) as herd:
        job = await herd.submit(chat(), client="test")
        await has_status(herd, job, "running")
        assert await advice(herd) == []
        for level in ("moderate", "high", "normal"):
            mac.level = level
            await feels(herd, level)
        await until(lambda: len(noted(tmp_path / "f", "limits")) == 3, "the engine was told three times", LIMIT_S)
        assert noted(tmp_path / "f", "limits") == [f"{CHAT} {kept}" for kept in (500, 100, 1000)]
        assert (await herd.job(job.id)).status == "running"


async def test_at_critical_idle_engines_end_and_health_says_so(tmp_path: Path) -> None:
    mac = Mac()
    async with dictated(tmp_path / "f", read_memory=mac.read, node_name="mini") as herd:
        for request in (chat(), image()):
            assert isinstance(await outcome(herd, await herd.submit(request, client="test")), Completed)
        assert len((await herd.nodes())[0].engines) == 2
        mac.level = "critical"
        await nothing_reserved(herd)
        assert await advice(herd) == [("critical", "mini is short of memory (critical)")]
        job = await herd.submit(chat(), client="test")
        assert isinstance(await outcome(herd, job), Completed), "work goes on"


async def test_an_answer_is_shorter_while_memory_is_short_and_says_so(tmp_path: Path) -> None:
    mac = Mac()
    acts = [{"run": ANSWER_CUT}]
    async with dictated(tmp_path / "f", chat=acts, read_memory=mac.read) as herd:
        mac.level = "critical"
        await feels(herd, "critical")
        last = await outcome(herd, await herd.submit(chat(max_tokens=3000), client="test"))
        assert noted(tmp_path / "f", "max_tokens") == ["512"]
        assert isinstance(last, Completed)
        assert isinstance(last.result, ChatResult)
        note = last.result.limited_by
        assert note.startswith("memory: the answer was limited to 512 tokens")
        assert note in results.chat_text(last.result)
        assert results.chat_answer(last.result.model, last.result).limited_by == note


async def test_a_picture_that_was_accepted_is_drawn_when_memory_is_back_and_smaller_ones_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressure, "HOLD_S", 0.1)
    mac = Mac()
    acts = [{"run": [["await", "go"], ["answer"]]}]
    sizes = {"high": 100}
    async with dictated(tmp_path / "f", image=acts, read_memory=mac.read, pressure_max_image_px=sizes) as herd:
        first = await herd.submit(image("first", width=64, height=64), client="test")
        await has_status(herd, first, "running")
        large = await herd.submit(image("large", width=128, height=128), client="test")
        small = await herd.submit(image("small", width=64, height=64), client="test")
        mac.level = "high"
        await feels(herd, "high")
        with pytest.raises(HerdError, match="too large now"):
            await herd.submit(image("too late", width=128, height=128), client="test")
        assert (await herd.nodes())[0].memory.begun_px == 100 * 100
        (tmp_path / "f" / "go").touch()
        assert isinstance(await outcome(herd, small), Completed)
        assert (await herd.job(large.id)).status == "queued"
        mac.level = "normal"
        assert isinstance(await outcome(herd, large), Completed)
        assert noted(tmp_path / "f", "starts") == [f"{IMAGE} {each}" for each in ("first", "small", "large")]


async def took_too_much(herd: Herd, job: Job) -> None:
    last = await outcome(herd, job)
    assert isinstance(last, Failed)
    assert last.error.code == "engine_crashed"
    assert last.error.details["held_bytes"] > last.error.details["reserved_bytes"] > 0
    assert "were reserved for it" in last.error.message


@pytest.mark.slow
async def test_a_job_whose_engine_takes_too_much_twice_fails_with_both_numbers(tmp_path: Path) -> None:
    async with dictated(tmp_path / "f", image=[{"run": GROW}, {"run": GROW_MORE}]) as herd:
        job = await herd.submit(image(), client="test")
        await took_too_much(herd, job)
        assert await attempts(herd, job) == ["engine_crashed"] * 2
        await nothing_reserved(herd)


async def test_a_real_engine_that_takes_more_than_was_reserved_is_ended_and_its_job_runs_again(tmp_path: Path) -> None:
    command = (sys.executable, "-P", str(WORKER), str(tmp_path), "decode", "GROW")
    async with node(command, tmp_path) as herd:
        job = await herd.submit(chat("tell me more", max_tokens=8), client="test")
        assert isinstance(await outcome(herd, job), Completed)
        assert (tmp_path / "struck").exists()
        assert await attempts(herd, job) == ["engine_crashed", "completed"]
