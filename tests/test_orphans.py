"""A node that is killed: no engine is left, also a stopped one, and every accepted job has its outcome afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from herd_mcp.herd import open_herd
from herd_mcp.jobs import ErrorCode
from herd_mcp.settings import load_settings
from tests.conftest import until

NODE = """
import asyncio
from herd_mcp.herd import open_herd
from herd_mcp.jobs import ChatRequest, ImageRequest, Message
from herd_mcp.settings import load_settings

async def main():
    async with open_herd(load_settings()) as herd:
        images = [ImageRequest(prompt="x", steps=steps, seed=1) for steps in (1, 6, 2)]
        jobs = [await herd.submit(image, client="test") for image in images]
        message = Message(role="user", content="x")
        jobs.append(await herd.submit(ChatRequest(messages=(message,), max_tokens=3000), client="test"))
        while (await herd.job(jobs[1].id)).status != "running":
            await asyncio.sleep(0.01)
        engines = (await herd.nodes())[0].engines
        print(*[engine.pid for engine in engines if engine.kind == "image"], *[job.id for job in jobs], flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "stopped", [pytest.param(False, marks=pytest.mark.slow), True], ids=["engine at work", "engine stopped"]
)
async def test_a_killed_node_leaves_no_engine_and_loses_no_job(herd_home: Path, stopped: bool) -> None:
    node = await asyncio.create_subprocess_exec(sys.executable, "-P", "-c", NODE, stdout=asyncio.subprocess.PIPE)
    assert node.stdout is not None
    pid_text, *job_ids = (await asyncio.wait_for(node.stdout.readline(), 60)).decode().split()
    pid = int(pid_text)
    if stopped:
        os.kill(pid, signal.SIGSTOP)
    node.send_signal(signal.SIGKILL)
    await node.wait()
    await until(lambda: not _alive(pid), "the engine is gone", 10)
    async with open_herd(load_settings()) as herd:
        for job_id in job_ids:
            async for _ in herd.watch(job_id):
                pass
        jobs = [await herd.job(job_id) for job_id in job_ids]
        assert [job.status for job in jobs[:3]] == ["completed"] * 3
        assert [a.outcome for a in jobs[1].attempts] == ["node_lost", "completed"]
        assert jobs[3].error is not None or jobs[3].status == "completed"
        assert jobs[3].error is None or jobs[3].error.code == ErrorCode.INTERRUPTED
        pictures = list((herd_home / "images").glob("*.png"))
        for path in pictures:
            with Image.open(path) as picture:
                picture.load()
        assert len(pictures) == 3
        assert list((herd_home / "images" / ".spool").iterdir()) == []


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
