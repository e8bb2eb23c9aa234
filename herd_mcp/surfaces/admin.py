"""The herd of this Mac: invite, join, leave. For the holder of the token of run/node.json."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field, ValidationError
from starlette.requests import Request

from herd_mcp.jobs import Frozen, invalid_request
from herd_mcp.surfaces.bodies import read_bytes
from herd_mcp.surfaces.calls import TheHerd
from herd_mcp.surfaces.native import authorized

router = APIRouter(prefix="/herd/api/herd", dependencies=[Depends(authorized)])


class JoinBody(Frozen):
    code: Annotated[str, Field(max_length=1000)] = Field(repr=False)


class LeaveBody(Frozen):
    rotate: bool = False
    """Make a new herd, and invite into it."""
    node: Annotated[str, Field(max_length=64)] | None = None
    """Take out this one, by name or id, instead of leaving."""


@router.post("/invite")
async def invite(herd: TheHerd) -> dict[str, Any]:
    """Open an invite for one Mac, in place of an earlier one, and answer with its code."""
    return (await herd.admin.invite()).model_dump(mode="json")


@router.get("/invite")
async def invitation(herd: TheHerd) -> dict[str, Any] | None:
    """How it stands with the last invite; null when there was none."""
    told = herd.admin.invitation()
    return told.model_dump(mode="json") if told else None


@router.delete("/invite")
async def close_invite(herd: TheHerd) -> dict[str, Any] | None:
    """End the invite that is open."""
    told = await herd.admin.close_invite()
    return told.model_dump(mode="json") if told else None


@router.get("/check")
async def check(herd: TheHerd) -> list[dict[str, Any]]:
    """Ask each other Mac of the herd now: how long it took, or what is wrong."""
    return [told.model_dump(mode="json") for told in await herd.mesh.others.check()]


@router.post("/join")
async def join(request: Request, herd: TheHerd) -> dict[str, Any]:
    """Join the herd that a code is of."""
    try:
        body = JoinBody.model_validate_json(await read_bytes(request))
    except ValidationError as error:
        raise invalid_request(error) from None
    return (await herd.admin.join(body.code)).model_dump(mode="json")


@router.post("/leave")
async def leave(request: Request, herd: TheHerd) -> dict[str, Any]:
    """Leave the herd, or take another Mac out of it."""
    try:
        body = LeaveBody.model_validate_json(await read_bytes(request))
    except ValidationError as error:
        raise invalid_request(error) from None
    if body.node is not None:
        return (await herd.admin.take_out(body.node)).model_dump(mode="json")
    return (await herd.admin.leave(rotate=body.rotate)).model_dump(mode="json")
