"""A job that kills whoever works on it is tried twice and never more, whoever dies and starts again in between."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from herd_mcp.jobs import Completed, Failed
from tests.conftest import until
from tests.faults.dictate import Act, attempts, chat, dictated, has_status, image, noted, outcome, write_script

NODE = """
import asyncio, sys
from herd_mcp.herd import open_herd
from herd_mcp.jobs import ImageRequest
from herd_mcp.node import engines
from herd_mcp.settings import load_settings

engines.WORKER = tuple(sys.argv[1:])

async def main():
    async with open_herd(load_settings()) as herd:
        if not await herd.jobs():
            for prompt in ("poison", "innocent"):
                print((await herd.submit(ImageRequest(prompt=prompt), client="test")).id, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""
POISON = "poison"


async def killed_node(*command: str) -> list[str]:
    """Run a node until its engine kills it; the ids of the jobs that it accepted."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", NODE, *command, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == -9
    return told.decode().split()


def starts(folder: Path, prompt: str = POISON) -> int:
    return sum(line.endswith(f" {prompt}") for line in noted(folder, "starts"))


async def test_a_poison_image_that_kills_engine_and_node_is_begun_twice_and_never_more(
    herd_home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "f"
    acts: list[Act] = [{"runs": {POISON: [["kill_node"], ["hang"]]}}, {"runs": {POISON: [["signal", "SIGKILL"]]}}]
    poison, innocent = await killed_node(*write_script(folder, image=acts))
    for _ in range(2):  # what was final stays final
        async with dictated(folder, image=acts) as herd:
            last = await outcome(herd, await herd.job(poison))
            assert isinstance(last, Failed)
            assert last.error.code == "engine_crashed"
            assert isinstance(await outcome(herd, await herd.job(innocent)), Completed)
            assert await attempts(herd, await herd.job(poison)) == ["node_lost", "engine_crashed"]
    assert (starts(folder), starts(folder, "innocent")) == (2, 1)


async def test_a_death_of_the_engine_and_one_of_the_node_are_two(herd_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    acts: list[Act] = [{"runs": {POISON: [["signal", "SIGKILL"]]}}, {"runs": {POISON: [["kill_node"], ["hang"]]}}]
    poison, innocent = await killed_node(*write_script(folder, image=acts))
    async with dictated(folder, image=[{}]) as herd:
        last = await outcome(herd, await herd.job(poison))
        assert isinstance(last, Failed)
        assert last.error.code == "engine_crashed"
        assert isinstance(await outcome(herd, await herd.job(innocent)), Completed)
    assert starts(folder) == 2


async def test_an_image_that_waited_for_its_second_attempt_is_not_charged_with_the_nodes_death(
    herd_home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "f"
    acts: list[Act] = [
        {"runs": {POISON: [["signal", "SIGKILL"]]}},
        {"runs": {"innocent": [["await", "never"]]}},
    ]
    async with dictated(folder, image=acts) as herd:
        job = await herd.submit(image(POISON), client="test")

        async def second_attempt() -> bool:
            return len((await herd.job(job.id)).attempts) == 2

        before = await herd.submit(image("innocent"), client="test")
        await until(second_attempt, "the second attempt waits")
        assert (await herd.job(job.id)).status in ("queued", "loading")
        assert (await herd.job(before.id)).status != "completed"
    async with dictated(folder, image=[{}]) as herd:
        assert await attempts(herd, job) == ["engine_crashed", "completed"]
        assert (await attempts(herd, before))[-1] == "completed"


async def test_those_that_were_in_an_engine_that_died_run_again_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    hold: Act = {"runs": {POISON: [["await", "all"], ["signal", "SIGKILL"]]}, "run": [["hold"]]}
    after: Act = {"runs": {POISON: [["signal", "SIGKILL"]]}}
    async with dictated(folder, chat=[hold, after]) as herd:
        poison = await herd.submit(chat(POISON), client="test")
        innocent = [await herd.submit(chat(str(n)), client="test") for n in range(5)]
        await has_status(herd, innocent[-1], "running")
        (folder / "all").touch()
        assert await attempts(herd, poison) == ["engine_crashed"] * 2
        for job in innocent:
            assert await attempts(herd, job) == ["engine_crashed", "completed"]
