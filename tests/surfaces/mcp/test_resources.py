"""Every resource in both eras, what is not there, and being told of changes."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, ResourceUpdatedNotification

from herd_mcp.herd import Herd
from herd_mcp.state import Change
from herd_mcp.surfaces.mcp import subscriptions
from herd_mcp.surfaces.mcp.server import make_mcp
from tests.conftest import until
from tests.surfaces.mcp.clients import MODES, SMALL, TALK, connected, data_of

# The SDK's client warns that the older way has gone in 2026; servers go on to serve older clients.
pytestmark = pytest.mark.filterwarnings("ignore:resources/:mcp.shared.exceptions.MCPDeprecationWarning")

FIXED = {"herd://images/stats", "herd://fleet/health", "herd://models"}
TEMPLATES = {"herd://images/{image_id}", "herd://jobs/{job_id}", "herd://fleet/nodes/{name}"}


async def read_json(client: Client, uri: str) -> Any:
    (content,) = (await client.read_resource(uri)).contents
    assert content.mime_type == "application/json"
    return json.loads(content.text)  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", MODES)
async def test_every_resource_can_be_read_in_both_eras(herd: Herd, mode: str) -> None:
    async with connected(herd, mode) as client:
        assert {resource.uri for resource in (await client.list_resources()).resources} == FIXED
        templates = (await client.list_resource_templates()).resource_templates
        assert {template.uri_template for template in templates} == TEMPLATES
        made = data_of(await client.call_tool("generate_image", {**SMALL, "tags": ["hills"]}))
        stats = await read_json(client, "herd://images/stats")
        assert (stats["total"], stats["by_tag"], stats["by_model"]) == (1, {"hills": 1}, {"herd-tiny-image": 1})
        job = await read_json(client, f"herd://jobs/{made['job_id']}")
        assert (job["status"], job["result"]["seed"]) == ("completed", made["seed"])
        (image,) = (await client.read_resource(made["uri"])).contents
        assert image.mime_type == "image/png"
        assert (await read_json(client, "herd://fleet/health"))["vitals"]["nodes_total"] == 1
        by_name = await read_json(client, f"herd://fleet/nodes/{herd.node_name}")
        by_id = await read_json(client, f"herd://fleet/nodes/{herd.node_id}")
        assert by_name["node_id"] == by_id["node_id"] == herd.node_id
        assert {model["name"] for model in await read_json(client, "herd://models")} == {
            "herd-tiny-chat",
            "herd-tiny-image",
        }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "uri",
    [
        "herd://images/img-0000000000-000000000000",
        "herd://images/..%2f..%2fherd.db",
        "herd://jobs/job-0-0",
        "herd://fleet/nodes/mars",
        "herd://nothing",
        "file:///etc/passwd",
    ],
)
async def test_what_is_not_there_is_a_protocol_error(warm: Herd, mode: str, uri: str) -> None:
    async with connected(warm, mode) as client:
        with pytest.raises(MCPError) as caught:
            await client.read_resource(uri)
    assert caught.value.error.code == INVALID_PARAMS
    assert caught.value.error.data == {"uri": uri}


async def test_a_picture_to_start_from_is_not_repeated_in_the_job(warm: Herd) -> None:
    async with connected(warm) as client:
        first = data_of(await client.call_tool("generate_image", SMALL))
        second = data_of(await client.call_tool("generate_image", {**SMALL, "image": first["uri"], "wait_s": 0}))
        assert "image" not in (await read_json(client, f"herd://jobs/{second['job_id']}"))["request"]


async def test_clients_of_2026_hear_of_changes_they_listen_to(warm: Herd) -> None:
    async with connected(warm) as client:
        heard = set()
        async with client.listen(resource_subscriptions=["herd://images/stats", "herd://fleet/health"]) as events:
            call = asyncio.create_task(client.call_tool("generate_image", SMALL))
            async with asyncio.timeout(60):
                async for event in events:
                    heard.add(event.uri)  # type: ignore[union-attr]
                    if len(heard) == 2:
                        break
            data_of(await call)
    assert heard == {"herd://images/stats", "herd://fleet/health"}


async def test_clients_of_2026_hear_of_one_job(warm: Herd) -> None:
    async with connected(warm) as client:
        job_id = data_of(await client.call_tool("generate_image", {**SMALL, "wait_s": 0}))["job_id"]
        async with client.listen(resource_subscriptions=[f"herd://jobs/{job_id}"]) as events, asyncio.timeout(60):
            async for event in events:
                assert event.uri == f"herd://jobs/{job_id}"  # type: ignore[union-attr]
                if (await read_json(client, event.uri))["status"] == "completed":  # type: ignore[union-attr]
                    break


class Heard:
    """The notifications of a client before 2026."""

    def __init__(self) -> None:
        self.uris: list[str] = []

    async def __call__(self, message: object) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            self.uris.append(str(message.params.uri))


async def test_older_clients_hear_of_what_they_subscribed_to_until_they_end_it(warm: Herd) -> None:
    heard = Heard()
    async with connected(warm, "legacy", message_handler=heard) as client:
        assert client.server_capabilities.resources is not None
        assert client.server_capabilities.resources.subscribe is True
        await client.subscribe_resource("herd://images/stats")
        data_of(await client.call_tool("generate_image", SMALL))
        await until(lambda: heard.uris == ["herd://images/stats"], "the change is heard")
        await client.subscribe_resource("herd://fleet/health")
        await client.unsubscribe_resource("herd://images/stats")
        data_of(await client.call_tool("generate_image", SMALL))
        await until(lambda: "herd://fleet/health" in heard.uris, "the other change is heard")
    assert heard.uris.count("herd://images/stats") == 1


async def test_two_older_clients_hear_each_of_their_own(herd: Herd) -> None:
    one, two = Heard(), Heard()
    mcp = make_mcp(herd, local=True)
    async with (
        Client(mcp, mode="legacy", message_handler=one) as first,
        Client(mcp, mode="legacy", message_handler=two) as second,
    ):
        await first.subscribe_resource("herd://models")
        await second.subscribe_resource("herd://fleet/health")
        herd._changes.tell(Change(kind="models"))
        herd._changes.tell(Change(kind="health"))
        await until(lambda: bool(one.uris and two.uris), "both hear")
    assert (one.uris, two.uris) == (["herd://models"], ["herd://fleet/health"])


async def test_what_never_changes_cannot_be_subscribed_to_and_the_number_is_bounded(
    warm: Herd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "MAX_URIS", 2)
    async with connected(warm, "legacy") as client:
        with pytest.raises(MCPError, match="nothing to subscribe to"):
            await client.subscribe_resource("herd://images/img-0000000000-000000000000")
        for number in (1, 2, 2):
            await client.subscribe_resource(f"herd://jobs/job-{number}")
        with pytest.raises(MCPError, match="2 subscriptions"):
            await client.subscribe_resource("herd://jobs/job-3")


async def test_a_client_that_has_gone_is_forgotten(herd: Herd, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[subscriptions.Subscriptions] = []

    class Kept(subscriptions.Subscriptions):
        def __init__(self, herd: Herd) -> None:
            super().__init__(herd)
            kept.append(self)

    monkeypatch.setattr("herd_mcp.surfaces.mcp.server.Subscriptions", Kept)
    async with connected(herd, "legacy") as client:
        await client.subscribe_resource("herd://images/stats")
        assert len(kept[0]._wanted) == 1
        assert kept[0]._task is not None
    gc.collect()
    assert len(kept[0]._wanted) == 0
    assert kept[0]._task is None


async def test_a_chat_tells_no_prompt_after_its_end(warm: Herd) -> None:
    async with connected(warm) as client:
        made = data_of(await client.call_tool("chat", {**TALK, "prompt": "my secret"}))
        assert "my secret" not in json.dumps(await read_json(client, f"herd://jobs/{made['job_id']}"))
