"""What every HTTP request passes first: who may ask from where, how much may be sent, and what happens to failures.

A page in a browser on this Mac can reach 127.0.0.1, so being on loopback proves nothing: the Host check stops DNS
rebinding, the Origin check stops pages that post here, also with "simple requests" that need no permission first.
"""

from __future__ import annotations

import logging
import re

import anyio
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from herd_mcp.jobs import ErrorCode, ErrorInfo, HerdError
from herd_mcp.surfaces.errors import RETRY_AFTER_S, error_response

log = logging.getLogger(__name__)

LINGER_S = 5.0
"""Seconds in which the rest of a refused body is read and thrown away, so that its sender gets to see why."""

MAX_BODIES = 32
"""Bodies of the greatest length that the node holds at once, those of waiting jobs included; smaller ones add up."""

_LOOPBACK = r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?"
_HOST = re.compile(_LOOPBACK, re.IGNORECASE)
_ORIGIN = re.compile(r"https?://" + _LOOPBACK, re.IGNORECASE)


class HostCheck:
    """Refuses (421) requests that were not sent to a loopback name: a name that was rebound to 127.0.0.1."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) == 1 and _HOST.fullmatch(hosts[0]):
            await self.app(scope, receive, send)
            return
        info = ErrorInfo(
            code=ErrorCode.FORBIDDEN,
            message="This node answers to 127.0.0.1, localhost and [::1] only; the request names another host.",
            hint="Use http://127.0.0.1 with the node's port.",
        )
        await _refuse(scope, receive, send, info, status=421)


class OriginCheck:
    """Refuses (403) requests that a web page of another site makes. Programs send no Origin; local pages are fine."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        local = all(_ORIGIN.fullmatch(origin) for origin in headers.getlist("origin"))
        if local and "cross-site" not in headers.getlist("sec-fetch-site"):
            await self.app(scope, receive, send)
            return
        info = ErrorInfo(
            code=ErrorCode.FORBIDDEN,
            message="Web pages of other sites may not use this node.",
            hint="Ask from a program, or from a page that this Mac serves on localhost.",
        )
        await _refuse(scope, receive, send, info, status=403)


class BodyLimit:
    """Refuses (413) bodies over `max_bytes`: by their declared length, else as soon as that much has come. What all
    bodies together may take is bounded too: the next is told `busy`."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_held_bytes = max_bytes * MAX_BODIES
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self.max_bytes:
            await self.refuse(scope, receive, send)
            return
        seen = 0
        started = False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                seen += size
                self.held_bytes += size
            if self.held_bytes > self.max_held_bytes:
                raise self.busy()
            if seen > self.max_bytes:
                raise HerdError.of(self.info())
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            if seen > self.max_bytes and not started:
                return  # the app's own words about a body that was cut
            started = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except Exception:
            if seen <= self.max_bytes or started:
                raise
        finally:
            self.held_bytes -= seen
        if seen > self.max_bytes and not started:
            await self.refuse(scope, receive, send)

    def busy(self) -> HerdError:
        return HerdError(
            ErrorCode.BUSY,
            f"The node holds {self.max_held_bytes} bytes of other requests already.",
            "Try again when some of them are done.",
            retryable=True,
            details={"retry_after_s": RETRY_AFTER_S},
        )

    def info(self) -> ErrorInfo:
        return ErrorInfo(
            code=ErrorCode.TOO_LARGE,
            message=f"The body is longer than {self.max_bytes} bytes.",
            hint="Send less; the setting is max_body_bytes.",
            details={"max_body_bytes": self.max_bytes},
        )

    async def refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, then read on for a while: closing on a sender would lose the answer on its way."""
        response = error_response(scope["path"], self.info(), headers={"Connection": "close"})
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        with anyio.move_on_after(LINGER_S):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Failures:
    """Turns what a handler raises into an answer in the dialect of its path. The unexpected is logged, not told."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientDisconnect:
            return
        except HerdError as error:
            info = error.info
            if started:
                log.warning("%s %s broke off: %s", scope["method"], scope["path"], error)
        except Exception:
            log.exception("%s %s failed unexpectedly", scope["method"], scope["path"])
            info = ErrorInfo(
                code=ErrorCode.INTERNAL,
                message="The node failed on this request for a reason of its own.",
                hint="The node's log says why.",
            )
        else:
            return
        if not started:  # else the server sees an unfinished answer and closes the connection, which says enough
            await error_response(scope["path"], info)(scope, receive, send)


async def _refuse(scope: Scope, receive: Receive, send: Send, info: ErrorInfo, *, status: int) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": info.message})
    else:
        await error_response(scope["path"], info, status=status)(scope, receive, send)
