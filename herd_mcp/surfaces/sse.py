"""Server-Sent Events out: frames in ASCII JSON, a late 200, and a sign of life while nothing happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from sse_starlette import ServerSentEvent
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from herd_mcp.jobs import ErrorCode, ErrorInfo, HerdError

log = logging.getLogger(__name__)

KEEPALIVE_S = 5.0
"""A stream that was silent this long gets a comment with what is being done; so one comes at least every 10 s."""
PATIENCE_S = 1.0
"""How long frames about a job that has not begun wait for it to begin or to fail."""


def frame(data: Any, *, event: str = "", seq: int | None = None) -> bytes:
    """One event. The JSON is ASCII: several clients take U+2028 and U+0085 inside a line for its end."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return ServerSentEvent(text, event=event or None, id=None if seq is None else str(seq), sep="\n").encode()


class EventStream(Response):
    """Frames as they come.

    The answer starts (200) once `headers()` are known and there is a frame of a job that has `begun()`, or a frame
    that has waited PATIENCE_S, or nothing but silence for KEEPALIVE_S. A HerdError of `frames` before that is raised
    and becomes a real status; after that it is sent as `error_frame`. Does not watch for the client going away:
    whoever calls it does.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        headers: Callable[[], Mapping[str, str] | None],
        error_frame: Callable[[ErrorInfo], bytes],
        begun: Callable[[], bool] = lambda: True,
        doing: Callable[[], str] = lambda: "still working",
    ) -> None:
        super().__init__()
        self.frames = frames
        self.known_headers = headers
        self.begun = begun
        self.doing = doing
        self.patient = True
        self.error_frame = error_frame
        self.started = False
        self.kept: list[bytes] = []
        self.writing = asyncio.Lock()
        self.last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        heart = asyncio.create_task(self._beat(send))
        try:
            async with contextlib.aclosing(self.frames):
                async for chunk in self.frames:
                    await self._write(send, chunk)
        except HerdError as error:
            if not self.started:
                raise
            await self._write(send, self.error_frame(error.info))
        except Exception:
            if not self.started:
                raise
            log.exception("%s broke off unexpectedly", scope["path"])
            info = ErrorInfo(code=ErrorCode.INTERNAL, message="The node failed on this stream.", hint="See its log.")
            await self._write(send, self.error_frame(info))
        finally:
            heart.cancel()
            await asyncio.wait([heart])
        await self._write(send, b"", end=True)

    async def _write(self, send: Send, chunk: bytes, *, end: bool = False) -> None:
        """Send `chunk`, after the start and what was kept back for it. Before the start is due: keep it."""
        async with self.writing:
            if not self.started:
                headers = self.known_headers()
                early = headers is None or (self.patient and not self.begun())
                if early and not end:
                    self.kept.append(chunk)
                    return
                self.started = True
                self.init_headers({**(headers or {}), "Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
                del self.headers["content-length"]
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                chunk = b"".join((*self.kept, chunk))
            self.last_sent = asyncio.get_running_loop().time()
            await send({"type": "http.response.body", "body": chunk, "more_body": not end})

    async def _beat(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self.last_sent = loop.time()
        await asyncio.sleep(PATIENCE_S)
        self.patient = False
        if self.kept:
            await self._write(send, b"")
        while True:
            await asyncio.sleep(KEEPALIVE_S)
            silent = loop.time() - self.last_sent >= KEEPALIVE_S
            if silent and (self.started or self.known_headers() is not None):
                await self._write(send, f": {self.doing()}\n\n".encode())
