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
