"""get_job and cancel_job."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import CallToolResult, ContentBlock
from pydantic import Field

from herd_mcp.jobs import ENDED, ChatResult, HerdError, ImageResult, Job
from herd_mcp.surfaces.mcp import follow, results
from herd_mcp.surfaces.mcp.fields import JobId, hints
from herd_mcp.surfaces.mcp.results import JobAnswer

if TYPE_CHECKING:
    from herd_mcp.herd import Herd

GET = """\
How a job is, and its result when it is finished: for a job_id that generate_image or chat told with status \
"running". With wait_s it waits for the end, at most so long."""

CANCEL = """\
End a job that is waiting or running. What it has done so far is lost; finished images and answers stay. Cancelling a \
job that has ended changes nothing."""


def add_job_tools(mcp: MCPServer, herd: Herd, *, local: bool) -> None:
    """Register get_job and cancel_job. `local`: the client runs on this Mac, so paths may be told."""

    async def get_job(
        ctx: Context[Any, Any],
        job_id: JobId,
        wait_s: Annotated[float, Field(description="Seconds to wait for the end; 0 looks once.", ge=0, le=3600)] = 0,
    ) -> Annotated[CallToolResult, JobAnswer]:
        job = await herd.job(job_id)
        if job.status not in ENDED and wait_s > 0:
            with contextlib.suppress(HerdError):  # how the job ended is this tool's answer, not an error of the call
                await follow.wait(herd, job_id, ctx, wait_s)
            job = await herd.job(job_id)
        return await describe(herd, job, local=local)

    async def cancel_job(job_id: JobId) -> Annotated[CallToolResult, JobAnswer]:
        return await describe(herd, await herd.cancel(job_id), local=local)

    mcp.add_tool(
        get_job,
        title="Look at a job",
        description=GET,
        annotations=hints(read_only=True, idempotent=True),
    )
    mcp.add_tool(
        cancel_job,
        title="Cancel a job",
        description=CANCEL,
        annotations=hints(destructive=True, idempotent=True),
    )


async def describe(herd: Herd, job: Job, *, local: bool) -> CallToolResult:
    """A job as a tool's answer: its state, and its outcome in the form of the tool that made it."""
    result = job.result
    placement = results.placement_of(job, herd.node_id)
    structured = JobAnswer(
        status=job.status,
        job_id=job.id,
        kind=job.kind,
        model=job.model or None,
        tags=job.tags,
        progress=None if job.status in ENDED else results.progress_of(job),
        node=job.attempts[-1].node if job.attempts else None,
        placement=placement,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        image=results.image_answer(job.id, result, local=local) if isinstance(result, ImageResult) else None,
        chat=results.chat_answer(job.id, result) if isinstance(result, ChatResult) else None,
        error=job.error,
    )
    told = f"Job {job.id} ({job.kind}): {results.progress_of(job)}. {placement.why if placement else ''}"
    content: list[ContentBlock | str] = [told.strip()]
    if isinstance(result, ImageResult):
        content += await results.image_content(herd, result, local=local)
    elif isinstance(result, ChatResult):
        content.append(results.chat_text(result))
    elif job.error is not None:
        content.append(job.error.sentence)
    elif job.kind == "chat" and job.status == "completed":
        content.append("Its answer is no longer kept (setting chat_keep_s).")
    return results.answer(structured, *content)
