"""Who was in an engine that died shares the next with nobody, whatever comes between the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from herd_mcp.herd import Herd
from herd_mcp.jobs import (
    ChatRequest,
    ChatResult,
    Completed,
    ErrorCode,
    ErrorInfo,
    Failed,
    JobEvent,
    Message,
    Usage,
)
from herd_mcp.orders import Accepted, Ending, Order, Placed, Returned, Runner

CRASH = ErrorInfo(code=ErrorCode.ENGINE_CRASHED, message="It fell.", details={"admitted": True})
ANSWER = ChatResult(text="yes", finish_reason="stop", usage=Usage(), model="m", node="n")


@dataclass
class Places:
    """A placer with one node, whose attempts end as `endings` says."""

    endings: list[Ending]
    alone: list[bool] = field(default_factory=list)
    node_id, name, patience_s = "bbbbbbbbbb", "beta", 0.0

    async def place(self, order: Order, *, avoid: frozenset[str] = frozenset()) -> Placed:
        self.alone.append(order.alone)
        return Placed(order, self, await self.reserve(order), ())

    def runner(self, node_id: str) -> Runner | None:
        return None

    def note_failure(self, node_id: str) -> None: ...

    def elsewhere(self, placed: Placed, *, avoid: frozenset[str] = frozenset()) -> bool:
        return False

    async def reserve(self, order: Order) -> Accepted:
        return Accepted(model="m")

    async def run(self, order: Order, listener: Callable[[JobEvent], None]) -> Ending:
        return self.endings.pop(0)

    def give_back(self, job_id: str, attempt: int) -> None: ...

    def cancel(self, job_id: str, attempt: int) -> None: ...

    async def take_back(self, job_id: str, attempt: int) -> bool:
        return False


async def test_an_attempt_alone_that_is_given_back_is_placed_again_alone(
    warm: Herd, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(
        [Returned(reason="full"), Failed(error=CRASH), Returned(reason="it ends"), Completed(result=ANSWER)]
    )
    monkeypatch.setattr(warm._owner, "placer", places)
    job = await warm.submit(ChatRequest(messages=(Message(role="user", content="hello"),)), client="test")
    *_, last = [event async for event in warm.watch(job.id)]
    assert last.type == "completed"
    assert places.alone == [False, False, True, True]
