"""What is kept of jobs that are over: events of the last, and the answers of chats for a while."""

from __future__ import annotations

import time

from herd_mcp.clock import steady_s
from herd_mcp.node.history import History
from herd_mcp.owner.live import LiveJob

ENDED_LOGS = 256
"""Ended jobs whose events can still be read; of older ones only the outcome."""
ENDED_EVENTS = 20_000
"""Their events together, of 700 bytes each: 256 answers of 4,096 tokens would take the node 700 MB. The last job that
ended has all of its own."""


class Ended:
    """`chat_keep_s`: how long an answer is kept after its end; with 0 it is not written down at all."""

    def __init__(self, history: History, chat_keep_s: float) -> None:
        self._history = history
        self.chat_keep_s = chat_keep_s
        self._jobs: dict[str, LiveJob] = {}
        self._answered: dict[str, float] = {}
        """Chats that ended since this process began and whose answers are kept, with steady seconds of their end."""
        self._began_s, self._began_at = steady_s(), time.time()

    def find(self, job_id: str) -> LiveJob | None:
        """One of the last that ended."""
        return self._jobs.get(job_id)

    def add(self, live: LiveJob) -> None:
        """Keep it, and let go of the oldest as far as the bounds ask."""
        self._jobs[live.job.id] = live
        events = sum(len(one.log.events) for one in self._jobs.values())
        while len(self._jobs) > ENDED_LOGS or (events > ENDED_EVENTS and len(self._jobs) > 1):
            events -= len(self._jobs.pop(next(iter(self._jobs))).log.events)

    def answered(self, job_id: str) -> None:
        """The answer of a chat was written down now."""
        self._answered[job_id] = steady_s()

    async def forget_answers(self) -> None:
        """Drop the answers of chats that ended more than chat_keep_s ago. Raises HerdError(disk).

        The ends in the records are of the Mac's clock, which may have been set since: they count only for chats of
        earlier starts, and up to the moment of this one.
        """
        now = steady_s()
        over = [job_id for job_id, ended in self._answered.items() if now - ended > self.chat_keep_s]
        before = self._began_at + (now - self._began_s) - self.chat_keep_s
        while await self._history.forget_answers(before, keep=self._answered, also=over):
            pass
        for job_id in over:
            del self._answered[job_id]
