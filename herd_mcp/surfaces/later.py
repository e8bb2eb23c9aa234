"""Endpoints of the systems that herd-mcp stands in for, and does not have yet: 501 with what to use instead."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from herd_mcp.jobs import ErrorCode, HerdError

CHAT = "POST /v1/chat/completions answers chats"
IMAGES = "POST /api/generate-image makes images"
STATS = "GET /dashboard/api/image-stats and /dashboard/api/health have the figures"
MODELS = "GET /api/models and the MCP tool list_models list the models"
DOWNLOADS = "the MCP tool pull_model names the command that downloads a model"
NODE = "GET /healthz says whether the node takes jobs, `herd-mcp status` the rest"
JOBS = "`herd-mcp jobs` lists the jobs"

INSTEAD: dict[str, str] = {
    "/v1/images/generations": IMAGES,
    "/v1/images/edits": IMAGES,
    "/v1/completions": CHAT,
    "/v1/messages": CHAT,
    "/v1/messages/count_tokens": CHAT,
    "/v1/embeddings": "nothing in herd-mcp makes embeddings yet",
    "/v1/audio/transcriptions": "nothing in herd-mcp transcribes yet",
    "/v1/health": NODE,
    "/health": NODE,
    "/api/chat": CHAT,
    "/api/generate": CHAT,
    "/api/txt2img": IMAGES,
    "/api/image-models": MODELS,
    "/api/tags": MODELS,
    "/api/ps": NODE,
    "/api/version": NODE,
    "/api/show": MODELS,
    "/api/models/{rest:path}": DOWNLOADS,
    "/api/backends": MODELS,
    "/api/pull": DOWNLOADS,
    "/api/downloads": DOWNLOADS,
    "/api/hf/search": DOWNLOADS,
    "/api/embed": "nothing in herd-mcp makes embeddings yet",
    "/api/embeddings": "nothing in herd-mcp makes embeddings yet",
    "/api/embed-image": "nothing in herd-mcp makes embeddings yet",
    "/api/transcribe": "nothing in herd-mcp transcribes yet",
    "/api/settings": "`herd-mcp config` shows the settings",
    "/api/hardware": NODE,
    "/api/health": STATS,
    "/api/telemetry": STATS,
    "/api/requests": JOBS,
    "/api/requests/clear-stuck": JOBS,
    "/api/logs": "the log is HERD_HOME/logs/node.log",
    "/api/model-activity": JOBS,
    "/api/register-local": "a folder in the setting model_dirs is searched for models",
    "/api/connect-external": "other servers cannot be adopted yet",
    "/fleet/status": NODE,
    "/fleet/queue": JOBS,
    "/dashboard": STATS,
    "/dashboard/events": STATS,
    "/dashboard/api/settings": "images need no switch here; `herd-mcp config` shows the settings",
    "/dashboard/api/{rest:path}": STATS,
    "/herd/events": JOBS,
    "/metrics": STATS,
}
"""Path → what does it now."""

router = APIRouter(include_in_schema=False)


async def not_built_yet(request: Request) -> Response:
    """Raises HerdError(not_built_yet)."""
    instead = INSTEAD[request.scope["route"].path]
    message = f"{request.url.path[:200]} is not in this version of herd-mcp."
    raise HerdError(ErrorCode.NOT_BUILT_YET, message, f"{instead[:1].upper()}{instead[1:]}.")


for path in INSTEAD:
    router.add_api_route(path, not_built_yet, methods=["GET", "POST", "PUT", "DELETE"], response_class=Response)
