"""The way of an attempt's events from the node to the job's owner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from herd_mcp.jobs import JobEvent
from herd_mcp.orders import Ending, Returned


class Inbox:
    """The events of one attempt: kept until the owner listens, then passed on at once. A mistake of the listener is its
    own: it comes out of `outcome`, and the node goes on."""

    def __init__(self) -> None:
        self._kept: list[JobEvent] = []
        self._listener: Callable[[JobEvent], None] = self._kept.append
        self.outcome: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.returned = False

    def listen(self, listener: Callable[[JobEvent], None]) -> None:
        self._listener = listener
        for event in self._kept:
            self.put(event)

    def put(self, event: JobEvent | Returned) -> None:
        if self.outcome.done():
            return
        try:
            if isinstance(event, Ending):
                self.returned = isinstance(event, Returned)
                self.outcome.set_result(event)
            else:
                self._listener(event)
        except Exception as error:
            self.outcome.set_exception(error)
