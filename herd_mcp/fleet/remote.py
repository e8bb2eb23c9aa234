"""Another node as a runner of attempts: reserved, followed over lost connections, its picture fetched."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path

from herd_mcp.fleet.allowance import Allowance
from herd_mcp.jobs import (
    Cancelled,
    Completed,
    ErrorCode,
    ErrorInfo,
    Failed,
    HerdError,
    ImageResult,
    Job,
    JobEvent,
    Result,
    image_id_of,
)
from herd_mcp.orders import ELSEWHERE, GONE, PARTED, Accepted, Ending, Order, PeerApi, Returned

log = logging.getLogger(__name__)

RETRY_S = 0.25
"""Between two tries to reach a node again, the first time; it doubles up to RETRY_MOST_S."""
RETRY_MOST_S = 2.0
FETCH_TRIES = 8
MOST_GARBLED = 3
"""Connections of one attempt on which the node says what is not understood."""


class RemoteRunner:
    """`orders.Runner` over a peer. `lease_s`: how long it may be out of reach before its attempts are lost. `limit_s`:
    how long an attempt may take, whatever the peer says meanwhile."""

    def __init__(self, node_id: str, name: str, api: PeerApi, lease_s: float, limit_s: float) -> None:
        self.node_id, self.name = node_id, name
        self.api = api
        self._lease_s, self._limit_s = lease_s, limit_s
        self._cancelled: set[tuple[str, int]] = set()
        self._beside: set[asyncio.Task[None]] = set()

    async def reserve(self, order: Order) -> Accepted:
        """Raises HerdError (node_lost where it is not reached), or Later."""
        return await self.api.submit(order.model_copy(update={"spool": ""}))

    async def run(self, order: Order, listener: Callable[[JobEvent], None]) -> Ending:
        """Follow the attempt to its end; a connection that is lost is made again for as long as the lease. Leaving
        early leaves the attempt to its lease."""
        try:
            ending = await self._follow(order, listener)
            if isinstance(ending, Completed) and not _is_of(order.job, ending.result):
                ending = Failed(error=lost(self.name, "it told of the end of another job").info)
            elif isinstance(ending, Completed) and isinstance(ending.result, ImageResult):
                ending = await self._fetch(order, ending.result)
            elif isinstance(ending, Failed) and ending.error.code == ErrorCode.DISK:
                ending = Failed(error=_of_its_disk(ending.error, self.name))
            elif isinstance(ending, Failed) and ending.error.code == ErrorCode.INTERRUPTED:
                ending = Returned(reason=f"{self.name} ends")  # it is not for another to say that this node does
        finally:
            self._cancelled.discard((order.job.id, order.attempt))
        # Its end is here: the node lets go of what the attempt brought, or of what it still does of one that was lost.
        self.give_back(order.job.id, order.attempt)
        return ending

    def give_back(self, job_id: str, attempt: int) -> None:
        """Undo `reserve` for an attempt that will not run."""
        self._beside_run(self._tell_cancel(job_id, attempt))

    def cancel(self, job_id: str, attempt: int) -> None:
        """End the attempt; where the node is not reached, its owner is free of it at once."""
        self._cancelled.add((job_id, attempt))
        self.give_back(job_id, attempt)

    async def take_back(self, job_id: str, attempt: int) -> bool:
        """Whether the attempt had not begun there and is undone; not where the node is not reached."""
        try:
            return await self.api.take_back(job_id, attempt)
        except HerdError:
            return False

    async def _follow(self, order: Order, listener: Callable[[JobEvent], None]) -> Ending:
        seq, key = 0, (order.job.id, order.attempt)
        loop = asyncio.get_running_loop()
        heard, heard_at, wait_s, failures, garbled = False, loop.time(), RETRY_S, 0, 0
        until = loop.time() + self._limit_s
        assert order.job.request is not None
        allowance = Allowance(order.job.request, self._limit_s)
        while True:
            try:
                async with contextlib.aclosing(self.api.follow(*key, seq)) as lines:
                    async for line in lines:
                        heard, heard_at, wait_s, failures = True, loop.time(), RETRY_S, 0
                        if heard_at > until:
                            return Failed(error=lost(self.name, f"no end came within {self._limit_s:.0f} s").info)
                        if not allowance.allows(line):
                            return Failed(error=lost(self.name, "it told more than the job can have").info)
                        if line.attempt != order.attempt or line.seq <= seq:
                            continue
                        seq = line.seq
                        if isinstance(line.event, Ending):
                            return line.event
                        if line.event is not None:
                            listener(line.event)
                raise lost(self.name, "it ended the stream")
            except HerdError as error:
                if error.info.code == ErrorCode.JOB_NOT_FOUND:
                    return self._unknown(order, seq)
                if error.info.code == ErrorCode.UNAUTHORIZED:
                    return Failed(error=lost(self.name, "it takes this node for no member of the herd any more").info)
                if error.info.code not in (ErrorCode.NODE_LOST, ErrorCode.LOCAL_NETWORK_DENIED):
                    return Failed(error=error.info)
                if key in self._cancelled:
                    return Cancelled()
                if error.info.details.get("reason") == PARTED:
                    return Returned(reason=f"{self.name} is in no herd with this Mac any more")
                away_s = loop.time() - heard_at
                failures += 1
                garbled += error.info.details.get("reason") == "garbage"
                # It is asked once more in any case: it may be this node that stood still. Who was never heard of may be
                # somewhere else by now; of one that was, and is not there any more, there is nothing to wait for.
                ended = heard and error.info.details.get("reason") == GONE
                given_up = is_refused(error) or garbled >= MOST_GARBLED
                if given_up or (failures > 1 and (ended or away_s + wait_s > self._lease_s)):
                    return Failed(error=self._lost(error))
                log.info("job %s: node %s is not reached, for %.1f s now: %s", key[0], self.name, away_s, error)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_MOST_S)

    def _lost(self, error: HerdError) -> ErrorInfo:
        """What a job's end is that came of not reaching the node: a death, whatever the system calls it."""
        told = lost(self.name, error.info.message.removesuffix(".")).info
        return told.model_copy(update={"hint": error.info.hint or told.hint, "details": error.info.details})

    def _unknown(self, order: Order, seq: int) -> Ending:
        """The node does not know the attempt: it was started anew, or let go of it since it heard nothing."""
        if not seq and order.job.status == "queued":
            return Returned(reason=f"{self.name} does not know the attempt any more")
        return Failed(error=lost(self.name, "it was started anew").info)

    async def _fetch(self, order: Order, result: ImageResult) -> Ending:
        """The picture, whole and with the digest that was told, at the order's spool."""
        loop = asyncio.get_running_loop()
        began_at, wait_s = loop.time(), RETRY_S
        place = Path(order.spool)
        for _ in range(FETCH_TRIES):
            try:
                await self._append(place, result)
                if await asyncio.to_thread(_digest, place) == result.sha256:
                    return Completed(result=result.model_copy(update={"path": str(place)}))
                await asyncio.to_thread(place.unlink)
                why = "its picture did not arrive whole"
            except OSError as error:
                return Failed(error=_disk(error))
            except HerdError as error:
                why = f"its picture was not to be had: {error.info.message}"
                if is_refused(error) or loop.time() - began_at + wait_s > self._lease_s:
                    break
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_MOST_S)
        return Failed(error=lost(self.name, why).info)

    async def _append(self, place: Path, result: ImageResult) -> None:
        """What is still missing of the picture. Raises HerdError, OSError."""
        with await asyncio.to_thread(place.open, "ab") as stream:
            have = stream.tell()
            async with contextlib.aclosing(self.api.blob(result.sha256, have)) as chunks:
                async for chunk in chunks:
                    have += len(chunk)
                    if have > result.bytes:
                        break
                    stream.write(chunk)

    async def _tell_cancel(self, job_id: str, attempt: int) -> None:
        with contextlib.suppress(HerdError):  # it ends by itself when its lease does
            await self.api.cancel(job_id, attempt)

    def _beside_run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)


def lost(name: str, why: str) -> HerdError:
    """A node that is out of reach, or that does not keep its word."""
    return HerdError(
        ErrorCode.NODE_LOST,
        f"The node {name} was lost: {why}.",
        "Ask again; `herd-mcp status` shows the nodes.",
        retryable=True,
    )


def _is_of(job: Job, result: Result) -> bool:
    """Whether a result can be this job's: the id of an image becomes a file of its owner's."""
    if result.kind != job.kind:
        return False
    return not isinstance(result, ImageResult) or result.image_id == image_id_of(job.id)


def is_refused(error: HerdError) -> bool:
    """Whether the two do not let each other in, which no waiting changes."""
    return error.info.details.get("reason") in ("refused", PARTED)


def _of_its_disk(error: ErrorInfo, name: str) -> ErrorInfo:
    """The disk of the other node is full or broken: another node may do better."""
    words = {"message": f"On {name}: {error.message}", "details": error.details | {ELSEWHERE: True}}
    return error.model_copy(update=words)


def _digest(place: Path) -> str:
    with place.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _disk(error: OSError) -> ErrorInfo:
    return ErrorInfo(
        code=ErrorCode.DISK,
        message=f"The picture could not be written to HERD_HOME/images: {error.strerror or error}.",
        hint="Make room or mend it (`herd-mcp doctor` looks at the machine), then try again.",
        retryable=True,
    )
