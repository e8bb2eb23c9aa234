"""Running a job for one tool call: submit, tell the client how far it is, and know when to stop waiting."""

from __future__ import annotations

import math
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio

from herd_mcp.jobs import (
    Cancelled,
    ChatRequest,
    Completed,
    Delta,
    ErrorCode,
    Failed,
    HerdError,
    ImageRequest,
    Job,
    JobEvent,
    Loading,
    Progress,
    Queued,
    Result,
    Routed,
)

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context

    from herd_mcp.herd import Herd

CLIENT = "mcp"
BEAT_S = 4.0
"""Seconds after which progress is told again although nothing happened; clients give up after a longer silence."""
LOADING_EVERY_S = 0.5
TEXT_EVERY_S = 0.2
"""Seconds between two looks at a growing answer; the first comes at once."""
TEXT_TAIL_CHARS = 80
NUDGE = 0.001
"""How much the number rises when only time has passed: an hour of beats stays below one step."""
CANCEL_S = 10.0
"""Seconds that the cancelling of a job may take when its client has gone."""


class Teller:
    """Tells one client how far its job is: the number always rises, and it is never silent for long."""

    def __init__(self, ctx: Context[Any, Any]) -> None:
        self._ctx = ctx
        self._lock = anyio.Lock()
        self._value = -NUDGE
        self._total: float | None = None
        self._message = "accepted"
        self._told_at = -math.inf
        self._since = time.monotonic()
        self._model = ""
        self._text = ""
        self._deltas = 0

    async def event(self, event: JobEvent) -> None:
        """Tell what an event says; a growing text a few times a second."""
        match event:
            case Queued(position=position, eta_s=eta_s, message=why):
                ahead = (f", {position} ahead" if position > 0 else "") + (f", {why}" if why else "")
                await self._tell(0, f"queued{ahead}" + (f", about {eta_s:.0f} s" if eta_s else ""))
            case Routed(node=node, model=model):
                self._model, self._text = model, ""
                await self._tell(0, f"{model} on {node}")
            case Loading(fraction=fraction):
                if fraction in (0, 1) or self._quiet_s() >= LOADING_EVERY_S:
                    await self._tell(0, f"loading {self._model} {fraction:.0%}")
            case Progress(step=step, steps=steps, message=message):
                self._total = float(steps) if steps else None
                await self._tell(step, message or f"step {step} of {steps}")
            case Delta(text=text, reasoning=reasoning):
                self._deltas += 1
                self._text = (self._text + (text or reasoning or ""))[-TEXT_TAIL_CHARS:]
                if self._deltas == 1 or self._quiet_s() >= TEXT_EVERY_S:
                    await self._tell(self._deltas, " ".join(self._text.split()) or "thinking")
            case _:
                pass

    async def beat(self) -> None:
        """Say the last thing again, with the seconds since the start, whenever it has been quiet for BEAT_S."""
        while True:
            if (left := BEAT_S - self._quiet_s()) > 0:
                await anyio.sleep(left)
            else:
                await self._send(self._value + NUDGE)

    def _quiet_s(self) -> float:
        return time.monotonic() - self._told_at

    async def _tell(self, value: float, message: str) -> None:
        self._message = message
        await self._send(value)

    async def _send(self, value: float) -> None:
        async with self._lock:
            self._told_at = time.monotonic()
            self._value = max(value, self._value + NUDGE)
            message = f"{self._message} ({self._told_at - self._since:.0f} s)"
            await self._ctx.report_progress(round(self._value, 3), self._total, message)


async def run(
    herd: Herd, request: ChatRequest | ImageRequest, ctx: Context[Any, Any], wait_s: float | None
) -> tuple[Job, Result | None]:
    """Run a job for a tool call. The result is None when `wait_s` seconds went by first: then the job goes on.

    A call that is cancelled (by the client, or because the client has gone) cancels its job.
    Raises the HerdError with which the job was refused or ended.
    """
    with anyio.CancelScope(shield=True):  # a job whose id nobody knows could not be cancelled
        job = await herd.submit(request, client=CLIENT)
    limit = herd.settings.wait_s if wait_s is None else wait_s
    if request.kind == "chat" and herd.settings.chat_keep_s == 0:
        limit = math.inf  # nobody could fetch the answer later
    try:
        result = await wait(herd, job.id, ctx, limit)
    except anyio.get_cancelled_exc_class():
        asked = ctx.session._request_outbound.cancel_requested.is_set()  # else the client itself has gone
        with anyio.move_on_after(CANCEL_S, shield=True):
            await herd.cancel(job.id, disconnected=not asked)
        raise
    return await herd.job(job.id), result


async def wait(herd: Herd, job_id: str, ctx: Context[Any, Any], limit_s: float) -> Result | None:
    """The result of a job, or None after `limit_s` seconds; progress is told meanwhile. The job is left as it is.

    Raises the HerdError with which the job ended.
    """
    ending: Completed | Failed | Cancelled | None = None
    problem: HerdError | None = None
    teller = Teller(ctx)
    with anyio.move_on_after(limit_s):
        async with anyio.create_task_group() as group:
            group.start_soon(teller.beat)
            try:
                async with aclosing(herd.watch(job_id)) as events:
                    async for event in events:
                        if isinstance(event, Completed | Failed | Cancelled):
                            ending = event
                            break
                        await teller.event(event)
            except HerdError as error:  # not through the group, which would wrap it
                problem = error
            group.cancel_scope.cancel()
    if problem is not None:
        raise problem
    match ending:
        case Completed(result=result):
            return result
        case Failed(error=info):
            raise HerdError.of(info)
        case Cancelled():
            raise HerdError(ErrorCode.CANCELLED, f"The job {job_id} was cancelled.", "Ask again if it is still wanted.")
        case None:
            return None
