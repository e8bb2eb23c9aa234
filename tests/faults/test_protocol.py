"""What an engine says on its pipe, right or wrong, harms nobody but itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from herd_mcp.jobs import Completed, Failed
from tests.faults.dictate import (
    Act,
    alive,
    attempts,
    chat,
    dictated,
    has_status,
    image,
    noted,
    nothing_reserved,
    outcome,
)
from tests.faults.engine import READY, Op

READ_AT_MOST_BYTES = 40 * 1024 * 1024
"""What a node takes of an endless line or answer before it ends the engine, with what lies in buffers and pipes."""


def step(*runs: dict[str, Any], work: object = "MORE") -> Op:
    return ["say", {"ev": "step", "work": work, "runs": list(runs)}]


def done(run: object = "RUN", **facts: Any) -> Op:
    chat_facts = {"kind": "chat", "finish_reason": "stop", "prompt_tokens": 1, "cached_tokens": 0}
    chat_facts |= {"completion_tokens": 1, "prefill_s": 0.1, "decode_s": 0.1}
    return ["say", {"ev": "done", "run": run, "facts": {**chat_facts, **facts}}]


def failed(code: str) -> Op:
    return ["say", {"ev": "failed", "run": "RUN", "error": {"code": code, "message": "x"}}]


IMAGE_FACTS = {"width": 64, "height": 64, "steps": 1, "seed": 1, "guidance": None, "quantize": None, "run_s": 0.1}
LOADING = ["say", {"ev": "loading", "fraction": 0.5}]
SAY_READY = ["say", READY]

# After any of these it says nothing more and lives: only the breach itself can be what ends it.
WHILE_IT_WORKS: dict[str, list[Op]] = {
    "garbage": [["raw", "Traceback (most recent call last):\n"]],
    "an empty line": [["raw", "\n"]],
    "invalid UTF-8": [["raw", '{"ev":"step","work":1,"runs":[{"run":1,"text":"\xff\xfe"}]}\n']],
    "half of a character": [["raw", '{"ev":"step","work":1,"runs":[{"run":1,"text":"\\ud800"}]}\n']],
    "a number": [["raw", "17\n"]],
    "a list": [["say", [1, 2, 3]]],
    "an unknown word": [["say", {"ev": "dance"}]],
    "a word without its run": [["say", {"ev": "cancelled"}]],
    "a field too many": [["say", {"ev": "cancelled", "run": "RUN", "why": "x"}]],
    "a wrong type": [step({"run": "RUN", "text": 7})],
    "nested without end": [["raw", '{"ev":' * 50_000 + "\n"]],
    "a number without end": [done(prompt_tokens=10**400)],
    "seconds that are none": [done(prefill_s=float("nan"))],
    "ready twice": [SAY_READY],
    "loading when it had loaded": [LOADING],
    "a failed load when it had loaded": [["say", {"ev": "load_failed", "error": {"code": "internal", "message": "x"}}]],
    "words for a run that there is not": [step({"run": 10**9, "text": "x"})],
    "the end of a run that there is not": [done(10**9)],
    "a chat that ends as an image": [["say", {"ev": "done", "run": "RUN", "facts": {"kind": "image", **IMAGE_FACTS}}]],
    "the node's own words": [failed("interrupted")],
    "more tokens than were asked for": [step({"run": "RUN", "text": "x"})] * 40,
    "its own end": [failed("engine_crashed")],
}
WHILE_IT_LOADS: dict[str, list[Op]] = {
    "garbage": [["raw", "\x00\x01\x02\n"]],
    "work before it is ready": [step()],
    "the end of a run before it is ready": [done(1)],
    "a fraction over one": [["say", {"ev": "loading", "fraction": 2}]],
    "a fraction that is none": [["raw", '{"ev":"loading","fraction":NaN}\n']],
}


@pytest.mark.parametrize("words", WHILE_IT_WORKS.values(), ids=WHILE_IT_WORKS)
async def test_an_engine_that_breaks_the_protocol_is_ended_and_its_job_runs_once_more(
    tmp_path: Path, words: list[Op]
) -> None:
    bystander: Act = {"run": [["await", "go"], ["answer"]]}
    acts: list[Act] = [{"run": words}, {}]
    async with dictated(tmp_path / "f", chat=acts, image=[bystander]) as herd:
        drawing = await herd.submit(image(), client="test")
        await has_status(herd, drawing, "running")
        job = await herd.submit(chat(max_tokens=8), client="test")
        assert isinstance(await outcome(herd, job), Completed)
        assert await attempts(herd, job) == ["engine_crashed", "completed"]
        (tmp_path / "f" / "go").touch()
        assert await attempts(herd, drawing) == ["completed"]


@pytest.mark.parametrize("words", WHILE_IT_LOADS.values(), ids=WHILE_IT_LOADS)
async def test_an_engine_that_breaks_the_protocol_while_it_loads_is_ended(tmp_path: Path, words: list[Op]) -> None:
    async with dictated(tmp_path / "f", chat=[{"load": words}, {}]) as herd:
        job = await herd.submit(chat(), client="test")
        assert await attempts(herd, job) == ["engine_crashed", "completed"]


AFTER_THE_END: dict[str, Op] = {
    "done twice": done(),
    "a step after done": step({"run": "RUN", "text": "x"}),
    "failed after done": failed("internal"),
}


@pytest.mark.parametrize("word", AFTER_THE_END.values(), ids=AFTER_THE_END)
async def test_a_word_after_the_end_of_a_run_changes_no_outcome_and_ends_the_engine(tmp_path: Path, word: Op) -> None:
    first: Act = {"runs": {"held": [["hold"]]}, "run": [["answer"], word]}
    async with dictated(tmp_path / "f", chat=[first, {}]) as herd:
        held = await herd.submit(chat("held"), client="test")
        await has_status(herd, held, "running")
        job = await herd.submit(chat(), client="test")
        last = await outcome(herd, job)
        assert isinstance(last, Completed)
        assert await attempts(herd, job) == ["completed"]
        assert await attempts(herd, held) == ["engine_crashed", "completed"]


async def test_an_answer_to_an_old_attempt_is_nobodys_and_the_second_death_is_final(tmp_path: Path) -> None:
    acts: list[Act] = [{"run": [["raw", "garbage\n"]]}, {"run": [done("OLD")]}]
    async with dictated(tmp_path / "f", chat=acts) as herd:
        job = await herd.submit(chat(), client="test")
        last = await outcome(herd, job)
        assert isinstance(last, Failed)
        assert last.error.code == "engine_crashed"
        assert "a run that it did not have" in last.error.message
        await nothing_reserved(herd)
        assert len(noted(tmp_path / "f", "starts")) == 2


ENDLESS: dict[str, list[Op]] = {
    "one line": [["flood", "x"]],
    "steps without runs": [["flood", '{"ev":"step","work":0}\n']],
    "an answer": [["flood", {"ev": "step", "work": 1, "runs": [{"run": "RUN", "text": "x" * 60_000}]}]],
}


@pytest.mark.parametrize("words", ENDLESS.values(), ids=ENDLESS)
async def test_of_an_engine_that_talks_without_end_little_is_heard(tmp_path: Path, words: list[Op]) -> None:
    async with dictated(tmp_path / "f", chat=[{"run": words}, {}]) as herd:
        job = await herd.submit(chat(max_tokens=1_000_000), client="test")
        assert await attempts(herd, job) == ["engine_crashed", "completed"]
        assert int((tmp_path / "f" / "written").read_text() or 0) < READ_AT_MOST_BYTES


async def test_loading_that_is_told_without_end_fills_no_log(tmp_path: Path) -> None:
    load: list[Op] = [["flood", '{"ev":"loading","fraction":0.5}\n']]
    async with dictated(tmp_path / "f", chat=[{"load": load}, {}]) as herd:
        job = await herd.submit(chat(), client="test")
        events = [event async for event in herd.watch(job.id)]
        assert events[-1].type == "completed"
        assert sum(event.type == "loading" for event in events) < 10


async def test_an_idle_engine_that_says_garbage_is_ended_and_the_next_job_gets_a_new_one(tmp_path: Path) -> None:
    first: Act = {"run": [["answer"], ["await", "go"], ["raw", "garbage\n"]]}
    async with dictated(tmp_path / "f", chat=[first, {}]) as herd:
        assert await attempts(herd, await herd.submit(chat(), client="test")) == ["completed"]
        (tmp_path / "f" / "go").touch()
        await nothing_reserved(herd)
        assert not alive(int(noted(tmp_path / "f", "pids")[0]))
        assert await attempts(herd, await herd.submit(chat(), client="test")) == ["completed"]
