"""Errors in the three shapes, and the late 200 of a stream."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.types import Message

from herd_mcp.jobs import ErrorCode, ErrorInfo, HerdError
from herd_mcp.surfaces import sse
from herd_mcp.surfaces.errors import STATUS, error_response, retry_after
from herd_mcp.surfaces.sse import EventStream, frame

from .http_node import until


def test_every_code_has_a_status_that_means_failure() -> None:
    assert set(STATUS) == set(ErrorCode)
    assert all(400 <= status < 600 for status in STATUS.values())


def test_busy_says_when_to_come_back_in_whole_seconds() -> None:
    busy = ErrorInfo(code=ErrorCode.BUSY, message="Full.", retryable=True, details={"retry_after_s": 7.2})
    answer = error_response("/api/generate-image", busy)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "8")
    assert retry_after(ErrorInfo(code=ErrorCode.DRAINING, message="Ending.")) == 5
    assert retry_after(ErrorInfo(code=ErrorCode.MODEL_NOT_FOUND, message="None.")) is None


def test_a_crash_is_not_to_be_sent_again_by_openais_clients_and_busy_is() -> None:
    crashed = error_response("/v1/chat/completions", ErrorInfo(code=ErrorCode.ENGINE_CRASHED, message="Died."))
    assert (crashed.status_code, crashed.headers["x-should-retry"]) == (502, "false")
    busy = error_response("/v1/chat/completions", ErrorInfo(code=ErrorCode.BUSY, message="Full."))
    assert busy.headers["x-should-retry"] == "true"


async def collect(stream: EventStream) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("whoever calls the stream listens to the client")

    await stream({"type": "http", "path": "/"}, receive, send)
    return sent


def stream_of(frames: AsyncGenerator[bytes, None], **options: Any) -> EventStream:
    return EventStream(
        frames,
        **{"headers": lambda: {"X-Who": "me"}, "error_frame": lambda info: frame({"error": info.code}), **options},
    )


def body_of(sent: list[Message]) -> bytes:
    return b"".join(message["body"] for message in sent if message["type"] == "http.response.body")


async def test_an_error_before_the_first_frame_is_raised_and_after_it_is_sent() -> None:
    async def at_once(full: bool = True) -> AsyncGenerator[bytes, None]:
        if full:
            raise HerdError(ErrorCode.BUSY, "Full.")
        yield b""

    with pytest.raises(HerdError, match="Full"):
        await collect(stream_of(at_once()))

    async def later() -> AsyncGenerator[bytes, None]:
        yield frame(1)
        raise HerdError(ErrorCode.NODE_LOST, "Gone.")

    sent = await collect(stream_of(later()))
    assert sent[0]["status"] == 200
    assert body_of(sent) == b'data: 1\n\ndata: {"error":"node_lost"}\n\n'


async def test_frames_are_kept_back_until_it_is_known_who_serves() -> None:
    known: dict[str, str] = {}

    async def frames() -> AsyncGenerator[bytes, None]:
        yield frame(1)
        known["X-Who"] = "me"
        yield frame(2)

    sent = await collect(stream_of(frames(), headers=lambda: known or None))
    assert (b"x-who", b"me") in sent[0]["headers"]
    assert body_of(sent) == b"data: 1\n\ndata: 2\n\n"


async def test_frames_of_a_job_that_has_not_begun_wait_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PATIENCE_S", 0.01)
    over = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes, None]:
        yield frame("queued")
        await over.wait()

    stream = stream_of(frames(), begun=lambda: False)

    async def started() -> bool:
        return stream.started

    task = asyncio.create_task(collect(stream))
    assert await until(started, 10)
    over.set()
    assert body_of(await task) == b'data: "queued"\n\n'


async def test_a_silent_stream_shows_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PATIENCE_S", 0.01)
    monkeypatch.setattr(sse, "KEEPALIVE_S", 0.01)
    over = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes, None]:
        await over.wait()
        yield frame(1)

    stream = stream_of(frames(), doing=lambda: "loading 40%")

    async def started() -> bool:
        return stream.started

    task = asyncio.create_task(collect(stream))
    assert await until(started, 10)
    over.set()
    body = body_of(await task)
    assert body.startswith(b": loading 40%\n\n")
    assert body.endswith(b"data: 1\n\n")


def test_frames_are_ascii_and_one_line() -> None:
    assert frame("a\u2028b\u0085c\nd", event="x", seq=3) == b'id: 3\nevent: x\ndata: "a\\u2028b\\u0085c\\nd"\n\n'
