"""POST /v1/chat/completions, as OpenAI's clients know it, whole or as a stream of chunks."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from herd_mcp.jobs import ChatResult, Completed, Delta, ErrorCode, ErrorInfo, HerdError, JobEvent, ToolCall, Usage
from herd_mcp.surfaces.calls import Batches, Call, JobResponse, TheHerd, patient, raise_bad_end
from herd_mcp.surfaces.errors import STATUS, openai
from herd_mcp.surfaces.openai_request import Asked, read_chat
from herd_mcp.surfaces.sse import EventStream, frame

router = APIRouter()

DONE = b"data: [DONE]\n\n"
HOLE = "\0"
"""Where the text of a chunk goes; no name has it."""


@router.post("/v1/chat/completions", response_class=JSONResponse)
async def chat_completions(request: Request, herd: TheHerd) -> Response:
    """Answer a conversation. Reasoning comes as `reasoning_content`, beside `content`.

    With `Prefer: wait=0` 503 and Retry-After when the model is not loaded; its loading begins then.
    """
    asked = await read_chat(request)
    job = await herd.submit(asked.chat, client="openai", stream=asked.stream, patient=patient(request))
    call = Call(job)

    async def whole(batches: Batches) -> Response:
        result = _chat(await call.outcome(batches))
        return JSONResponse(_completion(call, asked, result), headers=call.result_headers(result))

    async def stream(batches: Batches) -> Response:
        return EventStream(
            _chunks(call, asked, batches), headers=call.headers, error_frame=_error_frame, doing=lambda: call.doing
        )

    return JobResponse(herd, call, stream if asked.stream else whole)


def _chat(result: object) -> ChatResult:
    if not isinstance(result, ChatResult):
        raise HerdError(
            ErrorCode.INTERNAL, "A chat was asked for and something else came.", "The node's log says more."
        )
    return result


def _head(call: Call, kind: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-" + call.job.id.removeprefix("job-"),
        "object": kind,
        "created": int(call.job.created_at),
        "model": call.model,
    }


def _completion(call: Call, asked: Asked, result: ChatResult) -> dict[str, Any]:
    tool_calls = result.tool_calls if asked.parallel_tool_calls else result.tool_calls[:1]
    message: dict[str, Any] = {"role": "assistant", "content": result.text, "refusal": None}
    if result.reasoning:
        message["reasoning_content"] = result.reasoning
    if tool_calls:
        message["content"] = result.text or None
        message["tool_calls"] = [_tool_call(tool_call) for tool_call in tool_calls]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": result.finish_reason}
    return {**_head(call, "chat.completion"), "choices": [choice], "usage": _usage(result.usage), **_note(result)}


async def _chunks(call: Call, asked: Asked, batches: Batches) -> AsyncGenerator[bytes, None]:
    """A chunk for each delta; those of deltas that waited together go out at once."""
    chunks = _Chunks(call, asked)
    async for events in batches:
        if frames := b"".join(map(chunks.of, events)):
            yield frames
        raise_bad_end(events[-1])
        if isinstance(events[-1], Completed):
            return
    raise HerdError(ErrorCode.INTERNAL, "The job's events ended before the job did.", "Ask again.")


class _Chunks:
    """The events of a chat as frames."""

    def __init__(self, call: Call, asked: Asked) -> None:
        self.call = call
        self.asked = asked
        self.began = False
        self.tool_calls = 0
        self.around: dict[str, tuple[bytes, bytes]] = {}
        """By field: what stands in a chunk before its text and after it, the same in all but the first."""

    def of(self, event: JobEvent) -> bytes:
        """What an event comes to; most other than deltas to nothing."""
        self.call.note(event)
        if isinstance(event, Delta):
            if event.text is not None:
                return self.piece("content", event.text)
            if event.reasoning is not None:
                return self.piece("reasoning_content", event.reasoning)
            if event.tool_call is not None and (self.asked.parallel_tool_calls or self.tool_calls == 0):
                self.tool_calls += 1
                return self.chunk({"tool_calls": [{"index": self.tool_calls - 1, **_tool_call(event.tool_call)}]})
        elif isinstance(event, Completed):
            result = _chat(event.result)
            frames = self.chunk({}, result.finish_reason, _note(result))
            if self.asked.include_usage:
                usage = {"choices": [], "usage": _usage(result.usage)}
                frames += frame({**_head(self.call, "chat.completion.chunk"), **usage})
            return frames + DONE
        return b""

    def piece(self, field: str, text: str) -> bytes:
        if not self.began:
            return self.chunk({field: text})
        if field not in self.around:
            before, _, after = self.chunk({field: HOLE}).partition(json.dumps(HOLE).encode())
            self.around[field] = before, after
        before, after = self.around[field]
        return before + json.dumps(text).encode() + after

    def chunk(self, delta: dict[str, Any], finish: str | None = None, more: dict[str, str] | None = None) -> bytes:
        if not self.began:
            self.began = True
            delta = {"role": "assistant", "content": "", **delta}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        data = {**_head(self.call, "chat.completion.chunk"), "choices": [choice], **(more or {})}
        return frame({**data, "usage": None} if self.asked.include_usage else data)


def _error_frame(info: ErrorInfo) -> bytes:
    """After it the stream ends without [DONE]: nobody shall take it for a whole answer."""
    return frame(openai(info, STATUS[info.code]))


def _note(result: ChatResult) -> dict[str, str]:
    """What OpenAI has no word for: why an answer is shorter than was asked. Clients let fields be that they do not
    know."""
    return {"herd_note": result.limited_by} if result.limited_by else {}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
