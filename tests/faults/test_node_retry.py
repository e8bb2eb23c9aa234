"""An attempt that has not begun is not charged to the job, also when it is the second one."""

from __future__ import annotations

import os
import signal

from herd_mcp.herd import Herd
from herd_mcp.jobs import ErrorCode, ImageRequest, Job
from herd_mcp.owner.record import taken_up
from herd_mcp.owner.retry import after_restart
from tests.conftest import until
from tests.test_herd import engine_pid, status


async def test_a_job_that_waits_for_its_second_engine_outlives_the_end_of_its_node(herd: Herd) -> None:
    job = await herd.submit(ImageRequest(prompt="x", steps=50), client="test")
    await status(herd, job, "running")
    os.kill(await engine_pid(herd), signal.SIGKILL)
    seen: list[Job] = []

    async def tried_again() -> bool:
        seen[:] = [await herd.job(job.id)]
        return len(seen[0].attempts) == 2

    await until(tried_again, "the second attempt is there")
    waiting = seen[0]
    assert waiting.status == "queued"
    assert after_restart(waiting, herd.node_id) is None
    assert [attempt.outcome for attempt in taken_up(waiting, herd.node_id).attempts] == [ErrorCode.ENGINE_CRASHED]
    await herd.cancel(job.id)
