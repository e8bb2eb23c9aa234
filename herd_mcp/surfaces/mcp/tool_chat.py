"""chat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import CallToolResult
from pydantic import Field

from herd_mcp.jobs import (
    MAX_MESSAGES,
    MAX_STOP_STRINGS,
    MAX_TOOLS,
    ChatRequest,
    ErrorCode,
    HerdError,
    Message,
    Text,
    Tool,
    parse_request,
)
from herd_mcp.surfaces.mcp import follow, results
from herd_mcp.surfaces.mcp.fields import Tags, WaitS, given, hints
from herd_mcp.surfaces.mcp.results import ChatAnswer

if TYPE_CHECKING:
    from herd_mcp.herd import Herd

DESCRIPTION = """\
Ask a chat model that runs on the Macs of this herd (mlx-lm, no cloud): for a second opinion, for work on text that \
must not leave the house, or for many small tasks. Pass `prompt` (and `system`), or `messages` for a whole \
conversation; nothing is remembered between calls. list_models shows the models.
If it is not finished within wait_s the answer has status "running" and a job_id for get_job."""


def add_chat_tool(mcp: MCPServer, herd: Herd) -> None:
    """Register chat."""

    async def chat(
        ctx: Context[Any, Any],
        prompt: Annotated[
            Text | None, Field(description="What the user says. Either this or messages.", min_length=1, pattern=r"\S")
        ] = None,
        system: Annotated[Text | None, Field(description="Instructions for the model.")] = None,
        messages: Annotated[
            list[Message] | None,
            Field(description="A whole conversation, oldest first.", min_length=1, max_length=MAX_MESSAGES),
        ] = None,
        model: Annotated[
            str | None, Field(description="A name from list_models; left out, the default chat model.", max_length=256)
        ] = None,
        max_tokens: Annotated[int | None, Field(description="Longest answer in tokens.", ge=1, le=1_000_000)] = None,
        temperature: Annotated[
            float | None, Field(description="0 is deterministic; left out, as the model says.", ge=0, le=10)
        ] = None,
        top_p: Annotated[float | None, Field(description="Nucleus sampling.", gt=0, le=1)] = None,
        seed: Annotated[int | None, Field(description="For answers that can be repeated.", ge=0, lt=2**64)] = None,
        stop: Annotated[
            list[str] | None, Field(description="Texts at which the answer ends.", max_length=MAX_STOP_STRINGS)
        ] = None,
        reasoning: Annotated[
            bool | None, Field(description="Whether a model that can think does so; left out, as the model likes.")
        ] = None,
        tools: Annotated[
            list[Tool] | None,
            Field(
                description="Functions the model may call; its calls are told, not carried out.", max_length=MAX_TOOLS
            ),
        ] = None,
        tags: Tags = None,
        wait_s: WaitS = None,
    ) -> Annotated[CallToolResult, ChatAnswer]:
        request = parse_request(
            ChatRequest,
            given(
                messages=conversation(prompt, system, messages),
                model=model,
                max_tokens=max_tokens,
                sampling=given(temperature=temperature, top_p=top_p, seed=seed),
                stop=stop,
                reasoning=reasoning,
                tools=tools,
                tags=tags,
            ),
        )
        job, result = await follow.run(herd, request, ctx, wait_s)
        return await results.of_call(herd, job, result)

    mcp.add_tool(
        chat,
        title="Ask a local chat model",
        description=DESCRIPTION,
        annotations=hints(read_only=True),
    )


def conversation(prompt: str | None, system: str | None, messages: list[Message] | None) -> list[Message]:
    """The messages from the two ways to say them. Raises HerdError(invalid_request) for none or both."""
    if (prompt is None) == (messages is None):
        raise HerdError(
            ErrorCode.INVALID_REQUEST,
            "Pass either prompt or messages" + (", not both." if prompt is not None else "."),
            "prompt is one question; messages is a whole conversation.",
            details={"fields": ["prompt", "messages"]},
        )
    said = messages or [Message(role="user", content=prompt)]
    if system is None:
        return said
    if said[0].role in ("system", "developer"):
        raise HerdError(
            ErrorCode.INVALID_REQUEST,
            "There are two system messages: system, and the first of messages.",
            "Pass one of them.",
            details={"fields": ["system", "messages.0"]},
        )
    return [Message(role="system", content=system), *said]
