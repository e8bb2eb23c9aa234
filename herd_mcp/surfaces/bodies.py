"""What callers send: JSON read strictly, tags gathered from the three places they may stand in."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.requests import Request

from herd_mcp.jobs import MAX_TAGS, ErrorCode, HerdError

log = logging.getLogger(__name__)

BODY_TIMEOUT_S = 60.0
MAX_TAG_CHARS = 64


def wrong(field: str, problem: str) -> HerdError:
    """The error for one field, in the words that validation uses."""
    said = f"{field}: {problem}" if field else problem
    return HerdError(
        ErrorCode.INVALID_REQUEST,
        f"The request is not valid: {said}.",
        "Correct it and send it again.",
        details={"fields": [said]},
    )


async def read_bytes(request: Request) -> bytes:
    """The whole body. Raises HerdError when it does not come within BODY_TIMEOUT_S."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.body()
    except TimeoutError:
        raise wrong("", f"its body did not arrive within {BODY_TIMEOUT_S:.0f} s") from None


async def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object in UTF-8, whatever Content-Type says (curl -d sends another).

    Raises HerdError(invalid_request) also for what Python's parser lets pass: NaN, infinities, a name that stands
    twice in one object, lone surrogates.
    """
    raw = await read_bytes(request)
    try:
        body = json.loads(
            raw.decode(), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_duplicates
        )
        if b"\\ud" in raw.lower():
            json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise wrong("", "the body contains half a surrogate pair, which is no character") from None
    except UnicodeDecodeError:
        raise wrong("", "the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise wrong("", f"the body is not JSON ({error.msg} at line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise wrong("", "the body is nested too deeply") from None
    except ValueError as error:
        raise wrong("", f"the body is not JSON ({error})") from None
    if not isinstance(body, dict):
        raise wrong("", "the body must be a JSON object")
    return body


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def check_numbers(body: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse texts and booleans where numbers belong; validation alone would turn "4" and true into numbers."""
    for name in names:
        value = body.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise wrong(name, "must be a number")


def note_ignored(request: Request, body: Mapping[str, Any], known: Iterable[str]) -> None:
    """One line in the log about the fields that this dialect has and this node does not use."""
    if ignored := sorted(set(body) - set(known)):
        names = ", ".join(repr(name[:40]) for name in ignored[:10])
        log.info("%s %s: ignored fields: %s", request.method, request.url.path, names)


def tags_of(request: Request, body: Mapping[str, Any]) -> list[str]:
    """`metadata.tags`, X-Herd-Tags (commas between), `user` (as `user:NAME`, cut to fit): in this order, once each."""
    metadata = body.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise wrong("metadata", "must be an object")
    told = (metadata or {}).get("tags")
    if isinstance(told, str):  # OpenAI's metadata has texts only
        told = told.split(",")
    if told is not None and (not isinstance(told, list) or not all(isinstance(tag, str) for tag in told)):
        raise wrong("metadata.tags", "must be a list of texts")
    tags = [*(told or []), *request.headers.get("x-herd-tags", "").split(",")]
    found = list(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
    user = body.get("user")
    if user is not None and not isinstance(user, str):
        raise wrong("user", "must be a text")
    mark = f"user:{user}".replace("\x00", "")[:MAX_TAG_CHARS].strip() if user else ""
    if mark and mark not in found and len(found) < MAX_TAGS:
        found.append(mark)
    return found
