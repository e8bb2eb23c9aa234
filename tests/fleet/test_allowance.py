"""What a sound node may have to tell of one attempt is within what its owner takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from herd_mcp.fleet import wire
from herd_mcp.fleet.allowance import MOST_TOKENS, Allowance
from herd_mcp.jobs import (
    MAX_STEPS,
    ChatRequest,
    ChatResult,
    Completed,
    Delta,
    ImageRequest,
    JobEvent,
    Loading,
    Message,
    Progress,
    Queued,
    Usage,
)
from herd_mcp.orders import Line

JOB_ID = "job-aaaaaaaaaa-000000000001"
LONG_TOKEN = "\N{HERB}" * 32
LIMIT_S = 600.0


def chat(max_tokens: int | None) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content="hello"),), max_tokens=max_tokens)


def waiting() -> Iterator[JobEvent]:
    for position in range(9_999, -1, -1):
        yield Queued(position=position, eta_s=12345.6789)
    for percent in range(101):
        yield Loading(fraction=percent / 100)


def told(events: Iterator[JobEvent]) -> Iterator[Line]:
    """As they are read, a beat after each."""
    for seq, event in enumerate(events, start=1):
        numbered = event.model_copy(update={"job_id": JOB_ID, "seq": seq})
        for line in (Line(attempt=1_000_000, seq=seq, event=numbered), Line(attempt=1_000_000)):
            yield line.model_copy(update={"size": len(wire.pack_line(line))})


@pytest.mark.parametrize("tokens", [1, 300])
def test_a_long_wait_and_an_answer_of_long_tokens_are_allowed(tokens: int) -> None:
    def events() -> Iterator[JobEvent]:
        yield from waiting()
        for _ in range(tokens):
            yield Delta(text=LONG_TOKEN)
        text = LONG_TOKEN * tokens
        usage = Usage(completion_tokens=tokens)
        yield Completed(result=ChatResult(text=text, finish_reason="length", usage=usage, model="m", node="n"))

    allowance = Allowance(chat(tokens), LIMIT_S)
    assert all(allowance.allows(line) for line in told(events()))


def test_all_steps_of_an_image_are_allowed() -> None:
    def events() -> Iterator[JobEvent]:
        yield from waiting()
        for step in range(MAX_STEPS):
            yield Progress(step=step, steps=MAX_STEPS, message=f"step {step}/{MAX_STEPS}")

    allowance = Allowance(ImageRequest(prompt="a circle"), LIMIT_S)
    assert all(allowance.allows(line) for line in told(events()))


def test_a_request_that_names_no_length_gets_as_much_as_the_longest_that_may_be_named() -> None:
    named, unnamed = Allowance(chat(MOST_TOKENS), LIMIT_S), Allowance(chat(None), LIMIT_S)
    assert (named._lines, named._bytes) == (unnamed._lines, unnamed._bytes)
    with pytest.raises(ValueError, match="max_tokens"):
        chat(MOST_TOKENS + 1)
