"""The node's own API."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from herd_mcp.jobs import JOB_EVENT, ChatRequest, ImageRequest, Job, Message
from herd_mcp.state import ImageStats, ModelInfo
from herd_mcp.surfaces.native import Status

from .http_node import CHAT, IMAGE, LIMIT_S, NEVER_ENDS, TOKEN, HttpNode, events_of, serve


@pytest.fixture
async def native(node: HttpNode) -> AsyncIterator[httpx.AsyncClient]:
    base = f"http://127.0.0.1:{node.port}/herd/api"
    async with httpx.AsyncClient(base_url=base, timeout=LIMIT_S, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        yield http


async def run(native: httpx.AsyncClient, request: ChatRequest | ImageRequest) -> list[Any]:
    answer = await native.post("/jobs", content=request.model_dump_json())
    assert answer.status_code == 200, answer.text
    return [JOB_EVENT.validate_python(event) for event in events_of(answer.content)]


async def test_a_job_is_run_followed_and_found_again(native: httpx.AsyncClient) -> None:
    events = await run(native, ImageRequest(prompt="a fox", model=IMAGE, steps=2, tags=("native",)))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].type == "completed"
    assert events[-1].result.path.endswith(".png")  # the holder of the token may know
    job_id = events[0].job_id
    job = Job.model_validate((await native.get(f"/jobs/{job_id}")).json())
    assert (job.status, job.client, job.tags) == ("completed", "cli", ("native",))
    listed = [Job.model_validate(entry) for entry in (await native.get("/jobs", params={"limit": 1})).json()]
    assert listed == [job]
    failed = (await native.get("/jobs", params={"status": "failed"})).json()
    assert job_id not in [entry["id"] for entry in failed]
    again = events_of((await native.get(f"/jobs/{job_id}/events")).content)
    assert [JOB_EVENT.validate_python(event) for event in again] == events
    late = events_of((await native.get(f"/jobs/{job_id}/events", params={"after_seq": len(events) - 1})).content)
    assert [event["type"] for event in late] == ["completed"]


async def test_a_pause_is_told_until_it_is_resumed_and_jobs_from_here_are_run(native: httpx.AsyncClient) -> None:
    paused = (await native.post("/pause", json={"for_s": 3600})).json()["paused"]
    assert "until" in paused
    told = Status.model_validate((await native.get("/status")).json())
    assert told.nodes[0].paused == paused
    events = await run(native, ImageRequest(prompt="a fox", model=IMAGE, steps=2))
    assert events[-1].type == "completed"
    assert (await native.post("/pause", json={})).json()["paused"] == "its owner paused it"
    assert (await native.post("/resume")).json()["paused"] == ""
    for wrong in ({"for_s": 0}, {"for_s": -5}, {"for_s": 1e12}, {"for_s": "NaN"}, {"hours": 2}):
        assert (await native.post("/pause", json=wrong)).status_code in (400, 422), wrong


async def test_a_failing_job_ends_its_stream_with_what_went_wrong(native: httpx.AsyncClient) -> None:
    events = await run(native, ChatRequest(messages=(Message(role="user", content="x" * 20_000),)))
    assert (events[-1].type, events[-1].error.code) == ("failed", "invalid_request")


async def test_a_job_can_be_cancelled_by_another_caller(node: HttpNode, native: httpx.AsyncClient) -> None:
    body = {"kind": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4000}
    body |= {"sampling": {"logit_bias": NEVER_ENDS}, "tags": ["to-cancel"]}
    connection = await node.open("/herd/api/jobs", body, f"Authorization: Bearer {TOKEN}")
    await connection.reader.readuntil(b'"delta"')
    job = await node.job_tagged("to-cancel")
    cancelled = await native.delete(f"/jobs/{job.id}")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert b'"type":"cancelled"' in await connection.reader.readuntil(b'"cancelled"}')
    await connection.hang_up()
    assert not (await node.herd.job(job.id)).disconnected
    assert (await native.delete(f"/jobs/{job.id}")).json()["status"] == "cancelled"


async def test_a_cancelled_job_is_no_success_in_the_other_dialects(node: HttpNode, native: httpx.AsyncClient) -> None:
    import asyncio

    body = {"max_tokens": 4000, "logit_bias": NEVER_ENDS, "metadata": {"tags": ["taken-away"]}}
    asking = asyncio.create_task(node.chat(**body))
    job = await node.job_tagged("taken-away", "running", "queued", "loading", unless=asking)
    await native.delete(f"/jobs/{job.id}")
    answer = await asking
    assert (answer.status_code, answer.json()["error"]["code"]) == (499, "cancelled")


async def test_models_status_and_statistics_are_those_of_the_node(native: httpx.AsyncClient) -> None:
    models = [ModelInfo.model_validate(entry) for entry in (await native.get("/models")).json()]
    assert {CHAT, IMAGE} <= {model.name for model in models}
    status = Status.model_validate((await native.get("/status")).json())
    assert [node.name for node in status.nodes] == ["tester"]
    ImageStats.model_validate((await native.get("/stats")).json())


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff", b'{"kind": "video"}', b'{"kind": "image", "prompt": "x", "surprise": 1}'],
)
async def test_a_request_that_is_none_is_refused_with_the_errors_own_shape(
    native: httpx.AsyncClient, body: bytes
) -> None:
    answer = await native.post("/jobs", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/jobs/job-1", 404, "job_not_found"),
        ("GET", "/jobs/job-1/events", 404, "job_not_found"),
        ("DELETE", "/jobs/job-1", 404, "job_not_found"),
        ("GET", "/jobs?limit=0", 400, "invalid_request"),
        ("GET", "/jobs?limit=many", 400, "invalid_request"),
        ("GET", "/jobs?status=odd", 400, "invalid_request"),
        ("GET", "/jobs/job-1/events?after_seq=-1", 400, "invalid_request"),
    ],
)
async def test_what_is_not_there_or_makes_no_sense_is_said(
    native: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await native.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_stop_asks_the_node_to_end_and_answers_at_once(node: HttpNode, native: httpx.AsyncClient) -> None:
    assert (await native.post("/stop")).status_code == 202
    assert node.stops == ["stop"]


async def test_a_node_that_drains_says_so_and_takes_no_jobs(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with serve(tmp_path_factory.mktemp("draining")) as node:
        healthy = await node.http.get("/healthz")
        assert (healthy.status_code, healthy.json()["status"], healthy.json()["node"]) == (200, "ok", "tester")
        await node.herd.drain(1)
        draining = await node.http.get("/healthz")
        assert (draining.status_code, draining.json()["status"]) == (503, "draining")
        for answer in (await node.image(), await node.chat(), await node.chat(stream=True)):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
