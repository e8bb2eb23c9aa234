"""What is told of jobs that this node owns while it takes them up again."""

from __future__ import annotations

import time

import pytest

from herd_mcp.herd import Herd
from herd_mcp.jobs import ErrorCode, HerdError, ImageRequest, Job, new_job_id


async def test_a_job_that_is_not_taken_up_yet_is_neither_over_nor_cancelled(warm: Herd) -> None:
    request = ImageRequest(prompt="a fox")
    left = Job(
        id=new_job_id(warm.node_id), kind="image", client="test", request=request, status="running",
        created_at=time.time(),
    )  # fmt: skip
    await warm._history.save(left)
    try:
        with pytest.raises(HerdError) as caught:
            _ = [event async for event in warm.watch(left.id)]
        assert caught.value.info.code == ErrorCode.NODE_LOST, "who watches from another Mac asks again"
        with pytest.raises(HerdError) as caught:
            await warm.cancel(left.id)
        assert caught.value.info.code == ErrorCode.NODE_LOST
        assert (await warm.job(left.id)).status == "running"
    finally:
        await warm._history.save(left.model_copy(update={"status": "cancelled"}))
