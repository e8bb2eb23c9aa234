"""Rendering: a conversation becomes the model's prompt, or a refusal that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import load

from herd_mcp.engines.text import count, least_tokens, render
from herd_mcp.jobs import ErrorCode, HerdError
from tests.engines.pipe_client import ask_chat

BUILTIN = Path(__file__).parents[2] / "herd_mcp" / "builtin" / "herd-tiny-chat"
TOOL = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load(BUILTIN)


def rendered(tokenizer: Any, **fields: Any) -> str:
    return str(tokenizer.decode(render(tokenizer, ask_chat("Hi", **fields)).ids))


def test_a_message_stands_between_its_markers(tokenizer: Any) -> None:
    assert rendered(tokenizer) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert count(tokenizer, ask_chat("Hi")) == len(tokenizer.encode(rendered(tokenizer)))


def test_a_developer_message_is_a_system_message(tokenizer: Any) -> None:
    messages = ({"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"})
    assert rendered(tokenizer, messages=messages).startswith("<|im_start|>system\nBe brief.\n<|im_end|>\n")


def test_reasoning_is_turned_off_where_the_template_can(tokenizer: Any) -> None:
    assert rendered(tokenizer, reasoning=False).endswith("<think>\n\n</think>\n\n")
    assert "think" not in rendered(tokenizer, reasoning=True)


def test_tools_are_shown_unless_the_choice_is_none(tokenizer: Any) -> None:
    assert '"name": "look"' in rendered(tokenizer, tools=(TOOL,))
    assert "look" not in rendered(tokenizer, tools=(TOOL,), tool_choice="none")


def test_a_named_tool_is_the_only_one_shown_and_its_call_is_opened(tokenizer: Any) -> None:
    other = {**TOOL, "name": "other"}
    text = rendered(tokenizer, tools=(TOOL, other), tool_choice="other")
    assert '"name": "look"' not in text
    assert text.endswith('<tool_call>\n{"name": "other", "arguments":')
    prompt = render(tokenizer, ask_chat("Hi", tools=(TOOL, other), tool_choice="other"))
    assert (prompt.part, prompt.opened) == ("tool", '\n{"name": "other", "arguments":')


def test_earlier_calls_and_their_results_are_shown(tokenizer: Any) -> None:
    messages = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": ({"id": "1", "name": "look", "arguments": '{"at": "ü"}'},)},
        {"role": "tool", "content": "seen", "tool_call_id": "1"},
    )
    text = rendered(tokenizer, messages=messages)
    assert '{"name": "look", "arguments": {"at": "ü"}}' in text
    assert "<tool_response>\nseen\n</tool_response>" in text


def test_a_model_without_a_template_says_that_it_does_not_converse() -> None:
    class Plain:
        has_chat_template = False

    with pytest.raises(HerdError, match="no chat template") as refused:
        render(Plain(), ask_chat("Hi"))
    assert refused.value.info.code == ErrorCode.KIND_NOT_SUPPORTED


def test_the_cheap_bound_is_never_above_the_count(tokenizer: Any) -> None:
    request = ask_chat("word " * 50)
    longest = max(map(len, tokenizer.get_vocab()))
    assert 0 < least_tokens(request, longest) <= count(tokenizer, request)
