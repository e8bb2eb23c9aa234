"""Real engines that die or stop at every point of their work, and a chat that kills whoever answers it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from herd_mcp.jobs import ChatResult, Completed, Failed
from tests.engines import scripted_model
from tests.faults.dictate import attempts, chat, image, node, outcome

WORKER = Path(__file__).parent / "worker.py"
POINTS = {"load": "chat", "prefill": "chat", "decode": "chat", "step": "image", "save": "image"}
SIGNALS = ("SIGKILL", "SIGABRT", "SIGSEGV", "SIGSTOP", "IN_C")
# Every day: the poison below, and an image whose engine is killed in tests/test_herd.py.
CASES = [
    pytest.param(point, name, id=f"{name} in {point}", marks=pytest.mark.slow) for point in POINTS for name in SIGNALS
] + [pytest.param("decode", "MEMORY", id="no memory in decode", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("point", "name"), CASES)
async def test_a_real_engine_that_falls_costs_one_attempt(
    herd_home: Path, tmp_path: Path, point: str, name: str
) -> None:
    command = (sys.executable, "-P", str(WORKER), str(tmp_path), point, name)
    request = image(steps=2) if POINTS[point] == "image" else chat("tell me more " * 60, max_tokens=8)
    async with node(command, tmp_path, engine_stall_s=30) as herd:
        job = await herd.submit(request, client="test")
        assert isinstance(await outcome(herd, job), Completed)
        assert (tmp_path / "struck").exists()
        assert await attempts(herd, job) == ["engine_crashed", "completed"]
    assert list((herd_home / "images").glob("*.png")) == list((herd_home / "images").glob("img-*.png"))


def build_scripted(folder: Path) -> str:
    """The scripted model as one whose architecture the node knows; its own code is what runs."""
    scripted_model.build(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "qwen3"}))
    return folder.name


async def test_a_poison_chat_dies_twice_and_those_that_shared_its_engine_are_answered(
    herd_home: Path, tmp_path: Path
) -> None:
    name = build_scripted(herd_home / "models" / "scripted")
    command = (sys.executable, "-P", str(WORKER), str(tmp_path), "nowhere", "SIGKILL")
    async with node(command, tmp_path) as herd:
        jobs = []
        for number in range(8):
            words = "DIE:40" if number == 3 else f"SAY:{number}" + "y" * 300
            jobs.append(await herd.submit(chat(words, model=name, max_tokens=400), client="test"))
        poison = jobs.pop(3)
        last = await outcome(herd, poison)
        assert isinstance(last, Failed)
        assert last.error.code == "engine_crashed"
        assert await attempts(herd, poison) == ["engine_crashed"] * 2
        for job in jobs:
            told = await outcome(herd, job)
            assert isinstance(told, Completed)
            assert isinstance(told.result, ChatResult)
            assert told.result.text.endswith("y" * 300)
        assert ["engine_crashed", "completed"] in [await attempts(herd, job) for job in jobs], "they shared an engine"
