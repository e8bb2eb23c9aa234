"""The chunks of a streamed chat, from events as they are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from herd_mcp.jobs import (
    ChatRequest,
    ChatResult,
    Completed,
    Delta,
    ErrorCode,
    ErrorInfo,
    Failed,
    HerdError,
    Job,
    JobEvent,
    Routed,
    Usage,
)
from herd_mcp.surfaces.calls import Call
from herd_mcp.surfaces.openai import _chunks
from herd_mcp.surfaces.openai_request import Asked
from tests.surfaces.http_node import events_of

pytestmark = pytest.mark.anyio

ROUTED = Routed(node="here", model='a "model" \\u0000 \u2028')
DONE = Completed(result=ChatResult(text="", finish_reason="stop", usage=Usage(), model=ROUTED.model, node=ROUTED.node))
PIECES = ["plain", 'a "quote" and a \\', "a line\n", "\u2028\u0085", "ünï \U0001f98a", "\x01"]


def chunks_of(*batches: Sequence[JobEvent]) -> AsyncIterator[bytes]:
    async def come() -> AsyncIterator[Sequence[JobEvent]]:
        for batch in batches:
            yield batch

    chat = ChatRequest.model_validate({"messages": [{"role": "user", "content": "hello"}]})
    job = Job(id="job-1-2", kind="chat", client="openai", created_at=1.0)
    return _chunks(Call(job), Asked(chat=chat, stream=True, include_usage=False, parallel_tool_calls=True), come())


def deltas_of(frames: bytes) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in events_of(frames)]


async def test_every_chunk_is_whole_whatever_stands_in_it() -> None:
    texts = [Delta(text=piece) for piece in PIECES] + [Delta(reasoning=piece) for piece in PIECES]
    frames = b"".join([frame async for frame in chunks_of([ROUTED], *([text] for text in texts), [DONE])])
    assert frames.isascii()
    first, *rest = events_of(frames)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": PIECES[0]}
    expected = [{"content": piece} for piece in PIECES[1:]] + [{"reasoning_content": piece} for piece in PIECES] + [{}]
    assert [chunk["choices"][0]["delta"] for chunk in rest] == expected
    assert {json.dumps({**chunk, "choices": None}) for chunk in rest} == {json.dumps({**first, "choices": None})}
    assert first["model"] == ROUTED.model
    assert {tuple(chunk["choices"][0]) for chunk in rest} == {tuple(first["choices"][0])}


async def test_what_waited_goes_out_at_once_and_each_token_in_its_own_chunk() -> None:
    writes = [frames async for frames in chunks_of([ROUTED, Delta(text="a"), Delta(text="b")], [Delta(text="c"), DONE])]
    assert [[delta.get("content") for delta in deltas_of(frames)] for frames in writes] == [["a", "b"], ["c", None]]
    assert writes[-1].endswith(b"data: [DONE]\n\n")


async def test_what_came_before_a_bad_end_is_told_before_it() -> None:
    failed = Failed(error=ErrorInfo(code=ErrorCode.ENGINE_CRASHED, message="x"))
    stream = chunks_of([ROUTED, Delta(text="a"), failed])
    assert [delta["content"] for delta in deltas_of(await anext(stream))] == ["a"]
    with pytest.raises(HerdError):
        await anext(stream)


async def test_the_last_chunk_of_an_answer_that_was_cut_says_why_and_others_have_no_such_field() -> None:
    cut = DONE.model_copy(update={"result": DONE.result.model_copy(update={"limited_by": "memory: cut"})})
    *others, last = events_of(b"".join([frame async for frame in chunks_of([ROUTED], [Delta(text="x")], [cut])]))
    assert last["herd_note"] == "memory: cut"
    whole = events_of(b"".join([frame async for frame in chunks_of([ROUTED], [Delta(text="x")], [DONE])]))
    assert not any("herd_note" in chunk for chunk in [*others, *whole])
