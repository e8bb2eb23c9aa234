"""A herd of one node with real engine processes: jobs from acceptance to their outcome, whoever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import signal
import sqlite3
from pathlib import Path

import psutil
import pytest
from PIL import Image

from herd_mcp.herd import Herd, open_herd
from herd_mcp.jobs import (
    ChatRequest,
    ChatResult,
    Completed,
    ErrorCode,
    Failed,
    HerdError,
    ImageRequest,
    ImageResult,
    Job,
    JobEvent,
    Message,
)
from herd_mcp.settings import load_settings
from tests.conftest import until

LONG = ImageRequest(prompt="a red circle", width=128, height=128, steps=150, seed=1)


def image(**fields: object) -> ImageRequest:
    return ImageRequest.model_validate({"prompt": "a red circle", "steps": 2, "seed": 7, **fields})


def chat(text: str = "hello", **fields: object) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields})


async def events(herd: Herd, job: Job) -> list[JobEvent]:
    return [event async for event in herd.watch(job.id)]


async def outcome(herd: Herd, job: Job) -> JobEvent:
    return (await events(herd, job))[-1]


async def engine_pid(herd: Herd, kind: str = "image") -> int:
    """The pid of the engine, once it is ready."""

    async def there() -> bool:
        return any(e.kind == kind and e.phase == "ready" for e in (await herd.nodes())[0].engines)

    await until(there, f"a ready {kind} engine")
    pid = next(e.pid for e in (await herd.nodes())[0].engines if e.kind == kind)
    assert pid is not None
    return pid


async def status(herd: Herd, job: Job, wanted: str) -> None:
    async def reached() -> bool:
        return (await herd.job(job.id)).status == wanted

    await until(reached, f"{job.id} is {wanted}")


async def test_an_image_is_on_disk_whole_before_completed_is_told(herd: Herd) -> None:
    job = await herd.submit(image(tags=("a", "b")), client="test")
    seen = await events(herd, job)
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    assert seen[0].type == "routed"
    assert {"queued", "loading", "progress"} <= {event.type for event in seen}
    last = seen[-1]
    assert isinstance(last, Completed)
    result = last.result
    assert isinstance(result, ImageResult)
    data = Path(result.path).read_bytes()
    assert hashlib.sha256(data).hexdigest() == result.sha256
    assert Image.open(io.BytesIO(data)).size == (result.width, result.height) == (64, 64)
    assert result.seed == 7
    assert result.timings.load_s is not None
    assert result.timings.load_s > 0
    assert (result.timings.steps_per_s or 0) > 0
    assert await herd.image(result.image_id) == data
    stats = await herd.stats()
    assert (stats.total, stats.completed, stats.by_tag) == (1, 1, {"a": 1, "b": 1})


async def test_a_chat_streams_deltas_that_join_to_its_text_and_its_prompt_is_not_kept(warm: Herd) -> None:
    job = await warm.submit(chat(), client="test", stream=True)
    seen = await events(warm, job)
    last = seen[-1]
    assert isinstance(last, Completed)
    result = last.result
    assert isinstance(result, ChatResult)
    assert "".join(e.text or "" for e in seen if e.type == "delta") == result.text
    assert result.usage.completion_tokens > 0
    assert (result.timings.ttft_s or 0) > 0
    stored = await warm.job(job.id)
    assert (stored.status, stored.request) == ("completed", None)


async def test_the_second_image_finds_its_engine_warm(warm: Herd) -> None:
    await outcome(warm, await warm.submit(image(), client="test"))
    pid = await engine_pid(warm)
    last = await outcome(warm, await warm.submit(image(), client="test"))
    assert isinstance(last, Completed)
    assert last.result.timings.load_s == 0
    assert await engine_pid(warm) == pid


async def test_every_watcher_sees_the_same_events_also_afterwards(warm: Herd) -> None:
    job = await warm.submit(image(), client="test")
    first, second = await asyncio.gather(events(warm, job), events(warm, job))
    assert first == second == await events(warm, job)
    assert [event async for event in warm.watch(job.id, after_seq=len(first) - 1)] == [first[-1]]


async def test_an_engine_that_is_killed_in_the_middle_costs_time_and_not_the_image(herd: Herd) -> None:
    job = await herd.submit(LONG.model_copy(update={"width": 64, "height": 64, "steps": 4}), client="test")
    await status(herd, job, "running")
    os.kill(await engine_pid(herd), signal.SIGKILL)
    last = await outcome(herd, job)
    assert isinstance(last, Completed)
    attempts = (await herd.job(job.id)).attempts
    assert [attempt.outcome for attempt in attempts] == ["engine_crashed", "completed"]


async def test_a_job_that_kills_its_engine_twice_fails_and_is_not_tried_again(herd: Herd) -> None:
    job = await herd.submit(LONG, client="test")
    for number in (1, 2):

        async def running(number: int = number) -> bool:
            now = await herd.job(job.id)
            return len(now.attempts) == number and any(engine.running for engine in (await herd.nodes())[0].engines)

        await until(running, f"attempt {number} runs")
        os.kill(await engine_pid(herd), signal.SIGKILL)
    last = await outcome(herd, job)
    assert isinstance(last, Failed)
    assert last.error.code == ErrorCode.ENGINE_CRASHED
    assert "SIGKILL" in last.error.message
    assert len((await herd.job(job.id)).attempts) == 2


async def test_cancel_ends_a_running_image_at_its_step_and_the_engine_stays(warm: Herd) -> None:
    job = await warm.submit(LONG, client="test")
    await status(warm, job, "running")
    pid = await engine_pid(warm)
    assert (await warm.cancel(job.id)).status == "cancelled"
    assert (await warm.cancel(job.id)).status == "cancelled"
    assert isinstance(await outcome(warm, await warm.submit(image(), client="test")), Completed)
    assert await engine_pid(warm) == pid


async def test_cancel_while_queued_or_loading_needs_no_engine(herd: Herd) -> None:
    first = await herd.submit(LONG, client="test")
    second = await herd.submit(LONG, client="test")
    assert (await herd.cancel(second.id)).status == "cancelled"
    assert (await herd.cancel(first.id)).status == "cancelled"


async def test_an_unknown_model_is_refused_with_the_nearest_names(warm: Herd) -> None:
    with pytest.raises(HerdError) as caught:
        await warm.submit(image(model="herd-tiny-imag"), client="test")
    assert caught.value.info.code == ErrorCode.MODEL_NOT_FOUND
    assert "herd-tiny-image" in caught.value.info.hint
    with pytest.raises(HerdError) as caught:
        await warm.submit(image(model="herd-tiny-chat"), client="test")
    assert caught.value.info.code == ErrorCode.KIND_NOT_SUPPORTED


async def test_a_full_queue_says_busy_and_loses_nobody(herd_home: Path) -> None:
    async with open_herd(load_settings(queue_limit=1)) as herd:
        first = await herd.submit(LONG, client="test")
        await status(herd, first, "running")
        second = await herd.submit(image(), client="test")
        with pytest.raises(HerdError) as caught:
            await herd.submit(image(), client="test")
        assert caught.value.info.code == ErrorCode.BUSY
        await herd.cancel(first.id)
        assert isinstance(await outcome(herd, second), Completed)


async def test_two_models_that_do_not_fit_together_take_turns(herd_home: Path) -> None:
    async with open_herd(load_settings(memory_budget_bytes=600 * 1024 * 1024)) as herd:
        jobs = [await herd.submit(request, client="test") for request in (chat(), image(), chat())]
        outcomes = [await outcome(herd, job) for job in jobs]
        assert all(isinstance(event, Completed) for event in outcomes)
        assert len((await herd.nodes())[0].engines) == 1


async def test_a_model_over_the_budget_is_refused_with_the_numbers(herd_home: Path) -> None:
    async with open_herd(load_settings(memory_budget_bytes=1024)) as herd:
        with pytest.raises(HerdError) as caught:
            await herd.submit(image(), client="test")
        assert caught.value.info.code == ErrorCode.INSUFFICIENT_MEMORY
        assert caught.value.info.details["budget_bytes"] == 1024


async def test_an_idle_engine_ends_and_gives_its_memory_back(herd_home: Path) -> None:
    async with open_herd(load_settings(idle_unload_s=0.2)) as herd:
        await outcome(herd, await herd.submit(chat(), client="test"))

        async def empty() -> bool:
            return not (await herd.nodes())[0].engines

        await until(empty, "the engine is gone")
        assert (await herd.nodes())[0].memory.reserved_bytes == 0


async def test_an_image_that_takes_too_long_is_cancelled_and_says_so(herd_home: Path) -> None:
    async with open_herd(load_settings(job_timeout_s=4)) as herd:
        last = await outcome(herd, await herd.submit(LONG, client="test"))
        assert isinstance(last, Failed)
        assert last.error.code == ErrorCode.TIMEOUT


@pytest.mark.slow
async def test_a_stopped_engine_is_taken_for_hung_and_the_image_is_drawn_by_another(herd_home: Path) -> None:
    async with open_herd(load_settings(engine_stall_s=20)) as herd:
        job = await herd.submit(LONG.model_copy(update={"width": 64, "height": 64, "steps": 8}), client="test")
        await status(herd, job, "running")
        os.kill(await engine_pid(herd), signal.SIGSTOP)
        assert isinstance(await outcome(herd, job), Completed)
        assert [a.outcome for a in (await herd.job(job.id)).attempts] == ["engine_crashed", "completed"]


async def test_a_node_that_ends_in_good_order_draws_the_image_at_its_next_start(herd_home: Path) -> None:
    async with open_herd(load_settings()) as herd:
        running = await herd.submit(LONG.model_copy(update={"width": 64, "height": 64, "steps": 4}), client="test")
        queued = await herd.submit(image(), client="test")
        answering = await herd.submit(chat(max_tokens=3000), client="test")
        await status(herd, running, "running")
    async with open_herd(load_settings()) as herd:
        for job in (running, queued):
            assert isinstance(await outcome(herd, job), Completed)
        told = await herd.job(answering.id)
        assert told.status == "completed" or (told.error and told.error.code == ErrorCode.INTERRUPTED)


async def test_readers_of_an_image_left_for_later_are_told_so(herd_home: Path) -> None:
    async with open_herd(load_settings()) as herd:
        job = await herd.submit(LONG, client="test")
        watching = asyncio.create_task(events(herd, job))
        await status(herd, job, "running")
    with pytest.raises(HerdError) as caught:
        await watching
    assert caught.value.info.code == ErrorCode.INTERRUPTED
    assert job.id in caught.value.info.hint


async def test_a_draining_node_ends_its_work_and_takes_no_more(herd: Herd) -> None:
    job = await herd.submit(image(), client="test")
    await herd.drain(timeout_s=60)
    assert (await herd.job(job.id)).status == "completed"
    with pytest.raises(HerdError) as caught:
        await herd.submit(image(), client="test")
    assert caught.value.info.code == ErrorCode.DRAINING


async def test_engines_are_gone_when_the_herd_is_closed(herd_home: Path) -> None:
    async with open_herd(load_settings()) as herd:
        await outcome(herd, await herd.submit(chat(), client="test"))
        pid = await engine_pid(herd, "chat")
    assert not psutil.pid_exists(pid)


async def test_an_outcome_that_the_disk_did_not_take_is_written_when_it_does(herd_home: Path) -> None:
    async with open_herd(load_settings()) as herd:
        job = await herd.submit(image(), client="test")
        await status(herd, job, "running")
        with contextlib.closing(sqlite3.connect(herd_home / "herd.db", isolation_level=None)) as disk:
            disk.execute("ALTER TABLE jobs RENAME TO away")
            told = await outcome(herd, job)
            disk.execute("ALTER TABLE away RENAME TO jobs")
            assert disk.execute("SELECT status FROM jobs").fetchone() != ("completed",)
    async with open_herd(load_settings()) as herd:
        assert isinstance(told, Completed)
        assert (await herd.job(job.id)).result == told.result


async def test_a_job_that_was_cancelled_is_cancelled_also_when_its_engine_had_to_die_for_it(herd: Herd) -> None:
    job = await herd.submit(LONG, client="test")
    await status(herd, job, "running")
    pid = await engine_pid(herd)
    os.kill(pid, signal.SIGSTOP)
    cancelling = asyncio.create_task(herd.cancel(job.id))
    os.kill(pid, signal.SIGKILL)
    assert (await cancelling).status == "cancelled"


async def test_answers_are_not_kept_when_the_owner_wants_none(herd_home: Path) -> None:
    async with open_herd(load_settings(chat_keep_s=0)) as herd:
        job = await herd.submit(chat(), client="test")
        assert isinstance(await outcome(herd, job), Completed)
    async with open_herd(load_settings()) as herd:
        kept = await herd.job(job.id)
        assert (kept.status, kept.request, kept.result) == ("completed", None, None)


async def test_what_is_pushed_to_subscribers_names_the_job(warm: Herd) -> None:
    seen = set()

    async def read() -> None:
        async for change in warm.subscribe():
            seen.add((change.kind, change.id))

    reading = asyncio.create_task(read())
    try:
        job = await warm.submit(chat(), client="test")
        await until(lambda: {("job", job.id), ("stats", ""), ("health", "")} <= seen, "the changes")
    finally:
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading


async def test_a_system_message_reaches_its_model(warm: Herd) -> None:
    request = ChatRequest(
        messages=(Message(role="system", content="be short"), Message(role="user", content="hi")), max_tokens=4
    )
    assert isinstance(await outcome(warm, await warm.submit(request, client="test")), Completed)
