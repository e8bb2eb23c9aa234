"""The models over HTTP: what they need, whether there is room, loading and unloading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request

from herd_mcp.node.models import BUILTIN_FOLDER
from herd_mcp.settings import MIB
from herd_mcp.surfaces.calls import patient

from .http_node import CHAT, IMAGE, NEVER_ENDS, HttpNode, serve, until

NAMED = "org/tiny"
"""A model whose id has a slash: the built-in one under another name."""
BUDGET = 600 * MIB
"""For one chat model, or for one picture of 512 px: each takes more than half."""


@pytest.fixture(scope="module")
async def models(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpNode]:
    folder = tmp_path_factory.mktemp("models")
    place = folder / "herd" / "models" / "org"
    place.mkdir(parents=True)
    (place / "tiny").symlink_to(BUILTIN_FOLDER / CHAT)
    async with serve(folder, memory_budget_bytes=BUDGET, preload=(CHAT, "no-such-model")) as node:
        yield node


async def running(node: HttpNode) -> dict[str, str]:
    told = (await node.http.get("/api/models/running")).json()["models"]
    return {engine["model"]: engine["phase"] for engine in told}


async def loaded(node: HttpNode, *names: str) -> None:
    async def there() -> bool:
        told = await running(node)
        return all(told.get(name) == "ready" for name in names)

    await until(there)


async def test_what_preload_names_is_loaded_at_the_start_and_what_is_missing_is_told(models: HttpNode) -> None:
    await loaded(models, CHAT)
    advice = (await models.http.get("/dashboard/api/health")).json()["recommendations"]
    (missing,) = [each for each in advice if each["check_id"] == "preload_missing"]
    assert (missing["severity"], missing["data"]) == ("warning", {"model": "no-such-model"})


async def test_a_model_tells_what_it_needs_and_whether_there_is_room(models: HttpNode) -> None:
    await loaded(models, CHAT)
    told = {each["id"]: each for each in (await models.http.get("/api/models")).json()["models"]}
    assert told.keys() == {CHAT, IMAGE, NAMED}
    assert {name: each["can_load_now"] for name, each in told.items()} == dict.fromkeys(told, True)
    assert told[CHAT]["loaded"]
    assert told[NAMED]["reason"] == f"{CHAT} would be ended first"
    assert all(BUDGET > each["needs_bytes"] > BUDGET / 2 > each["bytes"] for each in told.values())
    assert {name for name, each in told.items() if each["recommended"]} == {NAMED, IMAGE}
    assert not [name for name, each in told.items() if "path" in each]
    listed = (await models.http.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert {each["id"]: each["needs_bytes"] for each in listed["data"]} == {
        n: m["needs_bytes"] for n, m in told.items()
    }
    assert all(each["object"] == "model" and each["owned_by"] for each in listed["data"])


@pytest.mark.parametrize("path", ["/api/models/org/tiny", "/api/models/org%2Ftiny", "/v1/models/org/tiny"])
async def test_an_id_may_have_a_slash(models: HttpNode, path: str) -> None:
    told = (await models.http.get(path)).json()
    assert (told["id"], told["kind"]) == (NAMED, "chat")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/models/x/y"),
        ("GET", "/v1/models/x/y"),
        ("POST", "/api/models/x/y/load"),
        ("POST", "/api/models/x/unload"),
    ],
)
async def test_a_model_that_is_not_here_is_not_found(models: HttpNode, method: str, path: str) -> None:
    answer = await models.http.request(method, path)
    assert answer.status_code == 404
    assert "There is no model 'x" in answer.text


async def test_loading_answers_when_it_is_loaded_and_unloading_when_it_is_gone(models: HttpNode) -> None:
    answer = await models.http.post(f"/api/models/{NAMED}/load")
    assert (answer.status_code, answer.json()["loaded"]) == (200, True)
    assert await running(models) == {NAMED: "ready"}  # the other was idle and made room
    assert (await models.http.post("/api/models/tiny/load")).status_code == 200  # an alias; it is there already
    (engine,) = (await models.http.get("/api/models/running")).json()["models"]
    assert engine["reserved_bytes"] > engine["resident_bytes"] > 0
    answer = await models.http.post(f"/api/models/{NAMED}/unload")
    assert (answer.status_code, answer.json()["loaded"]) == (200, False)
    assert await running(models) == {}
    assert (await models.http.post(f"/api/models/{NAMED}/unload")).status_code == 200  # there is nothing to do


async def test_who_does_not_wait_gets_202_and_finds_it_loaded_later(models: HttpNode) -> None:
    assert (await models.http.post(f"/api/models/{IMAGE}/load?wait=false")).status_code == 202
    await loaded(models, IMAGE)
    assert (await models.http.post(f"/api/models/{IMAGE}/load?wait=false")).status_code == 200
    await models.http.post(f"/api/models/{IMAGE}/unload")


@pytest.mark.parametrize("asked", ["quantize=4", "wait=false&bits=4"])
async def test_a_load_that_asks_for_what_it_cannot_get_is_refused_and_loads_nothing(
    models: HttpNode, asked: str
) -> None:
    await models.http.post(f"/api/models/{IMAGE}/unload")
    answer = await models.http.post(f"/api/models/{IMAGE}/load?{asked}")
    assert (answer.status_code, asked.split("&")[-1].split("=")[0] in answer.json()["error"]) == (400, True)
    assert IMAGE not in await running(models)


@pytest.mark.parametrize(
    ("headers", "waits"),
    [
        ([], True),
        ([b"wait=10"], True),
        ([b"wait=0"], False),
        ([b"return=minimal", b"handling=lenient, Wait = 0"], False),
        ([b"respond-async; foo=1"], False),
    ],
)
def test_the_preference_is_read_in_every_form(headers: list[bytes], waits: bool) -> None:
    scope = {"type": "http", "headers": [(b"prefer", value) for value in headers]}
    assert patient(Request(scope)) is waits


async def test_a_request_that_prefers_not_to_wait_is_told_to_come_back_and_the_model_loads(models: HttpNode) -> None:
    async def ask() -> httpx.Response:
        body = {"model": CHAT, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        return await models.http.post("/v1/chat/completions", json=body, headers={"Prefer": "wait=0"})

    await models.http.post(f"/api/models/{CHAT}/unload")
    before = await models.herd.jobs()
    refused = await ask()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")
    assert int(refused.headers["Retry-After"]) >= 1
    assert await models.herd.jobs() == before  # it was no job
    await loaded(models, CHAT)
    assert (await ask()).status_code == 200


async def test_an_image_that_prefers_not_to_wait_is_told_so_too(models: HttpNode) -> None:
    await models.http.post(f"/api/models/{IMAGE}/unload")
    body = {"model": IMAGE, "prompt": "a red fox", "steps": 1}
    refused = await models.http.post("/api/generate-image", json=body, headers={"Prefer": "wait=0"})
    assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)


async def test_what_is_in_use_is_neither_unloaded_nor_ended_for_another(models: HttpNode) -> None:
    await models.http.post(f"/api/models/{IMAGE}/unload")
    asking = asyncio.create_task(
        models.chat(model=CHAT, max_tokens=4000, logit_bias=NEVER_ENDS, metadata={"tags": ["long"]})
    )
    job = await models.job_tagged("long", "running", unless=asking)
    refused = await models.http.post(f"/api/models/{CHAT}/unload")
    assert (refused.status_code, "1 job runs or waits" in refused.text) == (409, True)
    short = await models.http.post(f"/api/models/{NAMED}/load")
    assert (short.status_code, int(short.headers["Retry-After"]) >= 1) == (503, True)
    assert " MiB of 600 MiB are free for models" in short.text
    told = (await models.http.get(f"/api/models/{NAMED}")).json()
    assert (told["can_load_now"], told["reason"].endswith(f"stays: {CHAT}")) == (False, True)
    assert CHAT in await running(models)
    await models.herd.cancel(job.id)
    await asking


async def test_a_model_that_never_fits_is_refused_with_the_numbers(tmp_path: Path) -> None:
    async with serve(tmp_path, memory_budget_bytes=MIB) as node:
        refused = await node.http.post(f"/api/models/{CHAT}/load")
        assert (refused.status_code, "0.0 GiB on this Mac" in refused.text) == (507, True)
        told = (await node.http.get(f"/api/models/{CHAT}")).json()
        assert (told["can_load_now"], told["recommended"]) == (False, False)


async def test_a_node_that_drains_loads_nothing(tmp_path: Path) -> None:
    async with serve(tmp_path) as node:
        await node.herd.drain(0)
        assert (await node.http.post(f"/api/models/{CHAT}/load")).status_code == 503
        assert await running(node) == {}
