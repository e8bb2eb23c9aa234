"""Every tool, through the SDK's client in both eras of the protocol, with real engines."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from herd_mcp.herd import Herd
from herd_mcp.jobs import ChatRequest, ImageRequest
from herd_mcp.surfaces.mcp import follow
from herd_mcp.surfaces.mcp.server import INSTRUCTIONS
from tests.conftest import until
from tests.surfaces.mcp.clients import (
    LONG,
    MODES,
    SMALL,
    TALK,
    TOOLS,
    Told,
    connected,
    data_of,
    error_of,
    link_of,
    picture,
    text_of,
    thumbnail_of,
)


async def test_tools_describe_themselves_within_what_clients_show(warm: Herd) -> None:
    async with connected(warm) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert client.instructions == INSTRUCTIONS
    assert set(tools) == TOOLS
    assert len(INSTRUCTIONS.encode()) <= 2048
    for tool in tools.values():
        assert tool.description is not None
        assert len(tool.description.encode()) <= 2048
        assert tool.input_schema["additionalProperties"] is False
        assert all(argument.get("description") for argument in tool.input_schema["properties"].values())
        assert tool.output_schema is not None
        assert tool.annotations is not None
        assert tool.annotations.open_world_hint is (tool.name == "pull_model")
    assert {name for name, tool in tools.items() if "tags" in tool.input_schema["properties"]} == {
        "generate_image",
        "chat",
    }


async def test_the_limits_that_tools_tell_are_those_of_the_vocabulary(warm: Herd) -> None:
    def limits(schema: dict[str, object]) -> set[tuple[str, object]]:
        shapes = [schema, *schema.get("anyOf", [])]  # type: ignore[misc]
        names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "maxLength", "minLength", "maxItems")
        return {(name, shape[name]) for shape in shapes for name in names if name in shape}

    async with connected(warm) as client:
        tools = {tool.name: tool.input_schema["properties"] for tool in (await client.list_tools()).tools}
    image = ImageRequest.model_json_schema()["properties"]
    for name in ("prompt", "width", "height", "steps", "guidance", "seed", "negative_prompt", "image_strength"):
        assert limits(tools["generate_image"][name]) == limits(image[name]), name
    assert tools["generate_image"]["quantize"]["anyOf"][0]["enum"] == image["quantize"]["anyOf"][0]["enum"]
    chat = ChatRequest.model_json_schema()
    for name in ("max_tokens", "messages", "tools", "stop", "tags"):
        assert limits(tools["chat"][name]) == limits(chat["properties"][name]), name
    for name in ("temperature", "top_p", "seed"):
        assert limits(tools["chat"][name]) == limits(chat["$defs"]["Sampling"]["properties"][name]), name


@pytest.mark.parametrize("mode", MODES)
async def test_every_tool_answers_in_both_eras(herd: Herd, mode: str) -> None:
    async with connected(herd, mode) as client:

        async def call(name: str, arguments: dict[str, object], told: Told | None = None) -> dict[str, object]:
            return data_of(await client.call_tool(name, arguments, progress_callback=told))  # checks the output schema

        models = await call("list_models", {"kind": "image"})
        assert [model["name"] for model in models["models"]] == ["herd-tiny-image"]  # type: ignore[attr-defined]
        talk, draw = Told(), Told()
        chat = await call("chat", {**TALK, "tags": ["both"]}, talk)
        assert (chat["status"], chat["model"], chat["node"]) == ("completed", "herd-tiny-chat", herd.node_name)
        assert chat["usage"]["completion_tokens"] > 0  # type: ignore[index]
        image = await call("generate_image", {**SMALL, "tags": ["both"]}, draw)
        assert (image["status"], image["width"], image["steps"]) == ("completed", 64, 2)
        for told in (talk, draw):
            assert told.rises
            assert any("loading" in message for message in told.messages)
        assert any("step 2" in message for message in draw.messages)
        job = await call("get_job", {"job_id": image["job_id"]})
        assert (job["status"], job["tags"]) == ("completed", ["both"])
        assert job["image"]["seed"] == image["seed"]  # type: ignore[index]
        same = await call("cancel_job", {"job_id": chat["job_id"]})
        assert same["status"] == "completed"
        assert same["chat"]["text"] == chat["text"]  # type: ignore[index]
        health = await call("fleet_health", {})
        assert health["vitals"]["total_requests_24h"] == 2  # type: ignore[index]
        assert {engine["model"] for engine in health["nodes"][0]["engines"]} == {"herd-tiny-chat", "herd-tiny-image"}  # type: ignore[index]
        pull = await call("pull_model", {"model": "z-image-turbo"})
        assert pull["status"] == "confirmation_required"


async def test_an_image_comes_as_one_small_thumbnail_a_link_and_a_path(warm: Herd) -> None:
    async with connected(warm) as client:
        result = await client.call_tool("generate_image", {**SMALL, "width": 128, "height": 79, "steps": 1})
        data = data_of(result)
        thumbnail = thumbnail_of(result)
        assert len(thumbnail) <= 64 * 1024
        with Image.open(io.BytesIO(thumbnail)) as small:
            assert small.size == (128, 64)
        path = Path(data["path"])
        assert str(path) in text_of(result)
        link = link_of(result)
        assert (link.uri, link.mime_type, link.size) == (data["uri"], "image/png", path.stat().st_size)
        full = (await client.read_resource(link.uri)).contents[0]
        assert base64.b64decode(full.blob) == path.read_bytes()  # type: ignore[union-attr]
        with Image.open(path) as whole:
            assert whole.size == (128, 64)


async def test_an_image_that_was_taken_away_by_hand_is_still_told_of(warm: Herd) -> None:
    async with connected(warm) as client:
        made = data_of(await client.call_tool("generate_image", SMALL))
        Path(made["path"]).unlink()
        result = await client.call_tool("get_job", {"job_id": made["job_id"]})
        assert data_of(result)["image"]["seed"] == made["seed"]
        assert "No thumbnail" in text_of(result)


async def test_over_http_no_path_is_told_and_none_is_taken(warm: Herd, tmp_path: Path) -> None:
    (tmp_path / "start.png").write_bytes(picture())
    before = await warm.jobs()
    async with connected(warm, local=False) as client:
        refused = await client.call_tool("generate_image", {**SMALL, "image": str(tmp_path / "start.png")})
        assert error_of(refused)["code"] == "forbidden"
        assert await warm.jobs() == before
        result = await client.call_tool("generate_image", SMALL)
        made = data_of(result)
        told = [
            result.model_dump_json(),
            (await client.call_tool("get_job", {"job_id": made["job_id"]})).model_dump_json(),
            (await client.call_tool("list_models", {})).model_dump_json(),
            (await client.read_resource(f"herd://jobs/{made['job_id']}")).model_dump_json(),
            (await client.read_resource("herd://models")).model_dump_json(),
            (await client.read_resource("herd://images/stats")).model_dump_json(),
        ]
    assert "path" not in made
    home = str(warm.image_path(made["uri"].rpartition("/")[2]).parent.parent)
    assert not [text for text in told if home in text or "/builtin/" in text]


async def test_a_picture_to_start_from_comes_as_link_data_or_file(warm: Herd, tmp_path: Path) -> None:
    file = tmp_path / "ä start.jpg"
    file.write_bytes(picture(kind="JPEG"))
    async with connected(warm) as client:
        first = data_of(await client.call_tool("generate_image", {**SMALL, "seed": 1}))
        seen = set()
        for image in (
            first["uri"],
            "data:image/png;base64," + base64.b64encode(picture()).decode(),
            base64.b64encode(picture(kind="WEBP")).decode(),
            str(file),
            file.as_uri(),
        ):
            made = data_of(
                await client.call_tool("generate_image", {**SMALL, "seed": 1, "image": image, "image_strength": 0.6})
            )
            seen.add(Path(made["path"]).read_bytes())
        assert Path(first["path"]).read_bytes() not in seen
        assert len(seen) >= 3


async def test_at_the_deadline_the_answer_is_running_and_the_job_goes_on(warm: Herd) -> None:
    async with connected(warm) as client:
        result = await client.call_tool("generate_image", {**SMALL, "wait_s": 0})
        data = data_of(result)
        assert data["status"] == "running"
        assert data["job_id"] in text_of(result)
        later = await client.call_tool("get_job", {"job_id": data["job_id"], "wait_s": 60})
        assert data_of(later)["status"] == "completed"
        assert data_of(later)["image"]["path"].endswith(".png")
        thumbnail_of(later)


async def test_without_kept_answers_a_chat_is_waited_for_to_its_end(
    warm: Herd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "settings", warm.settings.model_copy(update={"chat_keep_s": 0.0}))
    async with connected(warm) as client:
        assert data_of(await client.call_tool("chat", {**TALK, "wait_s": 0}))["status"] == "completed"


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_that_is_cancelled_cancels_its_job(warm: Herd, mode: str) -> None:
    async with connected(warm, mode) as client:
        call = asyncio.create_task(client.call_tool("generate_image", LONG))

        async def has_begun() -> bool:
            return [job.status for job in await warm.jobs(limit=1)] == ["running"]

        await until(has_begun, "the job runs")
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

        async def is_cancelled() -> bool:
            return [job.status for job in await warm.jobs(limit=1)] == ["cancelled"]

        await until(is_cancelled, "the job is cancelled")
        assert data_of(await client.call_tool("generate_image", SMALL))["status"] == "completed"


async def test_waiting_for_a_job_and_giving_up_leaves_it_as_it_is(warm: Herd) -> None:
    async with connected(warm) as client:
        job_id = data_of(await client.call_tool("generate_image", {**LONG, "wait_s": 0}))["job_id"]
        look = asyncio.create_task(client.call_tool("get_job", {"job_id": job_id, "wait_s": 60}))
        await asyncio.sleep(0.1)
        look.cancel()
        await asyncio.gather(look, return_exceptions=True)
        assert (await warm.job(job_id)).status not in ("cancelled", "failed")
        ended = data_of(await client.call_tool("cancel_job", {"job_id": job_id}))
        assert ended["status"] == "cancelled"
        assert data_of(await client.call_tool("cancel_job", {"job_id": job_id}))["status"] == "cancelled"


async def test_a_job_that_somebody_else_cancels_ends_its_call_with_an_error(warm: Herd) -> None:
    before = await warm.jobs(limit=1)
    async with connected(warm) as client:
        call = asyncio.create_task(client.call_tool("generate_image", LONG))

        async def accepted() -> bool:
            return [job.id for job in await warm.jobs(limit=1)] != [job.id for job in before]

        await until(accepted, "the job is accepted")
        await warm.cancel((await warm.jobs())[0].id)
        assert error_of(await call)["code"] == "cancelled"


async def test_progress_is_told_while_a_job_waits_behind_another(warm: Herd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "BEAT_S", 0.05)
    async with connected(warm) as client:
        first = data_of(await client.call_tool("generate_image", {**LONG, "wait_s": 0}))["job_id"]
        told = Told()
        call = asyncio.create_task(client.call_tool("generate_image", SMALL, progress_callback=told))
        await until(
            lambda: len([one for one in told.messages if one.startswith("queued")]) > 10, "queued is told often"
        )
        assert told.rises
        assert not call.done()
        await warm.cancel(first)
        assert data_of(await call)["status"] == "completed"
        assert told.rises


def test_the_longest_silence_is_below_five_seconds() -> None:
    assert follow.BEAT_S < 5


async def test_chat_takes_a_conversation_and_tells_tool_calls_apart(warm: Herd) -> None:
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the weather?"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "1", "name": "weather", "arguments": '{"city": "Bern"}'}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]
    tools = [{"name": "weather", "description": "Tells it.", "parameters": {"type": "object", "properties": {}}}]
    async with connected(warm) as client:
        arguments = {"messages": conversation, "tools": tools, "max_tokens": 4, "temperature": 0, "seed": 7}
        one = data_of(await client.call_tool("chat", arguments))
        two = data_of(await client.call_tool("chat", {**arguments, "stop": ["\n"], "top_p": 0.9, "reasoning": False}))
    assert one["status"] == two["status"] == "completed"
    assert one["usage"]["completion_tokens"] <= 4
