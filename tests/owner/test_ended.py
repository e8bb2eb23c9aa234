"""What the owner keeps of jobs that are over."""

from __future__ import annotations

import pytest

from herd_mcp.herd import Herd
from herd_mcp.jobs import ChatRequest, Completed, JobEvent
from herd_mcp.owner import ended
from tests.surfaces.http_node import CHAT

TOKENS = 40


async def heard(herd: Herd) -> tuple[str, list[JobEvent]]:
    """A chat that is over: its id and its events."""
    asked = {"messages": [{"role": "user", "content": "hello"}], "model": CHAT, "max_tokens": TOKENS}
    job = await herd.submit(ChatRequest.model_validate(asked), client="test")
    return job.id, [event async for event in herd.watch(job.id)]


@pytest.mark.parametrize("bound", ["ENDED_EVENTS", "ENDED_LOGS"])
async def test_events_of_ended_jobs_are_kept_up_to_a_bound_and_those_of_the_last_always(
    warm: Herd, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(ended, bound, 1)
    first, told_first = await heard(warm)
    assert [event async for event in warm.watch(first)] == told_first
    last, told_last = await heard(warm)
    assert len(told_last) > 3
    assert [event async for event in warm.watch(last)] == told_last
    (outcome,) = [event async for event in warm.watch(first)]
    assert isinstance(outcome, Completed)
    assert outcome.result == told_first[-1].result  # type: ignore[union-attr]
