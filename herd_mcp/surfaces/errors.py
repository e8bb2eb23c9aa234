"""How errors look outside: one status per code, and one shape per dialect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from herd_mcp.jobs import ErrorCode, ErrorInfo

STATUS: dict[ErrorCode, int] = {
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.MODEL_NOT_FOUND: 404,
    ErrorCode.MODEL_INCOMPLETE: 409,
    ErrorCode.KIND_NOT_SUPPORTED: 400,
    ErrorCode.INSUFFICIENT_MEMORY: 507,
    ErrorCode.NO_NODE: 503,
    ErrorCode.BUSY: 503,
    ErrorCode.NODE_LOST: 502,
    ErrorCode.ENGINE_CRASHED: 502,
    ErrorCode.TIMEOUT: 504,
    ErrorCode.CANCELLED: 499,  # no standard status; clients do not repeat this one, as they would 409
    ErrorCode.INTERRUPTED: 503,
    ErrorCode.DRAINING: 503,
    ErrorCode.DISK: 507,
    ErrorCode.JOB_NOT_FOUND: 404,
    ErrorCode.IMAGE_NOT_FOUND: 404,
    ErrorCode.CONFIRMATION_REQUIRED: 409,
    ErrorCode.NOT_CONFIRMED: 403,
    ErrorCode.NOT_BUILT_YET: 501,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.LOCAL_NETWORK_DENIED: 502,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.INTERNAL: 500,
}
"""The HTTP status of every code, in every dialect."""

RETRY_AFTER_S = 5
"""Told with 503 when the error itself names no time."""

OPENAI_TYPES = {401: "authentication_error", 403: "permission_error"}


def retry_after(info: ErrorInfo) -> int | None:
    """Whole seconds for Retry-After: what the error says, else 5 for what passes by itself, else None."""
    told = info.details.get("retry_after_s")
    if isinstance(told, int | float) and math.isfinite(told):
        return max(1, math.ceil(told))
    return RETRY_AFTER_S if STATUS[info.code] == 503 else None


def ours(info: ErrorInfo, status: int) -> dict[str, Any]:
    """The native shape: everything, as data."""
    return {"error": info.model_dump(mode="json")}


def plain(info: ErrorInfo, status: int) -> dict[str, Any]:
    """The shape of /api and /dashboard: one text."""
    return {"error": info.sentence}


def openai(info: ErrorInfo, status: int) -> dict[str, Any]:
    """OpenAI's shape. `param` is the first field that is wrong."""
    fields = info.details.get("fields")
    param = str(fields[0]).partition(":")[0] if fields else None
    kind = OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": info.sentence, "type": kind, "param": param, "code": info.code.value}}


def error_response(
    path: str, info: ErrorInfo, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The error in the dialect that `path` belongs to. `status` only where HTTP has a word that no code has."""
    status = STATUS[info.code] if status is None else status
    extra = dict(headers or {})
    if (seconds := retry_after(info)) is not None:
        extra["Retry-After"] = str(seconds)
    if status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    shape = plain
    if path.startswith("/v1/"):
        shape = openai
        # OpenAI's clients repeat every 5xx unless told; a job that crashed an engine is not to be sent again
        extra["x-should-retry"] = "true" if info.retryable or "Retry-After" in extra else "false"
    elif path.startswith("/herd/"):
        shape = ours
    return JSONResponse(shape(info, status), status_code=status, headers=extra)
