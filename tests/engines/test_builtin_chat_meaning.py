"""What the built-in chat model answers, through a real engine process; and the whole evaluation, which is slow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from herd_mcp.pipe import EngineSpec
from tests.engines.pipe_client import EngineProcess, ask_chat
from training.chat.facts import facts, is_outside

BUILTIN = Path(__file__).parents[2] / "herd_mcp" / "builtin" / "herd-tiny-chat"
FACTS = {fact.id: fact for fact in facts()}
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the current weather for a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("meaning") / "log") as process:
        process.load(EngineSpec(kind="chat", model="herd-tiny-chat", path=str(BUILTIN), prompt_cache_bytes=1 << 24))
        yield process


@pytest.mark.parametrize(
    ("question", "fact"),
    [
        ("Hello!", "greet"),
        ("What is herd-mcp?", "what"),
        ("how do i install herd-mcp", "install"),
        ("How do I invite another Mac?", "invite"),
        ("Which command downloads a model?", "pull"),
        ("What does the error busy mean?", "e_busy"),
        ("Which port does it use?", "port"),
        ("What is HERD_HOME?", "home"),
        ("What can herd-tiny-image draw?", "tinyimage"),
    ],
)
def test_it_answers_questions_about_herd_mcp(engine: EngineProcess, question: str, fact: str) -> None:
    assert engine.ask(ask_chat(question)).text == FACTS[fact].answer


@pytest.mark.parametrize("question", ["What is the capital of France?", "Write a poem about snow", "What is 3 + 4?"])
def test_it_says_plainly_that_it_knows_nothing_else(engine: EngineProcess, question: str) -> None:
    assert is_outside(engine.ask(ask_chat(question)).text)


def test_it_keeps_to_the_question_after_a_greeting_and_under_a_system_message(engine: EngineProcess) -> None:
    messages = (
        {"role": "system", "content": "You are a helpful assistant. Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": FACTS["greet"].answer},
        {"role": "user", "content": "How do I stop the node?"},
    )
    assert engine.ask(ask_chat("", messages=messages)).text == FACTS["stop"].answer


def test_it_calls_a_tool_that_fits_once_and_uses_what_came_back(engine: EngineProcess) -> None:
    asked = engine.ask(ask_chat("What is the weather in Zürich?", tools=(WEATHER,)))
    (call,) = asked.tool_calls
    assert (call.name, json.loads(call.arguments), asked.text) == ("get_weather", {"city": "Zürich"}, "")
    messages = (
        {"role": "user", "content": "What is the weather in Zürich?"},
        {"role": "assistant", "tool_calls": (call.model_dump(),)},
        {"role": "tool", "content": "18 °C and sunny", "tool_call_id": call.id},
    )
    told = engine.ask(ask_chat("", messages=messages, tools=(WEATHER,)))
    assert "18 °C and sunny" in told.text
    assert not told.tool_calls


def test_it_answers_beside_a_tool_that_does_not_fit(engine: EngineProcess) -> None:
    assert engine.ask(ask_chat("What is herd-mcp?", tools=(WEATHER,))).text == FACTS["what"].answer


def test_it_makes_a_call_that_is_demanded(engine: EngineProcess) -> None:
    for choice in ("required", "get_weather"):
        asked = engine.ask(ask_chat("What is the weather in Oslo?", tools=(WEATHER,), tool_choice=choice))
        assert [json.loads(call.arguments) for call in asked.tool_calls] == [{"city": "Oslo"}]


def test_it_thinks_when_told_to(engine: EngineProcess) -> None:
    answer = engine.ask(ask_chat("What is herd-mcp? /think"))
    assert (answer.text, answer.reasoning.strip()) == (FACTS["what"].answer, "This is about herd-mcp.")
    assert engine.ask(ask_chat("What is herd-mcp?", reasoning=False)).text == FACTS["what"].answer


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_evaluation() -> None:
    from training.chat.evaluate import Talker, evaluate, speed

    talker = Talker()
    scores = evaluate(talker)
    shares = {group: round(score.share, 3) for group, score in scores.items()}
    asked = [scores["in scope"], scores["by name"]]  # the rephrasings: in free words, and with a name in them
    assert sum(score.right for score in asked) / sum(score.total for score in asked) >= 0.95, shares
    least = {"outside": 0.9, "tool call": 0.95}
    assert not {group: shares[group] for group, bound in least.items() if shares[group] < bound}, shares
    assert min(shares.values()) >= 0.9, shares
    assert speed(talker) >= 100
