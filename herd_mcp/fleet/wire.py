"""How nodes write to each other and read each other (`/herd/v1/`): versions, JSON, errors, states, orders, lines.

What may change without a new major version: fields and event types may come, and who does not know them ignores them;
fields with a default may be left out. A field of a request without which the outcome would be another one is also named
in the order's `needs`, and who does not know that name refuses the order. Nothing else may change.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from herd_mcp.jobs import (
    JOB_ID,
    MAX_PICTURE_BYTES,
    Completed,
    ErrorCode,
    ErrorInfo,
    HerdError,
    ImageResult,
    Job,
    JobEvent,
    owner_of,
    problems_of,
)
from herd_mcp.orders import Later, Line, Order, Returned
from herd_mcp.state import WIRE_MAJOR, WIRE_MINOR, NodeState

ROOT = "/herd/v1"
VERSION_HEADER = "x-herd-wire"
VERSION = f"{WIRE_MAJOR}.{WIRE_MINOR}"
NEEDS: frozenset[str] = frozenset()
"""What an order may say it needs of its runner beyond version 1.0 of the wire. Version 1.0 has nothing of it."""

STATE_BYTES = 64 * 1024
"""Longest state, after and before it is compressed."""
ORDER_BYTES = MAX_PICTURE_BYTES * 4 // 3 + 4 * 1024 * 1024
"""Longest order or job: one with a picture in base64. A chat of MAX_CHAT_CHARS is shorter, at six bytes a character."""
ANSWER_BYTES = 1024 * 1024
"""Longest of any other answer."""
LINE_BYTES = 16 * 1024 * 1024
"""Longest line: an answer as long as the largest context, escaped."""
IMAGE_BYTES = 3 * 8192 * 8192 + 1024 * 1024
"""Longest PNG: the largest image, not compressed at all."""
MAX_VALUES = 500_000
"""Values in one JSON text."""
MAX_ATTEMPT = 1_000_000
MAX_SEQ = 2**53
MAX_EXPECTS_S = 1e8

BEAT_S: Final = (0.5, 5.0)
"""Least and most seconds between two lines of a stream."""
BEATS_MISSED = 3
"""Beats that do not come before the other side counts as silent."""

SHA256 = re.compile(r"[0-9a-f]{64}")

M = TypeVar("M", bound=BaseModel)
_EVENT: TypeAdapter[JobEvent | Returned] = TypeAdapter(JobEvent | Returned)
_EVENT_TYPES = frozenset({"queued", "routed", "loading", "progress", "delta", "completed", "failed", "cancelled"}) | {
    "returned"
}
_CODES = frozenset(code.value for code in ErrorCode)


def beat_s(lease_s: float) -> float:
    """Seconds between two signs of life in a stream, by the lease of who asks."""
    least, most = BEAT_S
    return min(most, max(least, lease_s / 6))


def check_job(job_id: str) -> None:
    """Raises HerdError(invalid_request) for what is no id of a job."""
    if not JOB_ID.match(job_id):
        raise invalid("this is no id of a job")


class Garbled(HerdError):
    """What another node said cannot be read, or is against the rules."""


def invalid(problem: str) -> Garbled:
    return Garbled(ErrorCode.INVALID_REQUEST, f"What came from the other node is not valid: {problem}.")


def check_version(told: str) -> None:
    """Raises HerdError where the other's version is of another major one; `details["wire"]` has it then."""
    match = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", told)
    if match is None:
        raise invalid("it names no version of the wire between nodes")
    theirs = (int(match[1]), int(match[2]))
    if theirs[0] != WIRE_MAJOR:
        older = "the other node" if theirs[0] < WIRE_MAJOR else "this node"
        raise HerdError(
            ErrorCode.FORBIDDEN,
            f"The two nodes do not understand each other: one speaks version {told} of the wire between nodes, "
            f"the other {VERSION}.",
            f"Update herd-mcp on {older}.",
            details={"reason": "wire", "wire": list(theirs)},
        )


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse(raw: bytes) -> Any:
    """JSON in UTF-8. Raises HerdError(invalid_request) also for NaN, infinities and numbers as large, halves of
    characters, deep nesting, and more values than anything has."""
    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"not JSON ({str(error)[:200]})") from None
    count, layer = 0, [value]
    while layer:
        count += len(layer)
        if count > MAX_VALUES:
            raise invalid(f"it has more than {MAX_VALUES} values")
        if any(isinstance(part, float) and not math.isfinite(part) for part in layer):
            raise invalid("a number is too large")
        layer = [
            part
            for parent in layer
            if isinstance(parent, dict | list)
            for part in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return value


def read(model: type[M], raw: bytes) -> M:
    """A message as `model`; what it does not know is ignored, at any depth."""
    parse(raw)
    try:
        return model.model_validate_json(raw, extra="ignore")
    except ValidationError as error:
        raise invalid("; ".join(problems_of(error)[:5])) from None


# ── States ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def pack_state(state: NodeState) -> bytes:
    """A state, compressed. Raises HerdError(too_large) for one that nobody would read."""
    raw = state.model_dump_json(exclude_defaults=True).encode()
    if len(raw) > STATE_BYTES:
        raise HerdError(
            ErrorCode.TOO_LARGE,
            f"The state of this node has {len(raw)} bytes; {STATE_BYTES} can be told.",
            "Fewer models or shorter names of them would fit.",
        )
    return zlib.compress(raw)


def unpack_state(raw: bytes) -> NodeState:
    """A state as `pack_state` wrote it. Raises HerdError(invalid_request)."""
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(raw, STATE_BYTES)
    except zlib.error:
        raise invalid("a state that is not compressed") from None
    if not inflate.eof or inflate.unused_data:
        raise invalid(f"a state that does not end, or is longer than {STATE_BYTES} bytes")
    return read(NodeState, plain)


# ── Orders ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def pack_order(order: Order) -> bytes:
    return order.model_dump_json(exclude={"spool"}).encode()


def unpack_order(raw: bytes, caller: str) -> Order:
    """An order of `caller`. Raises HerdError: forbidden for a job that is not its own, kind_not_supported where it
    needs what this version does not know, invalid_request."""
    data = parse(raw)
    needs = data.get("needs", []) if isinstance(data, dict) else []
    if not isinstance(needs, list) or not all(isinstance(need, str) for need in needs):
        raise invalid("needs: must be a list of texts")
    if unknown := sorted(set(needs) - NEEDS):
        raise HerdError(
            ErrorCode.KIND_NOT_SUPPORTED,
            f"herd-mcp on this node is too old for the job: it does not know {', '.join(unknown)[:200]}.",
            "Update it.",
        )
    try:
        order = Order.model_validate_json(raw, extra="ignore")
    except ValidationError as error:
        raise invalid("; ".join(problems_of(error)[:5])) from None
    check_job(order.job.id)
    if owner_of(order.job.id) != caller:
        raise HerdError(ErrorCode.FORBIDDEN, "A node orders its own jobs only.")
    if order.job.request is None or order.job.request.kind != order.job.kind:
        raise invalid("job.request: is of another kind than the job, or is not there")
    if not 1 <= order.attempt <= MAX_ATTEMPT:
        raise invalid("attempt: out of range")
    if order.expects_s is not None and not 0 <= order.expects_s <= MAX_EXPECTS_S:
        raise invalid("expects_s: out of range")
    return order.model_copy(update={"spool": ""})  # a path, and this node's own matter


# ── Lines ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def pack_line(line: Line) -> bytes:
    """One line in ASCII, so that no character of a model's text is taken for its end."""
    if isinstance(line.event, Completed):
        line = line.model_copy(update={"event": line.event.model_copy(update={"result": _told(line.event.result)})})
    return line.model_dump_json(exclude_none=True, ensure_ascii=True).encode() + b"\n"


def pack_failure(error: HerdError) -> bytes:
    """The last line of a stream that could not go on."""
    return pack_error(error.info) + b"\n"


def unpack_line(raw: bytes, size: int = 0) -> Line:
    """A line, for which `size` bytes were read; one whose event only a newer version knows comes without it. Raises the
    HerdError that a line carries, or HerdError(invalid_request)."""
    data = parse(raw)
    if not isinstance(data, dict):
        raise invalid("a line that is no object")
    if "error" in data:
        raise unpack_error(data)
    event = data.pop("event", None)
    data["size"] = size
    try:
        if isinstance(event, dict) and event.get("type") in _EVENT_TYPES:
            data["event"] = _EVENT.validate_python(event, extra="ignore")
        line = Line.model_validate(data)
    except ValidationError as error:
        raise invalid("; ".join(problems_of(error)[:5])) from None
    if not 0 <= line.seq <= MAX_SEQ:
        raise invalid("seq: out of range")
    return line


def told_job(job: Job) -> Job:
    """A job as another node may see it: a path is of no use there."""
    return job.model_copy(update={"result": _told(job.result)})


def _told(result: Any) -> Any:
    return result.model_copy(update={"path": ""}) if isinstance(result, ImageResult) else result


def split_lines(rest: bytearray, chunk: bytes) -> Iterable[bytes]:
    """The lines that are whole with `chunk`; what is left of it stays in `rest`. Raises HerdError for one that is too
    long. (Line readers of HTTP libraries also split at characters that JSON leaves as they are.)"""
    start = len(rest)
    rest += chunk
    if rest.find(b"\n", start) >= 0:
        *lines, tail = bytes(rest).split(b"\n")
        rest[:] = tail
        yield from lines
    if len(rest) > LINE_BYTES:
        raise invalid(f"a line of more than {LINE_BYTES} bytes")


# ── Errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def pack_error(info: ErrorInfo) -> bytes:
    return ErrorWord(error=info).model_dump_json(ensure_ascii=True).encode()


class ErrorWord(BaseModel):
    error: ErrorInfo


class LaterWord(BaseModel):
    """What is said with 409: `orders.Later`."""

    finish_s: float
    state: NodeState | None = None


def pack_later(later: Later) -> bytes:
    return LaterWord(finish_s=later.finish_s, state=later.state).model_dump_json(exclude_defaults=True).encode()


def unpack_error(data: Any) -> HerdError:
    """The error that an answer carries. A code that only a newer version knows becomes `internal`, with its words."""
    told = data.get("error") if isinstance(data, dict) else None
    if not isinstance(told, dict):
        return invalid("an error without words")
    if told.get("code") not in _CODES:
        told = {**told, "code": ErrorCode.INTERNAL.value}
    try:
        return HerdError.of(ErrorInfo.model_validate(told, extra="ignore"))
    except ValidationError:
        return invalid("an error without words")
