"""The ASGI app of a node: every dialect on one port, behind the same checks."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from herd_mcp.herd import Herd
from herd_mcp.jobs import ErrorCode, ErrorInfo
from herd_mcp.surfaces import admin, dashboard, images, later, models, native, openai
from herd_mcp.surfaces.bodies import wrong
from herd_mcp.surfaces.errors import error_response
from herd_mcp.surfaces.mcp.http import mcp_http_app
from herd_mcp.surfaces.middleware import BodyLimit, Failures, HostCheck, OriginCheck


def make_app(herd: Herd, *, token: str, stop: Callable[[], None]) -> FastAPI:
    """The app. `token` opens /herd/api; `stop` is called by POST /herd/api/stop and must return at once."""
    mcp = mcp_http_app(herd)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with mcp.lifespan():
            yield

    app = FastAPI(
        title="herd-mcp",
        version=version("herd-mcp"),
        docs_url=None,  # both pages load their scripts from another site
        redoc_url=None,
        redirect_slashes=False,  # several MCP clients do not follow one
        routes=[
            Route("/mcp", mcp.http),
            Route("/mcp/", mcp.http),
            Route("/sse", mcp.sse),
            Route("/sse/{rest:path}", mcp.sse),
        ],
        lifespan=lifespan,
        middleware=[
            Middleware(HostCheck),
            Middleware(OriginCheck),
            Middleware(BodyLimit, max_bytes=herd.settings.max_body_bytes),
            Middleware(Failures),
        ],
        exception_handlers={HTTPException: _http_error, RequestValidationError: _bad_parameter},
    )
    app.state.herd = herd
    app.state.token = token
    app.state.stop = stop
    app.include_router(native.healthz_router)
    for room in (native, admin, images, openai, models, dashboard, later):
        app.include_router(room.router)
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    """No such path, or not by this method: in the dialect of the path."""
    assert isinstance(error, HTTPException)
    known = {
        404: f"There is no {request.url.path[:200]} on this node.",
        405: f"{request.url.path[:200]} does not take {request.method}.",
    }
    info = ErrorInfo(
        code=ErrorCode.INVALID_REQUEST,
        message=known.get(error.status_code, str(error.detail)),
        hint="GET /openapi.json lists what there is.",
    )
    return error_response(request.url.path, info, status=error.status_code, headers=error.headers)


async def _bad_parameter(request: Request, error: Exception) -> Response:
    """A wrong parameter in the address."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    problem = wrong(str(first["loc"][-1]), first["msg"])
    return error_response(request.url.path, problem.info)
