"""Watching a job that another node owns, over connections that break."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

from herd_mcp.fleet.remote import RETRY_MOST_S, RETRY_S, is_refused, lost
from herd_mcp.jobs import ENDED, ErrorCode, HerdError, JobEvent, owner_of
from herd_mcp.orders import PeerApi, Returned

log = logging.getLogger(__name__)


async def watched(api: PeerApi, job_id: str, after_seq: int = 0, *, lease_s: float) -> AsyncGenerator[JobEvent, None]:
    """The job's events after `after_seq` to the terminal one, each once; `seq` begins anew where the owner was started
    anew. A connection that is lost is made again for as long as the lease, once in any case. Raises HerdError:
    node_lost then, or what the owner says."""
    loop = asyncio.get_running_loop()
    heard_at, wait_s, failures = loop.time(), RETRY_S, 0
    while True:
        try:
            async with contextlib.aclosing(api.watch(job_id, after_seq)) as lines:
                async for line in lines:
                    heard_at, wait_s, failures = loop.time(), RETRY_S, 0
                    event = line.event
                    if event is None or isinstance(event, Returned):
                        continue
                    after_seq = event.seq
                    yield event
                    if event.type in ENDED:
                        return
            raise lost(owner_of(job_id), "it ended the stream")
        except HerdError as error:
            failures += 1
            away_s = loop.time() - heard_at
            if error.info.code not in (ErrorCode.NODE_LOST, ErrorCode.LOCAL_NETWORK_DENIED) or is_refused(error):
                raise
            if failures > 1 and away_s + wait_s > lease_s:
                raise
            log.info("job %s: its owner is not reached, for %.1f s now: %s", job_id, away_s, error)
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, RETRY_MOST_S)
