"""A light client: raw connections of one event loop, so that the server is what is measured."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

LIMIT_S = 300.0
"""For one whole answer."""


class BadAnswer(Exception):
    """An answer that is no 200, or that ends before its end."""


@dataclass(slots=True)
class Stream:
    """One streamed chat. Times are of the monotonic clock; `error` says what went wrong, if anything."""

    sent_at: float = 0.0
    first_at: float = 0.0
    ended_at: float = 0.0
    text: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""

    @property
    def ttft_ms(self) -> float:
        return (self.first_at - self.sent_at) * 1000


@dataclass(frozen=True, slots=True)
class Burst:
    """Streams that were asked for at the same time."""

    streams: tuple[Stream, ...]

    @property
    def errors(self) -> int:
        return sum(bool(stream.error) for stream in self.streams)

    @property
    def tokens_per_s(self) -> float:
        """Tokens of whole answers from the first request to the last token, prompts included in the time."""
        whole = [stream for stream in self.streams if not stream.error]
        if not whole:
            return 0.0
        seconds = max(stream.ended_at for stream in whole) - min(stream.sent_at for stream in self.streams)
        return sum(stream.completion_tokens for stream in whole) / seconds

    @property
    def ttfts_ms(self) -> list[float]:
        return [stream.ttft_ms for stream in self.streams if not stream.error]


def chats(port: int, bodies: Sequence[dict[str, Any]]) -> Burst:
    """Ask for all of `bodies` at once, each over a connection of its own."""

    async def all_of_them() -> list[Stream]:
        return await asyncio.gather(*(chat(port, body) for body in bodies))

    return Burst(tuple(asyncio.run(all_of_them())))


def one_chat(port: int, body: dict[str, Any]) -> Stream:
    """One stream alone. Raises BadAnswer."""
    (stream,) = chats(port, [body]).streams
    if stream.error:
        raise BadAnswer(stream.error)
    return stream


async def chat(port: int, body: dict[str, Any]) -> Stream:
    """POST /v1/chat/completions as a stream, with its usage."""
    stream = Stream(sent_at=time.monotonic())
    body = {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0, **body}
    try:
        async with asyncio.timeout(LIMIT_S), request(port, "POST", "/v1/chat/completions", body) as (_, reader):
            async for data in events(reader):
                if _note(stream, data):
                    return stream
        raise BadAnswer("the stream ended before [DONE]")
    except (OSError, asyncio.IncompleteReadError, TimeoutError, BadAnswer) as error:
        stream.error = f"{type(error).__name__}: {error}"
        return stream


def _note(stream: Stream, data: bytes) -> bool:
    """Take one event in; True for the last."""
    if data == b"[DONE]":
        stream.ended_at = time.monotonic()
        return True
    event = json.loads(data)
    if "error" in event:
        raise BadAnswer(str(event["error"]))
    for choice in event.get("choices", ()):
        if text := choice.get("delta", {}).get("content"):
            stream.first_at = stream.first_at or time.monotonic()
            stream.text.append(text)
    if usage := event.get("usage"):
        stream.prompt_tokens = usage["prompt_tokens"]
        stream.completion_tokens = usage["completion_tokens"]
        stream.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return False


@asynccontextmanager
async def request(
    port: int, method: str, path: str, body: object = None, *headers: str
) -> AsyncIterator[tuple[dict[str, str], asyncio.StreamReader]]:
    """The answer's headers, by small names, and its body, in whatever pieces the server frames it.

    Raises BadAnswer for a status other than 200.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    try:
        data = b"" if body is None else json.dumps(body).encode()
        lines = [
            f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json",
            f"Content-Length: {len(data)}", "Connection: close", *headers,
        ]  # fmt: skip
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").strip().split("\r\n")
        if status.split()[1] != "200":
            raise BadAnswer(f"{status}: {(await reader.read(500)).decode(errors='replace')}")
        yield {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}, reader
    finally:
        writer.close()


async def events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The data of Server-Sent Events; lines of chunked framing between them are passed over."""
    while line := await reader.readline():
        if line.startswith(b"data: "):
            yield line[6:].strip()


async def answer(port: int, method: str, path: str, body: object = None, *headers: str) -> tuple[dict[str, str], bytes]:
    """Headers and the whole body as sent, framing included: for pictures and for what `answer_json` reads."""
    async with asyncio.timeout(LIMIT_S), request(port, method, path, body, *headers) as (told, reader):
        return told, await reader.read()


async def answer_json(port: int, method: str, path: str, *headers: str, asked: object = None) -> dict[str, Any]:
    _, body = await answer(port, method, path, asked, *headers)
    return dict(json.loads(body[body.index(b"{") : body.rindex(b"}") + 1]))
