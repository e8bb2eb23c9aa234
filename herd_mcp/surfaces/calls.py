"""A job on behalf of an HTTP connection: followed while the caller listens, cancelled when the caller goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import anyio
from fastapi import Depends
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from herd_mcp.herd import Herd
from herd_mcp.jobs import (
    Cancelled,
    Completed,
    Delta,
    ErrorCode,
    Failed,
    HerdError,
    Job,
    JobEvent,
    Loading,
    Progress,
    Result,
    Routed,
)
from herd_mcp.surfaces.errors import error_response

GRACE_S = 60.0
"""How much longer than the job itself an answer may take to be sent; then a reader that stopped reading is cut off."""

Batches = AsyncIterator[Sequence[JobEvent]]
"""The events of a job as they come, with those that waited together at once; a terminal one is the last."""

T = TypeVar("T")


async def _herd(request: Request) -> Herd:
    herd: Herd = request.app.state.herd
    return herd


TheHerd = Annotated[Herd, Depends(_herd)]


def patient(request: Request) -> bool:
    """Whether the caller waits for a model to load; RFC 7240's `Prefer: wait=0` and `respond-async` say no."""
    told = ",".join(request.headers.getlist("prefer")).split(",")
    asked = [part.split(";")[0].replace(" ", "").lower() for part in told]
    return not {"wait=0", "respond-async"} & set(asked)


class Call:
    """A job, and what its events have told so far about who serves it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.model = job.model
        self.node = ""
        self.begun = False
        self.doing = "still working"
        """For a reader, while there is nothing else to tell."""
        self.bad_end: Failed | Cancelled | None = None

    def note(self, event: JobEvent) -> None:
        if isinstance(event, Delta):  # first: there are many
            self.begun = True
        elif isinstance(event, Routed):
            self.node, self.model = event.node, event.model or self.model
        elif isinstance(event, Completed):
            self.node, self.model = event.result.node, event.result.model
            self.begun = True
        elif isinstance(event, Failed | Cancelled):
            self.bad_end = event
        elif isinstance(event, Progress):
            self.begun = self.begun or event.step > 0
            self.doing = "still working"
        elif isinstance(event, Loading):
            self.doing = f"loading {event.fraction:.0%}"

    def headers(self) -> dict[str, str] | None:
        """Who serves the job; None while that is open."""
        if not self.node:
            return None
        return {
            "X-Fleet-Node": _ascii(self.node),
            "X-Fleet-Model": _ascii(self.model),
            "X-Herd-Job": self.job.id,
        }

    def result_headers(self, result: Result) -> dict[str, str]:
        """Who served it, and for how many milliseconds."""
        seconds = result.timings.run_s if result.timings.run_s is not None else result.timings.total_s
        return {**(self.headers() or {}), "X-Generation-Time": str(round((seconds or 0.0) * 1000))}

    async def outcome(self, batches: Batches) -> Result:
        """The result, at the job's end. Raises HerdError when there is none."""
        async for events in batches:
            for event in events:
                self.note(event)
                if isinstance(event, Completed):
                    return event.result
                raise_bad_end(event)
        raise HerdError(ErrorCode.INTERNAL, "The job's events ended before the job did.", "Ask again.")


def raise_bad_end(event: JobEvent) -> None:
    """Raise what a `failed` or `cancelled` event says; let others pass."""
    if isinstance(event, Failed):
        raise HerdError.of(event.error)
    if isinstance(event, Cancelled):
        raise HerdError(ErrorCode.CANCELLED, "The job was cancelled.", "Send the request again if it was not you.")


class JobResponse(Response):
    """The answer to a call that made a job, or follows one.

    `answer` gets the job's events and gives the response, which may go on reading them. When the caller goes away, at
    any time, that stops and the job is cancelled, unless this only `follows`. Errors before the start of the answer
    have their status.
    """

    def __init__(
        self,
        herd: Herd,
        call: Call,
        answer: Callable[[Batches], Awaitable[Response]],
        *,
        follows: bool = False,
        after_seq: int = 0,
    ) -> None:
        super().__init__()
        self.herd = herd
        self.call = call
        self.answer = answer
        self.follows = follows
        self.after_seq = after_seq

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        job_id = self.call.job.id
        try:
            async with contextlib.AsyncExitStack() as stack:
                if not self.follows:
                    await stack.enter_async_context(_owned(self.herd, job_id))
                await while_connected(receive, self._respond(scope, receive, send))
        except HerdError as error:
            response = error_response(scope["path"], error.info, headers={"X-Herd-Job": job_id})
            await response(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit_s = self.herd.settings.job_timeout_s + GRACE_S
        batches = self.herd.watch_batches(self.call.job.id, self.after_seq)
        try:
            async with asyncio.timeout(limit_s):
                response = await self.answer(batches)
                await response(scope, receive, send)
        except TimeoutError:
            raise HerdError(ErrorCode.TIMEOUT, f"The answer was not taken within {limit_s:.0f} s.") from None
        finally:
            await batches.aclose()


@contextlib.asynccontextmanager
async def _owned(herd: Herd, job_id: str) -> AsyncIterator[None]:
    """An error in here, such as ClientDisconnect, cancels the job; the job's own bad end stays what it is.

    Being cancelled does not: that is the server ending, and the node itself says what becomes of its jobs then.
    """
    try:
        yield
    except Exception:
        with anyio.CancelScope(shield=True), contextlib.suppress(HerdError):
            await herd.cancel(job_id, disconnected=True)
        raise


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The outcome of `work`. Cancels it and raises ClientDisconnect when the client goes away first.

    The request's body must have been read.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _ascii(text: str) -> str:
    """A text as a header's value: what is not printable ASCII is percent-encoded."""
    return quote(text, safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~")
