"""What a client reads from a chat engine, to the letter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from herd_mcp.jobs import ErrorCode
from herd_mcp.pipe import EngineSpec, RunCancelled, Step
from tests.engines.pipe_client import EngineProcess, ask_chat
from tests.engines.scripted_model import build

WEATHER = {
    "name": "weather",
    "description": "",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    folder = build(tmp_path_factory.mktemp("scripted"))
    with EngineProcess(folder / "log") as process:
        process.load(
            EngineSpec(
                kind="chat", model="scripted", path=str(folder), trust_remote_code=True, prompt_cache_bytes=1 << 24
            )
        )
        yield process


def test_deltas_join_to_the_exact_text_and_arrive_in_many_pieces(engine: EngineProcess) -> None:
    text = 'It said: a < b, <b>bold</b> and {"x": 1}.\n\n  Then it ended. '
    answer = engine.ask(ask_chat(f"SAY:{text}"))
    assert answer.text == text
    assert len(answer.deltas) > 20
    assert answer.facts.finish_reason == "stop"
    assert answer.facts.completion_tokens == len(text) + 1
    assert answer.facts.prefill_s > 0
    assert answer.facts.decode_s > 0


def test_characters_of_several_tokens_arrive_whole(engine: EngineProcess) -> None:
    text = "Grüße, 日本語, 👩‍👩‍👧 \u2028 \x85 end"
    answer = engine.ask(ask_chat(f"SAY:{text}"))
    assert answer.text == text
    assert not any("\ufffd" in delta.text for delta in answer.deltas)


@pytest.mark.parametrize("max_tokens", range(1, 6))
def test_an_answer_cut_inside_a_character_ends_before_it(engine: EngineProcess, max_tokens: int) -> None:
    answer = engine.ask(ask_chat("SAY:a👍b", max_tokens=max_tokens))
    assert answer.text == ("a👍" if max_tokens == 5 else "a")
    assert answer.facts.finish_reason == "length"
    assert answer.facts.completion_tokens == max_tokens


def test_eight_streams_at_once_do_not_mix(engine: EngineProcess) -> None:
    texts = [f"stream {n}: " + chr(ord("a") + n) * (20 + 15 * n) + " é" for n in range(8)]
    before = len(engine.messages)
    runs = [engine.start(ask_chat(f"SAY:{text}")) for text in texts]
    assert [engine.answer(run).text for run in runs] == texts
    together = max(len(message.runs) for message in engine.messages[before:] if isinstance(message, Step))
    assert together >= 4, "one message per step carries all streams"


def test_a_cancelled_stream_ends_at_once_and_the_others_go_on(engine: EngineProcess) -> None:
    long, kept = engine.start(ask_chat("SAY:" + "x" * 1500)), engine.start(ask_chat("SAY:" + "y" * 150))
    engine.wait(lambda: len(engine.answers[long].deltas) > 5)
    engine.cancel(long)
    cancelled = engine.answer(long)
    assert isinstance(cancelled.ending, RunCancelled)
    assert 5 < len(cancelled.text) < 1000
    assert engine.answer(kept).text == "y" * 150
    engine.cancel(long)
    assert engine.ask(ask_chat("SAY:after")).text == "after"
    assert len(cancelled.endings) == 1


def test_a_run_that_waits_for_a_place_in_the_batch_is_cancelled_there(tmp_path: Path) -> None:
    folder = build(tmp_path / "narrow")
    with EngineProcess(folder / "log") as process:
        process.load(EngineSpec(kind="chat", model="n", path=str(folder), trust_remote_code=True, max_batch=1))
        first, second, third = (process.start(ask_chat("SAY:" + letter * 300)) for letter in "abc")
        process.wait(lambda: process.answers[first].deltas)
        process.cancel(second)
        assert isinstance(process.answer(second).ending, RunCancelled)
        assert not process.answers[first].endings
        assert process.answer(third).text == "c" * 300
        assert process.answers[second].text == ""


def test_a_run_is_cancelled_before_its_prompt_is_computed(engine: EngineProcess) -> None:
    run = engine.start(ask_chat("x" * 2900 + "SAY:" + "never" * 100))
    engine.cancel(run)
    assert isinstance(engine.answer(run).ending, RunCancelled)
    assert len(engine.answers[run].text) < 100


@pytest.mark.parametrize("stop", [("STOP",), ("zzz", "ST", "STOP")])
def test_a_stop_string_over_several_tokens_ends_the_answer_and_is_not_shown(
    engine: EngineProcess, stop: tuple[str, ...]
) -> None:
    answer = engine.ask(ask_chat("SAY:one SxT two STOP three", stop=stop))
    assert answer.text == "one SxT two "
    assert answer.facts.finish_reason == "stop"
    assert answer.facts.completion_tokens < len("one SxT two STOP t")


def test_text_that_only_begins_like_a_stop_string_is_shown(engine: EngineProcess) -> None:
    assert engine.ask(ask_chat("SAY:it is a STO", stop=("STOP",))).text == "it is a STO"


def test_stop_strings_do_not_look_into_the_reasoning(engine: EngineProcess) -> None:
    answer = engine.ask(ask_chat("SAY:<think>first END</think>then END more", stop=("END",)))
    assert (answer.reasoning, answer.text) == ("first END", "then ")


def test_reasoning_comes_apart_from_text(engine: EngineProcess) -> None:
    answer = engine.ask(ask_chat("SAY:<think>\nhm, 2 < 3\n</think>\n\nIt is 5."))
    assert (answer.reasoning, answer.text) == ("hm, 2 < 3\n", "It is 5.")


def test_an_answer_that_begins_inside_a_reasoning_block_is_split_too(tmp_path: Path) -> None:
    folder = build(tmp_path / "thinker", opens_think=True)
    with EngineProcess(folder / "log") as process:
        process.load(EngineSpec(kind="chat", model="thinker", path=str(folder), trust_remote_code=True))
        answer = process.ask(ask_chat("SAY:<think>\nhm</think>\nyes"))
        assert (answer.reasoning, answer.text) == ("hm", "yes")


def test_a_tool_call_is_parsed_with_the_text_around_it(engine: EngineProcess) -> None:
    answer = engine.ask(ask_chat(f"SAY:<think>look</think>Let me see.{CALL}\n{CALL}", tools=(WEATHER,)))
    assert (answer.reasoning, answer.text) == ("look", "Let me see.")
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("weather", '{"city": "Zürich"}')] * 2
    assert len({call.id for call in answer.tool_calls}) == 2
    assert answer.facts.finish_reason == "tool_calls"


def test_a_tool_call_without_its_end_marker_counts_when_it_is_whole(engine: EngineProcess) -> None:
    answer = engine.ask(ask_chat("SAY:" + CALL.removesuffix("\n</tool_call>"), tools=(WEATHER,)))
    assert [call.name for call in answer.tool_calls] == ["weather"]


@pytest.mark.parametrize(
    "said",
    [
        CALL.replace("weather", "unknown"),
        "<tool_call>{not json}</tool_call>",
        '<tool_call>{"name": "weather", "arguments": 5}</tool_call>',
        "<tool_call>[]</tool_call>",
    ],
)
def test_what_is_no_call_of_a_known_tool_is_given_as_text(engine: EngineProcess, said: str) -> None:
    answer = engine.ask(ask_chat(f"SAY:before {said} after", tools=(WEATHER,)))
    assert answer.text == f"before {said} after"
    assert answer.tool_calls == []
    assert answer.facts.finish_reason == "stop"


@pytest.mark.parametrize("left_out", [1, 20])
def test_a_tool_call_cut_short_is_text_and_never_a_call(engine: EngineProcess, left_out: int) -> None:
    tokens = 1 + len(CALL.encode()) - len("<tool_call>") - len("</tool_call>")
    answer = engine.ask(ask_chat(f"SAY:{CALL}", tools=(WEATHER,), max_tokens=tokens - left_out))
    assert answer.tool_calls == []
    assert answer.text.startswith("<tool_call>")
    assert answer.facts.finish_reason == "length"


@pytest.mark.parametrize("fields", [{}, {"tools": (WEATHER,), "tool_choice": "none"}])
def test_without_tools_a_tool_call_is_streamed_as_text(engine: EngineProcess, fields: dict[str, Any]) -> None:
    answer = engine.ask(ask_chat(f"SAY:{CALL}", **fields))
    assert answer.text == CALL
    assert answer.tool_calls == []
    assert len(answer.deltas) > 20


@pytest.mark.parametrize("choice", ["required", "weather"])
def test_a_demanded_tool_call_begins_the_answer(engine: EngineProcess, choice: str) -> None:
    said = f"<think>\n\n</think>\n\n{CALL}"
    answer = engine.ask(ask_chat(f"SAY:{said}", tools=(WEATHER,), tool_choice=choice))
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("weather", '{"city": "Zürich"}')]
    assert answer.text == ""
    assert answer.facts.finish_reason == "tool_calls"


def test_a_second_turn_takes_its_prefix_from_the_prompt_cache(engine: EngineProcess) -> None:
    first = ask_chat("SAY:The cat sat on the mat.")
    answer = engine.ask(first)
    messages = (*first.messages, {"role": "assistant", "content": answer.text}, {"role": "user", "content": "SAY:And?"})
    second = engine.ask(ask_chat("", messages=messages))
    assert second.text == "And?"
    assert answer.facts.prompt_tokens + len(answer.text) <= second.facts.cached_tokens < second.facts.prompt_tokens


def test_the_same_request_again_leaves_one_token_to_compute(engine: EngineProcess) -> None:
    request = ask_chat("SAY:once more")
    engine.ask(request)
    again = engine.ask(request)
    assert again.text == "once more"
    assert again.facts.cached_tokens == again.facts.prompt_tokens - 1


def test_a_long_prompt_shows_progress_while_it_is_computed(engine: EngineProcess) -> None:
    before = len(engine.messages)
    engine.ask(ask_chat("x" * 3000 + "SAY:y"))
    steps = [message for message in engine.messages[before:] if isinstance(message, Step)]
    assert sum(not step.runs for step in steps) >= 3000 // 512
    works = [step.work for step in steps]
    assert works == sorted(set(works)), "every step says that more was done, also where it brings no text"
    assert works[-1] - works[0] >= 2000


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "top_k": ({"sampling": {"top_k": 263}}, "263 tokens"),
    "logit_bias": ({"sampling": {"logit_bias": {263: 1.0}}}, "0 to 262"),
    "max_tokens": ({"max_tokens": 4097}, "4096"),
    "schema": ({"tools": ({"name": "f", "parameters": {"type": "array"}},)}, "tools.0"),
    "properties": ({"tools": ({"name": "f", "parameters": {"properties": {"a": 1}}},)}, "f.a"),
    "named tool": ({"tools": (WEATHER,), "tool_choice": "nothing"}, "weather"),
    "no tools": ({"tool_choice": "required"}, "there are no tools"),
    "roles": (
        {"messages": ({"role": "user", "content": "a"}, {"role": "system", "content": "b"})},
        "a system message may only come first",
    ),
    "arguments": (
        {"messages": ({"role": "assistant", "tool_calls": ({"id": "1", "name": "f", "arguments": "[]"},)},)},
        "messages.0",
    ),
    "context": ({"messages": ({"role": "user", "content": "x" * 4096},)}, "4096"),
    "huge": ({"messages": ({"role": "user", "content": "x" * 1_000_000},)}, "4096"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_fails_alone_and_names_the_limit(engine: EngineProcess, name: str) -> None:
    fields, named = BAD[name]
    good = engine.start(ask_chat("SAY:" + "g" * 60))
    bad = engine.start(ask_chat("SAY:b", **fields))
    error = engine.answer(bad).error
    assert error.code == ErrorCode.INVALID_REQUEST
    assert named in error.message
    assert engine.answer(good).text == "g" * 60


def test_an_answer_ends_where_the_context_ends(engine: EngineProcess) -> None:
    answer = engine.ask(ask_chat("x" * 3900 + "SAY:" + "y" * 100, max_tokens=4096))
    assert answer.facts.finish_reason == "length"
    assert answer.facts.prompt_tokens + answer.facts.completion_tokens == 4096


def test_developer_and_tool_messages_reach_the_template(engine: EngineProcess) -> None:
    call = {"id": "c1", "name": "weather", "arguments": '{"city": "Bern"}'}
    messages = (
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "SAY:never"},
        {"role": "assistant", "tool_calls": (call,)},
        {"role": "tool", "content": "SAY:sunny", "tool_call_id": "c1"},
    )
    assert engine.ask(ask_chat("", messages=messages, tools=(WEATHER,))).text == "sunny\n</tool_response>"
