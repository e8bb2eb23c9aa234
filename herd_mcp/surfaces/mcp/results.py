"""What tools answer: the structured outputs, and the text, thumbnail, link and path that go with them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Literal

from mcp_types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent
from pydantic import BaseModel, Field

from herd_mcp.explain import story
from herd_mcp.jobs import (
    Attempt,
    ChatResult,
    ErrorInfo,
    HerdError,
    ImageResult,
    Job,
    Kind,
    NodeEstimate,
    Result,
    Timings,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    from herd_mcp.herd import Herd

ERROR_META = "herd-mcp/error"
"""Key of the error's data in a result's `_meta`."""


class Answer(BaseModel):
    """What every tool's structured output has. Failed calls have `error` and nothing else."""

    error: ErrorInfo | None = Field(None, description="Why the call or the job failed: code, message, hint, details.")


class Placement(BaseModel):
    """Where a job ran, and what decided it. Told where there was a choice, or more than one attempt."""

    why: str = Field("", description="For people.")
    estimates: tuple[NodeEstimate, ...] = Field((), description="Seconds per node, as estimated when it was placed.")
    attempts: tuple[Attempt, ...] = ()


class ImageAnswer(Answer):
    status: Literal["completed", "running", "failed"]
    job_id: str | None = None
    progress: str | None = Field(None, description="How far a running job is.")
    image_id: str | None = None
    uri: str | None = Field(None, description="Resource with the full PNG.")
    path: str | None = Field(None, description="File with the full PNG, told to local clients only.")
    model: str | None = None
    node: str | None = Field(None, description="The Mac that made it.")
    width: int | None = Field(None, description="Pixels.")
    height: int | None = Field(None, description="Pixels.")
    steps: int | None = None
    seed: int | None = Field(None, description="The same seed, prompt and settings give the same image.")
    guidance: float | None = None
    quantize: int | None = Field(None, description="Bits per weight.")
    limited_by: str | None = Field(None, description="Why it has fewer steps than were asked for.")
    bytes: int | None = Field(None, description="Size of the PNG.")
    placement: Placement | None = Field(None, description="Why it ran there, in a herd of several Macs.")
    timings: Timings | None = Field(None, description="Seconds per phase and steps per second.")


class ChatAnswer(Answer):
    status: Literal["completed", "running", "failed"]
    job_id: str | None = None
    progress: str | None = Field(None, description="How far a running job is.")
    text: str | None = None
    reasoning: str | None = Field(None, description="What the model thought before it answered.")
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    limited_by: str | None = Field(None, description="Why the answer was cut before the length that was asked for.")
    usage: Usage | None = Field(None, description="Tokens of prompt, prompt cache and answer.")
    model: str | None = None
    node: str | None = Field(None, description="The Mac that answered.")
    placement: Placement | None = Field(None, description="Why it ran there, in a herd of several Macs.")
    timings: Timings | None = Field(None, description="Seconds per phase and tokens per second.")


class JobAnswer(Answer):
    status: Literal["queued", "loading", "running", "completed", "failed", "cancelled"]
    job_id: str | None = None
    kind: Kind | None = None
    model: str | None = None
    tags: tuple[str, ...] = ()
    progress: str | None = Field(None, description="How far a running job is.")
    node: str | None = Field(None, description="The Mac that runs it, or ran it last.")
    placement: Placement | None = Field(None, description="Why it runs there, in a herd of several Macs.")
    created_at: float | None = Field(None, description="Unix seconds.")
    started_at: float | None = None
    finished_at: float | None = None
    image: ImageAnswer | None = Field(None, description="The outcome of a completed image job.")
    chat: ChatAnswer | None = Field(None, description="The outcome of a completed chat job.")


def image_uri(image_id: str) -> str:
    """The resource with the full PNG."""
    return f"herd://images/{image_id}"


def job_uri(job_id: str) -> str:
    """The resource that tells how a job is."""
    return f"herd://jobs/{job_id}"


def answer(structured: BaseModel, *content: ContentBlock | str) -> CallToolResult:
    """A result from its structured form (its own fields that are None left out) and what a model reads."""
    data = structured.model_dump(mode="json")
    return CallToolResult(
        content=[TextContent(text=part) if isinstance(part, str) else part for part in content],
        structured_content={name: value for name, value in data.items() if value is not None},
    )


def failed(error: HerdError) -> CallToolResult:
    """The one translation of a HerdError into MCP: text for the model, data in `_meta` and the structured output."""
    data = error.info.model_dump(mode="json")
    return CallToolResult(
        content=[TextContent(text=error.info.sentence)],
        structured_content={"status": "failed", "error": data},
        is_error=True,
        _meta={ERROR_META: data},
    )


def progress_of(job: Job) -> str:
    """How far a job is, in a few words."""
    if job.status == "running" and job.progress is not None and job.progress.steps:
        return f"step {job.progress.step} of {job.progress.steps}"
    return job.status


def placement_of(job: Job, here: str) -> Placement | None:
    """Why a job runs where it runs, for who reads it on the node `here`; None where there is nothing to tell."""
    estimates = job.routed.estimates if job.routed else ()
    if len(estimates) < 2 and len(job.attempts) < 2:
        return None
    return Placement(why=story(job, here), estimates=estimates, attempts=job.attempts)


def image_answer(job_id: str, result: ImageResult, placement: Placement | None = None, *, local: bool) -> ImageAnswer:
    """The structured form of a finished image. The path is for clients on this Mac only."""
    fields = result.model_dump(exclude={"kind", "sha256", "path"}) | {"limited_by": result.limited_by or None}
    path = result.path if local and result.path else None
    uri = image_uri(result.image_id)
    return ImageAnswer(status="completed", job_id=job_id, uri=uri, path=path, placement=placement, **fields)


def chat_answer(job_id: str, result: ChatResult, placement: Placement | None = None) -> ChatAnswer:
    """The structured form of a finished chat."""
    fields = result.model_dump(exclude={"kind"}) | {"limited_by": result.limited_by or None}
    return ChatAnswer(status="completed", job_id=job_id, placement=placement, **fields)


def chat_text(result: ChatResult) -> str:
    """What a model reads of a chat's outcome."""
    calls = [f"Tool call {call.name}({call.arguments})" for call in result.tool_calls]
    cut = [f"[{result.limited_by or 'The answer was cut at max_tokens'}.]"] if result.finish_reason == "length" else []
    return "\n".join(part for part in (result.text, *calls, *cut) if part)


def image_text(result: ImageResult, *, local: bool) -> str:
    """What a model reads of an image's outcome."""
    took = result.timings.total_s
    where = f"File: {result.path}" if local and result.path else f"Full size: resource {image_uri(result.image_id)}"
    cut = f"[{result.limited_by}.]\n" if result.limited_by else ""
    return (
        f"Image {result.image_id}: {result.width}×{result.height} px by {result.model} on {result.node}"
        f"{f' in {took:.1f} s' if took is not None else ''}, {result.steps} steps, seed {result.seed}.\n{cut}{where}"
    )


async def image_content(herd: Herd, result: ImageResult, *, local: bool, why: str = "") -> list[ContentBlock | str]:
    """Text with `why` it ran there, one JPEG thumbnail (at most 512 px and 64 KB) and the link to the full PNG."""
    content: list[ContentBlock | str] = [f"{image_text(result, local=local)}\n{why}".strip()]
    try:
        thumbnail = await herd.thumbnail(result.image_id)
    except HerdError as error:  # the picture was taken away by hand: the facts are still worth telling
        content.append(f"(No thumbnail: {error.info.message})")
    else:
        content.append(ImageContent(data=base64.b64encode(thumbnail).decode(), mime_type="image/jpeg"))
    content.append(
        ResourceLink(
            uri=image_uri(result.image_id), name=f"{result.image_id}.png", mime_type="image/png", size=result.bytes
        )
    )
    return content


async def of_call(herd: Herd, job: Job, result: Result | None, *, local: bool = False) -> CallToolResult:
    """What generate_image and chat answer: the result with where it ran and why, or that the job goes on."""
    placement = placement_of(job, herd.node_id)
    match result:
        case ImageResult():
            content = await image_content(herd, result, local=local, why=placement.why if placement else "")
            return answer(image_answer(job.id, result, placement, local=local), *content)
        case ChatResult():
            return answer(chat_answer(job.id, result, placement), chat_text(result))
        case None:
            return _still_running(job)


def _still_running(job: Job) -> CallToolResult:
    progress = progress_of(job)
    structured = (ImageAnswer if job.kind == "image" else ChatAnswer)(
        status="running", job_id=job.id, progress=progress
    )
    return answer(
        structured,
        f"Not finished yet ({progress}); the job goes on. Call get_job with job_id {job.id!r} and wait_s to wait for "
        "the result, or cancel_job to end it. Do not ask for the same thing again.",
    )


def without_paths(value: BaseModel, *, local: bool) -> dict[str, Any]:
    """A job or model as JSON data: no pictures inside, and no paths of this Mac for clients that come over HTTP."""
    data = value.model_dump(mode="json", exclude={"request": {"image"}})
    if not local:
        data.pop("path", None)
        if isinstance(data.get("result"), dict):
            data["result"].pop("path", None)
    return data
