"""Helpers of these tests: the SDK's own client against a herd, and what it is told meanwhile."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mcp.client import Client
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, ImageContent, ResourceLink, TextContent
from PIL import Image

from herd_mcp.surfaces.mcp.server import make_mcp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from herd_mcp.herd import Herd

SMALL = {"prompt": "a red hill", "model": "herd-tiny-image", "width": 64, "height": 64, "steps": 2}
LONG = {**SMALL, "width": 128, "height": 128, "steps": 200}
TALK = {"prompt": "hello", "model": "herd-tiny-chat", "max_tokens": 8}

TOOLS = {"generate_image", "chat", "list_models", "fleet_health", "pull_model", "get_job", "cancel_job"}
MODES = ("auto", "legacy")


class Told:
    """The progress that a client was told during one call."""

    def __init__(self) -> None:
        self.numbers: list[float] = []
        self.messages: list[str] = []
        self.times: list[float] = []

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.numbers.append(progress)
        self.messages.append(message or "")
        self.times.append(asyncio.get_running_loop().time())

    @property
    def rises(self) -> bool:
        return all(one < two for one, two in zip(self.numbers, self.numbers[1:], strict=False))


@asynccontextmanager
async def connected(herd: Herd, mode: str = "auto", *, local: bool = True, **options: Any) -> AsyncIterator[Client]:
    """A client of the server in this process."""
    async with Client(make_mcp(herd, local=local), mode=mode, **options) as client:
        yield client


def answering(action: str, *, confirm: bool = True, asked: list[str] | None = None) -> Callable[..., Any]:
    """What a person with a form does: `accept` with the box as given, `decline` or `cancel`."""

    async def answer(context: Any, params: ElicitRequestParams) -> ElicitResult:
        if asked is not None:
            asked.append(params.message)
        return ElicitResult(action=action, content={"confirm": confirm} if action == "accept" else None)

    return answer


def text_of(result: CallToolResult) -> str:
    """All that a model reads."""
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))


def data_of(result: CallToolResult) -> dict[str, Any]:
    """The structured output of a call that went well."""
    assert not result.is_error, text_of(result)
    assert isinstance(result.structured_content, dict)
    return result.structured_content


def error_of(result: CallToolResult) -> dict[str, Any]:
    """The error of a call that failed; the same in the structured output and in `_meta`."""
    assert result.is_error, result
    error = result.structured_content["error"]
    assert result.meta is not None
    assert result.meta["herd-mcp/error"] == error
    assert error["message"] in text_of(result)
    assert error["hint"] in text_of(result)
    return dict(error)


def thumbnail_of(result: CallToolResult) -> bytes:
    """The one picture inline."""
    (picture,) = [part for part in result.content if isinstance(part, ImageContent)]
    assert picture.mime_type == "image/jpeg"
    return base64.b64decode(picture.data)


def link_of(result: CallToolResult) -> ResourceLink:
    """The one link."""
    (link,) = [part for part in result.content if isinstance(part, ResourceLink)]
    return link


def picture(size: tuple[int, int] = (64, 64), kind: str = "PNG") -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", size, (200, 40, 40)).save(out, kind)
    return out.getvalue()


async def use_everything(client: Client) -> dict[str, Any]:
    """Every tool and every resource once, over whatever transport; returns the structured output of an image."""
    assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
    told = Told()
    made = await client.call_tool("generate_image", SMALL, progress_callback=told)
    image = data_of(made)
    thumbnail_of(made)
    assert link_of(made).uri == image["uri"]
    assert told.rises
    assert any("step 2" in message for message in told.messages)
    chat = data_of(await client.call_tool("chat", TALK))
    assert chat["status"] == "completed"
    for name in ("list_models", "fleet_health"):
        data_of(await client.call_tool(name, {}))
    for name, job_id in (("get_job", image["job_id"]), ("cancel_job", chat["job_id"])):
        assert data_of(await client.call_tool(name, {"job_id": job_id}))["status"] == "completed"
    assert data_of(await client.call_tool("pull_model", {"model": "dev"}))["status"] == "confirmation_required"
    assert error_of(await client.call_tool("chat", {**TALK, "modle": "x"}))["code"] == "invalid_request"
    for uri in (
        "herd://images/stats",
        "herd://fleet/health",
        "herd://models",
        image["uri"],
        f"herd://jobs/{chat['job_id']}",
        f"herd://fleet/nodes/{chat['node']}",
    ):
        assert (await client.read_resource(uri)).contents
    return image
