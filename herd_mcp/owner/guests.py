"""Attempts that this node runs for jobs of others: reserved, begun when their owner listens, ended when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable, Container
from pathlib import Path

from herd_mcp.jobs import (
    Cancelled,
    ChatRequest,
    Completed,
    ErrorCode,
    Failed,
    HerdError,
    ImageResult,
    JobEvent,
    Request,
    prompt_bytes,
)
from herd_mcp.node.gallery import Gallery
from herd_mcp.node.words import draining
from herd_mcp.orders import Accepted, Ending, Line, Order, Returned, Runner
from herd_mcp.owner.joblog import JobLog
from herd_mcp.owner.record import internal

log = logging.getLogger(__name__)

KEPT = 256
"""Ended attempts whose end can still be asked for, with their pictures."""
KEPT_S = 600.0
HELD_BYTES = 512 * 1024 * 1024
"""Prompts and pictures of attempts that are not over, together: orders that no limit of the queue refuses, too."""
LEAST_BYTES = 64 * 1024
"""What an attempt counts at least."""
LET_GO_S = 3.0
"""When this node ends: how long owners that were heard of get to fetch what their attempts brought."""
CHUNK_BYTES = 256 * 1024


class Guest:
    """One attempt of another node's job."""

    def __init__(self, owner_id: str, order: Order, now: float) -> None:
        self.owner_id = owner_id
        self.order = order
        self.log: JobLog[JobEvent | Returned] = JobLog(order.job.id)
        self.task: asyncio.Task[None] | None = None
        self.listeners = 0
        self.heard_at = now
        """When its owner last asked for it, or listened."""
        self.ended_at: float | None = None
        self.held_bytes = LEAST_BYTES + _bytes_of(order.job.request)
        self.let_go = False
        """Its owner has all that it wants of it."""
        self.returned = ""
        """Why this node ended it, where that is no failure of anybody's."""
        self.sha256 = ""

    def note(self, event: JobEvent) -> None:
        self.log.append(event)

    @property
    def key(self) -> tuple[str, int]:
        return self.order.job.id, self.order.attempt


class Guests:
    """The attempts of others, by job id and number.

    `lease_s`: how long an attempt goes on whose owner does not listen, or is silent. `silent_s`: for how long this node
    has heard nothing of another one's program; that a connection is open says nothing of it, since the system of a Mac
    that stands still goes on taking what is sent. `changed` notes that the node's state changed, and returns the
    incarnation and revision that has it.
    """

    def __init__(
        self,
        runner: Runner,
        gallery: Gallery,
        lease_s: float,
        silent_s: Callable[[str], float] = lambda owner_id: 0.0,
        changed: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self._runner = runner
        self._gallery = gallery
        self._lease_s = lease_s
        self._silent_s = silent_s
        self._changed = changed
        self._woke_at = float("-inf")
        self._guests: dict[tuple[str, int], Guest] = {}
        self._draining = False
        self._forgotten = asyncio.Event()

    def __len__(self) -> int:
        return sum(guest.ended_at is None for guest in self._guests.values())

    async def submit(self, owner_id: str, order: Order) -> Accepted:
        """Take a place for another's attempt. Raises Later, or HerdError as the runner, or invalid_request for an
        attempt that is here already, or draining, or busy."""
        if self._draining:  # also where it is forced: what is given back must not come back
            raise HerdError.of(draining())
        spool = self._gallery.spool_file() if order.job.kind == "image" else None
        order = order.model_copy(update={"spool": str(spool or "")})
        guest = Guest(owner_id, order, _now())
        if guest.key in self._guests:
            raise HerdError(ErrorCode.INVALID_REQUEST, "This attempt is here already.", "Follow its events.")
        if sum(one.held_bytes for one in self._guests.values()) + guest.held_bytes > HELD_BYTES:
            raise HerdError(
                ErrorCode.BUSY, "This Mac holds too much of others' jobs already.", "Try again later.", retryable=True
            )
        self._guests[guest.key] = guest  # before the wait: the same order may be sent twice
        try:
            accepted = await self._runner.reserve(order)
        except BaseException:
            self._guests.pop(guest.key, None)
            raise
        if self._guests.get(guest.key) is not guest:  # it was cancelled, or this node began to end, meanwhile
            self._runner.give_back(*guest.key)
            raise HerdError.of(draining())
        incarnation, revision = self._changed()
        log.info("job %s of node %s has a place here", order.job.id, owner_id)
        return accepted.model_copy(update={"incarnation": incarnation, "revision": revision})

    async def follow(self, owner_id: str, job_id: str, attempt: int, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        """The attempt's events after `after_seq`, to its end. The first to follow lets it begin. Raises
        HerdError(job_not_found)."""
        guest = self._find(owner_id, job_id, attempt)
        if guest.task is None:
            guest.task = asyncio.create_task(self._run(guest))
        guest.listeners += 1
        guest.heard_at = _now()
        try:
            async with contextlib.aclosing(guest.log.read(after_seq)) as batches:
                async for batch in batches:
                    for event in batch:
                        yield Line(attempt=attempt, seq=event.seq, event=event)
        finally:
            guest.listeners -= 1
            guest.heard_at = _now()

    def cancel(self, owner_id: str, job_id: str, attempt: int) -> None:
        """End an attempt, and let go of what it brought. Unknown ones are fine."""
        with contextlib.suppress(HerdError):
            guest = self._find(owner_id, job_id, attempt)
            guest.let_go = True
            if guest.ended_at is None:
                self._end(guest)
            else:
                self._forget(guest)

    async def take_back(self, owner_id: str, job_id: str, attempt: int) -> bool:
        """Whether the attempt had not begun and is undone."""
        with contextlib.suppress(HerdError):
            self._find(owner_id, job_id, attempt)
            return await self._runner.take_back(job_id, attempt)
        return False

    async def blob(self, owner_id: str, sha256: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """A picture that one of this owner's attempts brought, from `offset` on. Raises
        HerdError(image_not_found)."""
        guest = next(
            (g for g in self._guests.values() if g.owner_id == owner_id and sha256 and g.sha256 == sha256), None
        )
        if guest is None:
            raise HerdError(ErrorCode.IMAGE_NOT_FOUND, "There is no such picture here.", "Ask for the attempt again.")
        stream = await asyncio.to_thread(Path(guest.order.spool).open, "rb")
        try:
            stream.seek(offset)
            while chunk := await asyncio.to_thread(stream.read, CHUNK_BYTES):
                guest.heard_at = _now()
                yield chunk
        finally:
            stream.close()

    def sweep(self) -> None:
        """End the attempts whose owner was not heard of for `lease_s`, and forget the ends that are old."""
        now = _now()
        for guest in list(self._guests.values()):
            if guest.ended_at is None and self._unheard_s(guest, now) > self._lease_s:
                guest.returned = f"its owner was not heard of for {self._lease_s:g} s (lease_s)"
                log.info("job %s, attempt %d: %s", *guest.key, guest.returned)
                self._end(guest)
            elif (
                guest.ended_at is not None
                and not guest.listeners
                and (guest.let_go or now - max(guest.ended_at, guest.heard_at) > KEPT_S)
            ):
                self._forget(guest)
        ended = [guest for guest in self._guests.values() if guest.ended_at is not None and not guest.listeners]
        for guest in ended[: max(len(ended) - KEPT, 0)]:
            self._forget(guest)

    def _unheard_s(self, guest: Guest, now: float) -> float:
        """A place that nobody listens to is not held by what its owner says of other things."""
        unheard_s = now - max(guest.heard_at, self._woke_at)
        return min(unheard_s, self._silent_s(guest.owner_id)) if guest.listeners else unheard_s

    async def run(self) -> None:
        """Sweep for ever."""
        pause_s = self._lease_s / 4
        while True:
            due_at = _now() + pause_s
            await asyncio.sleep(pause_s)
            if _now() > due_at + pause_s:  # this node stood still, which is nobody's silence
                self._woke_at = _now()
            self.sweep()

    async def drain(self) -> None:
        """Take nothing more, and give back what has not begun: its owners place it elsewhere."""
        self._draining = True
        for guest in list(self._guests.values()):
            if guest.ended_at is None and not await self._runner.take_back(*guest.key) and guest.task is None:
                self._end(guest)

    def open(self) -> None:
        """Take attempts again, after `leave`."""
        self._draining = False

    def leave(self, reason: str) -> None:
        """Give back every attempt at once: from now on no owner reaches this node."""
        self._draining = True
        for guest in list(self._guests.values()):
            self._part(guest, reason)

    def part(self, owner_ids: Container[str]) -> None:
        """Give back the attempts of these nodes at once: they and this node are of one herd no more."""
        for guest in [guest for guest in self._guests.values() if guest.owner_id in owner_ids]:
            self._part(guest, "its owner and this node are of one herd no more")

    def _part(self, guest: Guest, reason: str) -> None:
        if guest.ended_at is None and guest.task is not None:
            self._over(guest, Returned(reason=reason))
            self._runner.cancel(*guest.key)
            self._forget(guest)
        elif guest.ended_at is None:
            self._end(guest)
        else:
            self._forget(guest)

    async def close(self, timeout_s: float) -> None:
        """Wait for the ends of the attempts, and for their owners to hear of them and to fetch the pictures."""
        end_at = _now() + timeout_s
        tasks = [guest.task for guest in self._guests.values() if guest.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        while (wait_s := min(end_at, self._wanted_until()) - _now()) > 0:
            self._forgotten.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._forgotten.wait()

    def _wanted_until(self) -> float:
        """When the last of the ended attempts counts as left behind by its owner."""
        ended = (guest for guest in self._guests.values() if guest.ended_at is not None and not guest.let_go)
        return max((guest.heard_at + LET_GO_S for guest in ended), default=0.0)

    def _find(self, owner_id: str, job_id: str, attempt: int) -> Guest:
        guest = self._guests.get((job_id, attempt))
        if guest is None or guest.owner_id != owner_id:
            raise HerdError(ErrorCode.JOB_NOT_FOUND, "This attempt is not here (any more).", "Its owner tries again.")
        return guest

    def _end(self, guest: Guest) -> None:
        if guest.task is None:
            self._runner.give_back(*guest.key)
            self._forget(guest)
        else:
            self._runner.cancel(*guest.key)

    def _forget(self, guest: Guest) -> None:
        self._guests.pop(guest.key, None)
        self._forgotten.set()
        if guest.order.spool:
            self._gallery.discard(Path(guest.order.spool))

    async def _run(self, guest: Guest) -> None:
        ending: Ending
        try:
            ending = await self._runner.run(guest.order, guest.note)
            if isinstance(ending, Completed) and isinstance(ending.result, ImageResult):
                told = await asyncio.to_thread(_measured, ending.result)
                guest.sha256, ending = told.sha256, Completed(result=told)
            elif isinstance(ending, Failed) and ending.error.code == ErrorCode.INTERRUPTED:
                ending = Returned(reason=ending.error.message)  # this node ends; the job does not
            elif isinstance(ending, Cancelled) and guest.returned:
                ending = Returned(reason=guest.returned)
        except Exception as error:
            log.exception("job %s of node %s", guest.order.job.id, guest.owner_id)
            ending = Failed(error=internal(error))
        if guest.key in self._guests:
            self._over(guest, ending)
        else:  # given up before the engine had let go
            self._forget(guest)

    def _over(self, guest: Guest, ending: Ending) -> None:
        guest.ended_at = guest.heard_at = _now()
        guest.order = guest.order.model_copy(update={"job": guest.order.job.model_copy(update={"request": None})})
        guest.held_bytes = 0
        guest.log.append(ending)
        self._changed()


def _bytes_of(request: Request | None) -> int:
    if isinstance(request, ChatRequest):
        return prompt_bytes(request)
    return len(request.image or b"") if request else 0


def _measured(result: ImageResult) -> ImageResult:
    """The result as it is told to the owner: the picture by its digest, not by a path of this Mac."""
    data = Path(result.path).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return result.model_copy(update={"path": "", "bytes": len(data), "sha256": digest})


def _now() -> float:
    return asyncio.get_running_loop().time()
