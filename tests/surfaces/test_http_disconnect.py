"""A caller who goes away takes the job along, wherever it is."""

import httpx
import pytest

from .http_node import IMAGE, LIMIT_S, NEVER_ENDS, TOKEN, HttpNode, serve

LONG = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4000, "logit_bias": NEVER_ENDS}
EVENTS = "Accept: text/event-stream"


def slow_image(tag: str) -> dict[str, object]:
    return {"model": IMAGE, "prompt": "x", "steps": 200, "width": 128, "height": 128, "metadata": {"tags": [tag]}}


async def test_an_image_is_cancelled_while_it_is_drawn_and_while_it_waits(node: HttpNode) -> None:
    drawn = await node.open("/api/generate-image", slow_image("drawn"))
    await node.job_tagged("drawn", "running")
    waiting = await node.open("/api/generate-image", slow_image("waiting"))
    await node.job_tagged("waiting", "queued")
    await waiting.hang_up()
    assert (await node.job_tagged("waiting", "cancelled")).disconnected
    assert (await node.job_tagged("drawn")).status == "running"
    await drawn.hang_up()
    assert (await node.job_tagged("drawn", "cancelled")).disconnected
    assert (await node.image()).status_code == 200


async def test_an_image_is_cancelled_when_the_reader_of_its_events_goes(node: HttpNode) -> None:
    connection = await node.open("/api/generate-image", slow_image("events"), EVENTS)
    assert b"200" in await connection.reader.readline()
    await connection.reader.readuntil(b"event: progress")
    await connection.hang_up()
    await node.job_tagged("events", "cancelled")


async def test_a_chat_is_cancelled_while_it_is_written_streamed_or_not(node: HttpNode) -> None:
    pids = None
    for stream in (False, True):
        tag = f"chat-{stream}"
        connection = await node.open("/v1/chat/completions", {**LONG, "stream": stream, "metadata": {"tags": [tag]}})
        if stream:
            await connection.reader.readuntil(b"data: ")
        else:
            await node.job_tagged(tag, "running", "queued", "loading")
        await connection.hang_up()
        job = await node.job_tagged(tag, "cancelled")
        assert job.disconnected
        assert (await node.chat()).status_code == 200
        pids = pids or await node.engine_pids()
        assert await node.engine_pids() == pids


async def test_a_native_caller_who_goes_takes_the_job_along_and_a_watcher_does_not(node: HttpNode) -> None:
    bearer = f"Authorization: Bearer {TOKEN}"
    request = {"kind": "image", "model": IMAGE, "prompt": "x", "steps": 200, "width": 128, "height": 128}
    owner = await node.open("/herd/api/jobs", {**request, "tags": ["owned"]}, bearer)
    job = await node.job_tagged("owned", "running")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"http://127.0.0.1:{node.port}/herd/api/jobs/{job.id}/events"
    async with httpx.AsyncClient(headers=headers, timeout=LIMIT_S) as watcher, watcher.stream("GET", url) as answer:
        assert answer.status_code == 200
        async for chunk in answer.aiter_raw():
            if b'"progress"' in chunk:
                break
    assert (await node.herd.job(job.id)).status == "running"
    await owner.hang_up()
    assert (await node.job_tagged("owned", "cancelled")).id == job.id


@pytest.mark.slow
async def test_an_image_that_is_drawn_when_the_node_ends_is_drawn_when_it_is_back(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("ending")
    async with serve(folder) as node:
        body = {"model": IMAGE, "prompt": "x", "steps": 6, "metadata": {"tags": ["survivor"]}}
        connection = await node.open("/api/generate-image", body)
        await node.job_tagged("survivor", "running")
    await connection.hang_up()
    async with serve(folder) as node:
        job = await node.job_tagged("survivor", "completed")
        assert not job.disconnected
        assert job.result is not None
        assert job.result.kind == "image"
        assert (await node.http.get(f"/images/{job.result.image_id}")).status_code == 200
