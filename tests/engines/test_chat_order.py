"""What a step of the chat engine tells first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from herd_mcp.engines.chat import ChatEngine
from herd_mcp.engines.turns import alone
from herd_mcp.pipe import EngineSpec, Message, Start, Step
from tests.engines.pipe_client import ask_chat

BUILTIN = Path(__file__).parents[2] / "herd_mcp" / "builtin" / "herd-tiny-chat"


@pytest.fixture
def engine() -> ChatEngine:
    mx.disable_compile()
    engine = ChatEngine(alone())
    spec = EngineSpec(kind="chat", model="herd-tiny-chat", path=str(BUILTIN), prompt_cache_bytes=1 << 24)
    engine.load(spec, lambda _: None)
    return engine


def test_a_token_is_told_before_the_prompt_of_another_is_computed(
    engine: ChatEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    def emit(message: Message) -> None:
        if isinstance(message, Step):
            happened.extend(f"token of {delta.run}" for delta in message.runs)

    def admit(run: int, text: str) -> None:
        start = Start(run=run, request=ask_chat(text, sampling={"temperature": 0}))
        engine.admit(start, engine.prepare(start))

    def step() -> None:
        assert engine.settle(emit)
        engine.step(emit)

    admit(1, "What is herd-mcp?")
    while not happened:
        step()
    admit(2, "long " * 600)
    prompts = engine._batch._prompt_batch
    compute = prompts.prompt

    def prompt(tokens: Any) -> None:
        happened.append(f"{max(map(len, tokens), default=0)} prompt tokens")
        compute(tokens)

    monkeypatch.setattr(prompts, "prompt", prompt)
    happened.clear()
    step()
    assert happened == ["token of 1", "512 prompt tokens"]


def groups_of(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch, prompts: list[str], steps: int) -> list[list[int]]:
    """How many prompt tokens of each row every step computed, where 1 is the last token of a prompt."""
    emit = list[Message]().append
    for run, text in enumerate(prompts):
        start = Start(run=run, request=ask_chat(text, sampling={"temperature": 0}, max_tokens=steps))
        engine.admit(start, engine.prepare(start))
    groups: list[list[int]] = []
    batch = engine._batch
    move_on = batch.next

    def next_() -> Any:
        done = {run.uid: run.prefilled_tokens for run in engine._runs.values()}
        prefilled, said = move_on()
        groups.append([row.progress[0] - done[row.uid] for row in prefilled])
        return prefilled, said

    monkeypatch.setattr(batch, "next", next_)
    for _ in range(steps):
        assert engine.settle(emit)
        engine.step(emit)
    return groups


def test_where_prompts_take_long_they_are_computed_one_after_the_other(
    engine: ChatEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("herd_mcp.engines.chat.PREFILL_STEP_S", 1e-9)
    groups = groups_of(engine, monkeypatch, [f"{letter} question" for letter in "abc"], 6)
    assert [len(group) for group in groups] == [1] * 6
    assert [group == [1] for group in groups] == [False, True] * 3


def test_where_prompts_are_quick_they_are_computed_together(
    engine: ChatEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine._prefill_tokens_per_s = 1e9
    groups = groups_of(engine, monkeypatch, [f"{letter} question" for letter in "abcdefghijkl"], 4)
    assert [len(group) for group in groups] == [8, 8, 4, 4]


def test_no_prompt_joins_those_that_take_their_last_token(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd_mcp.engines.chat.PREFILL_STEP_S", 1e-9)  # so that some wait, and there are seats
    groups = groups_of(engine, monkeypatch, [f"{letter} question" for letter in "abcd"], 8)
    assert len(groups) == 8
    assert all(set(group) == {1} or 1 not in group for group in groups)


def test_a_short_prompt_does_not_wait_for_a_long_one(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd_mcp.engines.chat.PREFILL_STEP_S", 1e-9)
    groups = groups_of(engine, monkeypatch, ["long " * 600, "a question"], 2)
    assert [len(group) for group in groups] == [1, 2]
