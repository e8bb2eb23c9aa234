"""The built-in chat model and sampling, in a real engine process. What it answers: test_builtin_chat_meaning.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from herd_mcp.jobs import ErrorCode, ImageRequest
from herd_mcp.pipe import EngineSpec
from tests.engines.pipe_client import EngineProcess, ask_chat

BUILTIN = Path(__file__).parents[2] / "herd_mcp" / "builtin" / "herd-tiny-chat"
MARKERS = dict.fromkeys(range(7), -1000.0)
"""logit_bias that leaves nothing but words to say."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("builtin") / "log") as process:
        process.load(EngineSpec(kind="chat", model="herd-tiny-chat", path=str(BUILTIN), prompt_cache_bytes=1 << 24))
        yield process


def test_it_is_small_and_says_what_it_is() -> None:
    assert sum(file.stat().st_size for file in BUILTIN.iterdir()) < 7_000_000
    assert "It knows herd-mcp and nothing else" in (BUILTIN / "README.md").read_text()


def test_its_answers_end_by_themselves(engine: EngineProcess) -> None:
    runs = [engine.start(ask_chat(f"Question {n}", sampling={"seed": n, "temperature": 0.5})) for n in range(8)]
    facts = [engine.answer(run).facts for run in runs]
    assert all(fact.finish_reason == "stop" for fact in facts)
    assert all(1 < fact.completion_tokens < 500 for fact in facts)
    assert all(engine.answers[run].text for run in runs)


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(engine: EngineProcess) -> None:
    def say(seed: int) -> str:
        sampling = {"seed": seed, "temperature": 3, "logit_bias": MARKERS}
        return engine.ask(ask_chat("Tell me", max_tokens=40, sampling=sampling)).text

    assert say(1) == say(1) == say(1)
    assert say(2**64 - 1) == say(2**64 - 1)
    assert len({say(seed) for seed in range(4)}) == 4


def test_a_seeded_request_computes_its_whole_prompt(engine: EngineProcess) -> None:
    request = ask_chat("Tell me once", max_tokens=3, sampling={"seed": 1})
    engine.ask(request)
    assert engine.ask(request).facts.cached_tokens == 0
    plain = engine.ask(ask_chat("Tell me once", max_tokens=3)).facts
    assert plain.cached_tokens == plain.prompt_tokens - 1, "it left its own prefix to others"


def test_without_a_seed_answers_differ_where_the_request_wants_that(engine: EngineProcess) -> None:
    sampling = {"temperature": 3, "logit_bias": MARKERS}
    assert len({engine.ask(ask_chat("Tell me", max_tokens=40, sampling=sampling)).text for _ in range(3)}) > 1


@pytest.mark.parametrize("temperature", [None, 0.0, 1e-9])
def test_by_itself_and_at_temperature_zero_it_is_repeatable(engine: EngineProcess, temperature: float | None) -> None:
    request = ask_chat("Tell me", max_tokens=20, sampling={"temperature": temperature})
    engine.ask(request)
    assert engine.ask(request).text == engine.ask(request).text


def test_every_sampling_setting_is_taken(engine: EngineProcess) -> None:
    settings = {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "logit_bias": {70: 1.5},
    }
    for extra in ({}, {"seed": 3}):
        assert engine.ask(ask_chat("Tell me", max_tokens=30, sampling={**settings, **extra})).facts.completion_tokens


def test_a_logit_bias_decides(engine: EngineProcess) -> None:
    letter = Tokenizer.from_file(str(BUILTIN / "tokenizer.json")).token_to_id("x")
    answer = engine.ask(ask_chat("Tell me", max_tokens=5, sampling={"logit_bias": {letter: 1000}}))
    assert answer.text == "xxxxx"


def test_an_image_request_fails_alone(engine: EngineProcess) -> None:
    assert engine.ask(ImageRequest(prompt="a cat")).error.code == ErrorCode.KIND_NOT_SUPPORTED
    assert engine.ask(ask_chat("Hi", max_tokens=2)).facts.completion_tokens
