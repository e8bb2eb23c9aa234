"""What a node answers the others of its herd: `/herd/v1/`, each request by the `PeerApi` for its caller.

The caller is who the certificate of the connection says. Nothing that is sent may claim another: a state is of its
sender, an order of its job's owner, and only the owner may ask about an attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from herd_mcp.fleet import wire
from herd_mcp.jobs import IMAGE_ID, ErrorCode, ErrorInfo, HerdError, owner_of
from herd_mcp.orders import Later, Line, PeerApi

log = logging.getLogger(__name__)

CallerOf = Callable[[dict[str, Any]], str]
"""The node id in a certificate as `SSLSocket.getpeercert` gives it. Raises HerdError(unauthorized) for one that may
not speak any more."""
Refused = Callable[[str, HerdError], None]

STATE_BODY_S = 5.0
ORDER_BODY_S = 60.0
"""Seconds for a body to come: a picture over a slow Wi-Fi, too."""
HELD_BYTES = 4 * wire.ORDER_BYTES
"""Bodies that are held at once, of all callers together."""
WAITING_BYTES = 256 * 1024
"""What a stream holds for a reader that is behind; more is produced when it has read."""

STATUS: dict[ErrorCode, int] = {
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.JOB_NOT_FOUND: 404,
    ErrorCode.IMAGE_NOT_FOUND: 404,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.BUSY: 503,
    ErrorCode.DRAINING: 503,
    ErrorCode.INTERNAL: 500,
}
"""For readers of a trace; a node goes by the code in the body. All others are 400."""


def caller(state: dict[str, Any], caller_of: CallerOf) -> str:
    """Who speaks on a connection. Raises HerdError(unauthorized): nobody, who was put out, or with a certificate that
    has run out since the connection was opened."""
    cert = state.get("peer_cert")
    if not cert:
        raise HerdError(ErrorCode.UNAUTHORIZED, "This port is for members of the herd, who show a certificate.")
    if ssl.cert_time_to_seconds(cert["notAfter"]) < time.time():
        raise HerdError(ErrorCode.UNAUTHORIZED, "The certificate of this connection has expired.", "Connect again.")
    return caller_of(cert)


class PeerApp:
    """The handlers. `api_of` gives what answers a caller; `refused` is told of callers of another wire version."""

    def __init__(self, api_of: Callable[[str], PeerApi], caller_of: CallerOf, refused: Refused) -> None:
        self._api_of, self._caller_of, self._refused = api_of, caller_of, refused
        self._held_bytes = 0

    def route(self, path: str, method: str, answer: Callable[[Request, str], Awaitable[Response]]) -> Route:
        """A route whose requests are checked first, and whose errors are told."""

        async def endpoint(request: Request) -> Response:
            try:
                who = self._checked(request)
                response = await answer(request, who)
            except Later as later:
                response = Response(wire.pack_later(later), 409, media_type="application/json")
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            except HerdError as error:
                response = failure(error)
            except Exception:
                log.exception("%s %s failed unexpectedly", request.method, request.url.path)
                response = failure(HerdError(ErrorCode.INTERNAL, "The other node failed; its log says why."))
            response.headers[wire.VERSION_HEADER] = wire.VERSION
            return response

        return Route(wire.ROOT + path, endpoint, methods=[method])

    def _checked(self, request: Request) -> str:
        """The caller's id."""
        who = caller(request.scope.get("state", {}), self._caller_of)
        try:
            wire.check_version(request.headers.get(wire.VERSION_HEADER, ""))
        except HerdError as error:
            self._refused(who, error)
            raise
        if request.method != "POST" or "job_id" in request.path_params:
            told = request.headers.get("content-length", "0")
            if told != "0" or "transfer-encoding" in request.headers:
                raise HerdError(ErrorCode.TOO_LARGE, "This request has no body.")
        return who

    @contextlib.asynccontextmanager
    async def _body(self, request: Request, max_bytes: int, limit_s: float) -> AsyncGenerator[bytes, None]:
        """The body, counted as held until the end of the block. Raises HerdError too_large, busy, or
        invalid_request for one that does not come in time."""
        told = request.headers.get("content-length", "")
        if told.isdecimal() and int(told[:20]) > max_bytes:
            raise too_large(max_bytes)
        body = bytearray()
        try:
            async with asyncio.timeout(limit_s):
                async for chunk in request.stream():
                    body += chunk
                    self._held_bytes += len(chunk)
                    if len(body) > max_bytes:
                        raise too_large(max_bytes)
                    if self._held_bytes > HELD_BYTES:
                        raise HerdError(ErrorCode.BUSY, "This node holds too much of others already.", retryable=True)
            yield bytes(body)
        except TimeoutError:
            raise wire.invalid(f"its body did not come within {limit_s:.0f} s") from None
        finally:
            self._held_bytes -= len(body)

    # ── states and orders ──

    async def state(self, request: Request, who: str) -> Response:
        async with self._body(request, wire.STATE_BYTES, STATE_BODY_S) as body:
            told = wire.unpack_state(body)
        if told.node_id != who:
            raise HerdError(ErrorCode.FORBIDDEN, "A node tells its own state only.")
        ours = await self._api_of(who).exchange(told)
        return Response(wire.pack_state(ours), media_type="application/zlib")

    async def submit(self, request: Request, who: str) -> Response:
        async with self._body(request, wire.ORDER_BYTES, ORDER_BODY_S) as body:
            order = wire.unpack_order(body, who)
        return _json((await self._api_of(who).submit(order)).model_dump_json())

    # ── jobs: with `attempt`, one that runs here for the caller; without, one that this node owns ──

    async def job(self, request: Request, who: str) -> Response:
        job_id = request.path_params["job_id"]
        wire.check_job(job_id)
        return _json(wire.told_job(await self._api_of(who).job(job_id)).model_dump_json())

    async def events(self, request: Request, who: str) -> Response:
        job_id, attempt = self._asked(request, who)
        after_seq = _number(request, "after_seq", 0, wire.MAX_SEQ) or 0
        least, most = wire.BEAT_S
        try:
            beat_s = min(most, max(least, float(request.query_params.get("beat_s", most))))
        except ValueError:
            raise wire.invalid("beat_s: must be a number") from None
        api = self._api_of(who)
        lines = api.watch(job_id, after_seq) if attempt is None else api.follow(job_id, attempt, after_seq)
        beat = wire.pack_line(Line(attempt=attempt or 0))
        return Lines(chunks(lines, beat, beat_s), media_type="application/x-ndjson")

    async def cancel(self, request: Request, who: str) -> Response:
        job_id, attempt = self._asked(request, who)
        api = self._api_of(who)
        if attempt is None:
            return _json(wire.told_job(await api.cancel_job(job_id)).model_dump_json())
        await api.cancel(job_id, attempt)
        return JSONResponse({})

    async def take_back(self, request: Request, who: str) -> Response:
        job_id, attempt = self._asked(request, who)
        if attempt is None:
            raise wire.invalid("attempt: is required")
        return JSONResponse({"taken_back": await self._api_of(who).take_back(job_id, attempt)})

    def _asked(self, request: Request, who: str) -> tuple[str, int | None]:
        job_id = request.path_params["job_id"]
        wire.check_job(job_id)
        attempt = _number(request, "attempt", 1, wire.MAX_ATTEMPT)
        if attempt is not None and owner_of(job_id) != who:
            raise HerdError(ErrorCode.FORBIDDEN, "Only the owner of a job may ask about its attempts.")
        return job_id, attempt

    # ── pictures and figures ──

    async def blob(self, request: Request, who: str) -> Response:
        sha256 = request.path_params["sha256"]
        if not wire.SHA256.fullmatch(sha256):
            raise wire.invalid("this is no name of a blob")
        wanted = re.fullmatch(r"bytes=([0-9]{1,15})-", request.headers.get("range", "bytes=0-"))
        if wanted is None:
            raise wire.invalid("a range other than `bytes=N-`")
        offset = int(wanted[1])
        parts = self._api_of(who).blob(sha256, offset)
        first = await anext(parts, b"")  # an error still has its status then
        return Lines(_with(first, parts), 206 if offset else 200, media_type="application/octet-stream")

    async def image(self, request: Request, who: str) -> Response:
        image_id = request.path_params["image_id"]
        if not IMAGE_ID.fullmatch(image_id):
            raise wire.invalid("this is no id of an image")
        return Response(await self._api_of(who).image(image_id), media_type="image/png")

    async def stats(self, request: Request, who: str) -> Response:
        return _json((await self._api_of(who).stats()).model_dump_json())


def make_app(
    api_of: Callable[[str], PeerApi], caller_of: CallerOf, *, refused: Refused = lambda _caller, _error: None
) -> Starlette:
    """The ASGI app of `/herd/v1/`. It finds the certificate of the connection in `scope["state"]["peer_cert"]`."""
    app = PeerApp(api_of, caller_of, refused)
    return Starlette(
        routes=[
            app.route("/state", "POST", app.state),
            app.route("/jobs", "POST", app.submit),
            app.route("/jobs/{job_id}", "GET", app.job),
            app.route("/jobs/{job_id}", "DELETE", app.cancel),
            app.route("/jobs/{job_id}/events", "GET", app.events),
            app.route("/jobs/{job_id}/take-back", "POST", app.take_back),
            app.route("/blobs/{sha256}", "GET", app.blob),
            app.route("/images/{image_id}", "GET", app.image),
            app.route("/stats", "GET", app.stats),
        ],
        exception_handlers={HTTPException: _no_such},
    )


async def chunks(lines: AsyncGenerator[Line, None], beat: bytes, beat_s: float) -> AsyncGenerator[bytes, None]:
    """What goes out at once: the lines that came since the last, together; `beat` where none came for `beat_s`."""
    waiting: list[bytes] = []
    wake, room = asyncio.Event(), asyncio.Event()

    async def gather() -> None:
        held_bytes = 0
        try:
            async with contextlib.aclosing(lines):
                async for line in lines:
                    if not waiting:
                        held_bytes = 0
                    waiting.append(wire.pack_line(line))
                    held_bytes += len(waiting[-1])
                    wake.set()
                    if held_bytes >= WAITING_BYTES:
                        room.clear()
                        await room.wait()
        except HerdError as error:
            waiting.append(wire.pack_failure(error))
        except Exception:
            log.exception("a stream for another node failed unexpectedly")
            waiting.append(wire.pack_failure(HerdError(ErrorCode.INTERNAL, "The other node failed; its log says why.")))
        finally:
            wake.set()

    gathering = asyncio.create_task(gather(), name="lines")
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(beat_s):
                    await wake.wait()
            wake.clear()
            if waiting:
                chunk = b"".join(waiting)
                waiting.clear()
                room.set()
                yield chunk
            elif gathering.done():
                return
            else:
                yield beat
            if gathering.done():
                wake.set()
    finally:
        gathering.cancel()
        await asyncio.gather(gathering, return_exceptions=True)


class Lines(StreamingResponse):
    """A stream whose source is closed with it, also where its reader went away in the middle of a write."""

    async def stream_response(self, send: Any) -> None:
        source = self.body_iterator
        assert isinstance(source, AsyncGenerator)
        async with contextlib.aclosing(source):
            await super().stream_response(send)


async def _with(first: bytes, parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(parts):
        yield first
        async for part in parts:
            yield part


def _number(request: Request, name: str, least: int, most: int) -> int | None:
    told = request.query_params.get(name)
    if told is None:
        return None
    if not re.fullmatch(r"[0-9]{1,16}", told) or not least <= int(told) <= most:
        raise wire.invalid(f"{name}: must be a number from {least} to {most}")
    return int(told)


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")


def failure(error: HerdError) -> Response:
    """The error as an answer. The connection ends with it: who may not speak has no more to say, and a body may not
    have been read."""
    status = STATUS.get(error.info.code, 400)
    headers = None if status == 404 else {"Connection": "close"}
    return Response(wire.pack_error(error.info), status, headers, "application/json")


def too_large(max_bytes: int) -> HerdError:
    return HerdError(ErrorCode.TOO_LARGE, f"The body is longer than {max_bytes} bytes.")


async def _no_such(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    info = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="There is no such question between nodes.")
    return Response(wire.pack_error(info), error.status_code, media_type="application/json")
