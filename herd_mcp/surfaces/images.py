"""POST /api/generate-image and GET /images/{image_id}."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from herd_mcp.jobs import (
    Completed,
    ErrorCode,
    ErrorInfo,
    Failed,
    HerdError,
    ImageRequest,
    ImageResult,
    parse_request,
)
from herd_mcp.surfaces.bodies import check_numbers, note_ignored, read_object, tags_of, wrong
from herd_mcp.surfaces.calls import Batches, Call, JobResponse, TheHerd, patient, raise_bad_end
from herd_mcp.surfaces.sse import EventStream, frame

router = APIRouter()

NUMBERS = ("width", "height", "steps", "quantize", "guidance", "seed")
FIELDS = ("model", "prompt", "negative_prompt", *NUMBERS)
FOREVER = "private, max-age=31536000, immutable"


@router.post("/api/generate-image", response_class=Response)
async def generate_image(request: Request, herd: TheHerd) -> Response:
    """Make one image and answer with the PNG, or with the job's events when Accept asks for text/event-stream.

    Body: `model` and `prompt`; `width`, `height`, `steps`, `quantize`, `guidance`, `seed`, `negative_prompt`,
    `metadata.tags`, `user`. The system this dialect comes from filled in 1024, 1024, 4 and 8; here what is not named
    is as the model's own defaults say, because a model may be made for other sizes and steps.
    With `Prefer: wait=0` 503 and Retry-After when the model is not loaded; its loading begins then.
    """
    image = image_request(request, await read_object(request))
    job = await herd.submit(image, client="http", patient=patient(request))
    call = Call(job)

    async def png(batches: Batches) -> Response:
        result = _image(await call.outcome(batches))
        headers = {"X-Herd-Image": result.image_id, "X-Herd-Seed": str(result.seed)}
        if result.limited_by:
            headers["X-Herd-Note"] = result.limited_by
        data = await herd.image(result.image_id)
        return Response(data, media_type="image/png", headers={**call.result_headers(result), **headers})

    async def stream(batches: Batches) -> Response:
        return EventStream(
            _frames(call, batches),
            headers=call.headers,
            error_frame=lambda info: _bad_end(call, info),
            begun=lambda: call.begun,
        )

    wants_events = "text/event-stream" in request.headers.get("accept", "")
    return JobResponse(herd, call, stream if wants_events else png)


def image_request(request: Request, body: dict[str, Any]) -> ImageRequest:
    """The request in this dialect's fields. Raises HerdError(invalid_request)."""
    for name in ("model", "prompt"):
        if body.get(name) is None:
            raise wrong(name, "is required")
    check_numbers(body, NUMBERS)
    note_ignored(request, body, (*FIELDS, "metadata", "user"))
    fields = {name: body[name] for name in FIELDS if body.get(name) is not None}
    if fields.get("negative_prompt") == "":  # the dialect's word for none
        del fields["negative_prompt"]
    return parse_request(ImageRequest, {**fields, "tags": tags_of(request, body)})


def _image(result: object) -> ImageResult:
    if not isinstance(result, ImageResult):
        raise HerdError(
            ErrorCode.INTERNAL, "An image was asked for and something else came.", "The node's log says more."
        )
    return result


async def _frames(call: Call, batches: Batches) -> AsyncGenerator[bytes, None]:
    """Each event by its type's name. `completed` carries the link; no path of this Mac's disk is told over HTTP."""
    async for events in batches:
        for event in events:
            call.note(event)
            raise_bad_end(event)
            data = event.model_dump(mode="json")
            if isinstance(event, Completed):
                data["result"].pop("path", None)
                data["link"] = f"/images/{_image(event.result).image_id}"
            yield frame(data, event=event.type, seq=event.seq)


def _bad_end(call: Call, info: ErrorInfo) -> bytes:
    """The job's own last event, or `failed` when the node broke off the stream."""
    event = call.bad_end or Failed(error=info)
    return frame(event.model_dump(mode="json"), event=event.type, seq=event.seq)


@router.head("/images/{image_id}", include_in_schema=False)
@router.get("/images/{image_id}", response_class=Response)
async def get_image(request: Request, image_id: str, herd: TheHerd, thumbnail: bool = False) -> Response:
    """The PNG, or with `?thumbnail=1` a JPEG of at most 512 px. What an id means never changes."""
    data = await (herd.thumbnail(image_id) if thumbnail else herd.image(image_id))
    etag = f'"{hashlib.sha256(data).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": FOREVER, "X-Content-Type-Options": "nosniff"}
    asked = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in asked or "*" in asked:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type="image/jpeg" if thumbnail else "image/png", headers=headers)
