"""How the events of an attempt reach the job's owner."""

from __future__ import annotations

import pytest

from herd_mcp.jobs import Cancelled, Delta, JobEvent, Queued
from herd_mcp.node.inbox import Inbox

pytestmark = pytest.mark.anyio


async def test_what_came_before_somebody_listened_is_told_first_and_once() -> None:
    inbox, heard = Inbox(), list[JobEvent]()
    inbox.put(Queued(position=0))
    inbox.listen(heard.append)
    inbox.put(Delta(text="a"))
    inbox.put(Cancelled())
    inbox.put(Delta(text="too late"))
    assert heard == [Queued(position=0), Delta(text="a")]
    assert await inbox.outcome == Cancelled()


async def test_a_mistake_of_the_listener_ends_its_job_and_does_not_reach_the_engine() -> None:
    def stumble(event: JobEvent) -> None:
        raise ZeroDivisionError

    inbox = Inbox()
    inbox.listen(stumble)
    inbox.put(Delta(text="a"))
    inbox.put(Delta(text="b"))
    with pytest.raises(ZeroDivisionError):
        await inbox.outcome
