"""The node's own API: /healthz for anybody, /herd/api/* for the holder of the token of run/node.json."""

from __future__ import annotations

import hmac
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import Field, TypeAdapter, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from herd_mcp.jobs import (
    ChatRequest,
    ErrorCode,
    ErrorInfo,
    Frozen,
    HerdError,
    ImageRequest,
    Job,
    JobStatus,
    Request,
    invalid_request,
)
from herd_mcp.state import MAX_PAUSE_S, FleetHealth, ImageStats, ModelInfo, NodeState
from herd_mcp.surfaces.bodies import read_bytes
from herd_mcp.surfaces.calls import Batches, Call, JobResponse, TheHerd
from herd_mcp.surfaces.sse import EventStream, frame

REQUEST: TypeAdapter[ChatRequest | ImageRequest] = TypeAdapter(Request)


class Nodes(Frozen):
    """What GET /herd/api/nodes answers. Engines are part of their node."""

    nodes: tuple[NodeState, ...]
    """The node that is asked first."""
    strangers: tuple[str, ...] = ()
    """Who was not let into the herd of late, and why."""


class Status(Nodes):
    """What GET /herd/api/status answers."""

    health: FleetHealth


async def authorized(request: HttpRequest) -> None:
    """Raises HerdError(unauthorized) without the token of this node."""
    given = request.headers.get("authorization", "").encode()
    wanted = f"Bearer {request.app.state.token}".encode()
    if not hmac.compare_digest(given, wanted):
        raise HerdError(
            ErrorCode.UNAUTHORIZED,
            "This needs the node's token.",
            "Send it as `Authorization: Bearer TOKEN`; it stands in run/node.json under HERD_HOME.",
        )


healthz_router = APIRouter()
router = APIRouter(prefix="/herd/api", dependencies=[Depends(authorized)])


@healthz_router.get("/healthz")
async def healthz(herd: TheHerd) -> Response:
    """200 while the node takes jobs, 503 while it drains."""
    body = {"status": "draining" if herd.draining else "ok", "node": herd.node_name, "version": herd.version}
    return JSONResponse(body, status_code=503 if herd.draining else 200)


@router.post("/jobs")
async def submit(request: HttpRequest, herd: TheHerd) -> Response:
    """Run a request (as JSON of ChatRequest or ImageRequest) and follow it; its caller's leaving cancels it."""
    try:
        asked = REQUEST.validate_json(await read_bytes(request))
    except ValidationError as error:
        raise invalid_request(error) from None
    call = Call(await herd.submit(asked, client="cli", stream=True))
    return JobResponse(herd, call, _follow(call))


@router.get("/jobs")
async def list_jobs(
    herd: TheHerd, limit: Annotated[int, Query(ge=1, le=1000)] = 50, status: JobStatus | None = None
) -> list[Job]:
    """Newest first."""
    return await herd.jobs(limit=limit, status=status)


@router.get("/jobs/{job_id}")
async def get_job(job_id: str, herd: TheHerd) -> Job:
    return await herd.job(job_id)


@router.get("/jobs/{job_id}/events")
async def job_events(job_id: str, herd: TheHerd, after_seq: Annotated[int, Query(ge=0)] = 0) -> Response:
    """Follow a job from its first event, or after `after_seq`, without owning it."""
    call = Call(await herd.job(job_id))
    return JobResponse(herd, call, _follow(call), follows=True, after_seq=after_seq)


@router.delete("/jobs/{job_id}")
async def cancel_job(job_id: str, herd: TheHerd) -> Job:
    """Cancel, and answer with the job after its end. An ended job stays as it is."""
    return await herd.cancel(job_id)


@router.get("/models")
async def models(herd: TheHerd) -> list[ModelInfo]:
    return await herd.models()


@router.get("/status")
async def node_status(herd: TheHerd) -> Status:
    health = await herd.health()
    return Status(nodes=tuple(await herd.nodes()), strangers=tuple(herd.strangers), health=health)


@router.get("/nodes")
async def nodes(herd: TheHerd) -> Nodes:
    """The nodes as they are known here: no other node is asked for it."""
    return Nodes(nodes=tuple(await herd.nodes()), strangers=tuple(herd.strangers))


@router.get("/stats")
async def stats(herd: TheHerd) -> ImageStats:
    return await herd.stats()


class PauseAsked(Frozen):
    """How long this Mac shall do nothing for others."""

    for_s: Annotated[float, Field(gt=0, le=MAX_PAUSE_S)] | None = None
    """Seconds; None is until it is resumed."""


@router.post("/pause")
async def pause(asked: PauseAsked, herd: TheHerd) -> NodeState:
    """Do nothing for other nodes."""
    return await herd.pause(asked.for_s)


@router.post("/resume")
async def resume(herd: TheHerd) -> NodeState:
    """End the pause by hand."""
    return await herd.resume()


@router.post("/stop", status_code=202)
async def stop(request: HttpRequest) -> dict[str, str]:
    """Drain and end. Answers at once."""
    request.app.state.stop()
    return {"status": "stopping"}


def _follow(call: Call) -> Any:
    async def answer(batches: Batches) -> Response:
        return EventStream(_frames(batches), headers=lambda: {"X-Herd-Job": call.job.id}, error_frame=_error_frame)

    return answer


async def _frames(batches: Batches) -> AsyncGenerator[bytes, None]:
    async for events in batches:
        yield b"".join(frame(event.model_dump(mode="json"), seq=event.seq) for event in events)


def _error_frame(info: ErrorInfo) -> bytes:
    return frame({"type": "failed", "error": info.model_dump(mode="json")})
