"""The models of the herd over HTTP, and loading and unloading them: /api/models… and OpenAI's /v1/models…

A model's id is its name, which may have a slash in it (`organisation/name`); any name that a request takes is taken.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from herd_mcp.jobs import ErrorCode, Frozen, HerdError
from herd_mcp.state import EngineState, ModelInfo
from herd_mcp.surfaces.calls import TheHerd
from herd_mcp.surfaces.errors import error_response

router = APIRouter()

OPENAI_FIELDS = {"kind", "loaded", "needs_bytes", "can_load_now", "reason", "recommended", "context_tokens", "nodes"}
"""What stands beside OpenAI's own fields."""


class Running(Frozen):
    """The engines of this node, those that load or end included."""

    models: tuple[EngineState, ...]


@router.get("/api/models")
async def list_models(herd: TheHerd) -> dict[str, list[dict[str, Any]]]:
    """Every model of the herd: what it needs (bytes), who has it, whether it can be loaded now, and why not."""
    return {"models": [_told(model) for model in await herd.models()]}


@router.get("/api/models/running")
async def running(herd: TheHerd) -> Running:
    """The models that this node has loaded: what is reserved for each and what it holds (bytes), how far it is loaded,
    what runs in it."""
    return Running(models=(await herd.nodes())[0].engines)


class HowToLoad(BaseModel):
    """What stands behind the question mark. A model is loaded as the settings say and not as a caller does."""

    model_config = ConfigDict(extra="forbid")

    wait: bool = True


@router.post("/api/models/{model_id:path}/load")
async def load(model_id: str, herd: TheHerd, how: Annotated[HowToLoad, Query()]) -> Response:
    """Load a model and answer when it takes work; with `?wait=false` answer 202 at once.

    503 with Retry-After and the numbers while there is no room for it. Other parameters are refused.
    """
    model = await herd.load(model_id, wait=how.wait)
    return JSONResponse(_told(model), status_code=200 if model.loaded else 202)


@router.post("/api/models/{model_id:path}/unload")
async def unload(model_id: str, request: Request, herd: TheHerd) -> Response:
    """End a model's engine and answer when its memory is free. 409 with the jobs while any runs or waits in it."""
    try:
        return JSONResponse(_told(await herd.unload(model_id)))
    except HerdError as error:
        if error.info.code != ErrorCode.BUSY:
            raise
        return error_response(request.url.path, error.info, status=409)


@router.get("/api/models/{model_id:path}")
async def model(model_id: str, herd: TheHerd) -> dict[str, Any]:
    """One model."""
    return _told(await herd.model(model_id))


@router.get("/v1/models")
async def openai_models(herd: TheHerd) -> dict[str, Any]:
    """The models that can be used here, in OpenAI's form."""
    return {"object": "list", "data": [_openai(model) for model in await herd.models() if model.usable]}


@router.get("/v1/models/{model_id:path}")
async def openai_model(model_id: str, herd: TheHerd) -> dict[str, Any]:
    """One model, in OpenAI's form."""
    return _openai(await herd.model(model_id))


def _told(model: ModelInfo) -> dict[str, Any]:
    """All that is known of a model but its folder, which is told to holders of the token only."""
    return {"id": model.name, **model.model_dump(mode="json", exclude={"path"})}


def _openai(model: ModelInfo) -> dict[str, Any]:
    about = model.model_dump(mode="json", include=OPENAI_FIELDS)
    return {"id": model.name, "object": "model", "created": 0, "owned_by": model.source, **about}
