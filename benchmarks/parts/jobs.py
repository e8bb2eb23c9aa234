"""Chats and images asked over the node's own API, each with sizes that no other has, so that no answer can pass for
another's; and whether each got the one end that it should."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.parts import http
from benchmarks.parts.processes import Node

IMAGE = "herd-tiny-image"
Way = Literal["", "cancel", "leave"]
LENGTHS = 50
"""Of prompts: few, because a CPU computes the long ones slowly."""
ENDS = ("completed", "failed", "cancelled")


@dataclass(slots=True)
class Ask:
    """One request, and what came of it."""

    request: dict[str, Any]
    way: Way = ""
    """How its asker ends it before its time, if so: by a request of its own while it waits, or by going away once it is
    under way."""
    job_id: str = ""
    end: str = ""
    """`completed`, `failed`, `cancelled`; `refused` before there was a job; `left` by its asker; `lost` without any."""
    code: str = ""
    """Of the error."""
    result: dict[str, Any] = field(default_factory=dict)
    asked_at: float = 0.0
    ended_at: float = 0.0

    @property
    def seconds(self) -> float:
        return self.ended_at - self.asked_at

    @property
    def model(self) -> str:
        return str(self.request["model"])


def chat(number: int, model: str, *, tokens: int, way: Way = "") -> Ask:
    """A greedy chat of `tokens`. Its prompt has one character, and so one token, more than that of `number` - 1, and
    after LENGTHS numbers the lengths begin anew."""
    text = f"{number} ".ljust(number % LENGTHS + 8, "x")
    request = {"kind": "chat", "model": model, "max_tokens": tokens, "sampling": {"temperature": 0}}
    return Ask({**request, "messages": [{"role": "user", "content": text}]}, way)


def image(number: int, *, width: int, height: int, steps: int = 1, way: Way = "") -> Ask:
    """An image whose seed is `number`."""
    request = {"kind": "image", "model": IMAGE, "prompt": f"a red circle, number {number}", "seed": number}
    return Ask({**request, "width": width, "height": height, "steps": steps}, way)


async def ask(node: Node, one: Ask) -> None:
    """Ask, follow to the end, and note it."""
    one.asked_at = time.monotonic()
    one.end = "lost"
    try:
        async with (
            asyncio.timeout(http.LIMIT_S),
            http.request(node.port, "POST", "/herd/api/jobs", one.request, _token(node)) as (headers, reader),
        ):
            one.job_id = headers["x-herd-job"]
            await _follow(node, one, reader)
    except http.BadAnswer as refusal:
        one.end, one.code = "refused", _code(str(refusal))
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        one.code = f"{type(error).__name__}: {error}"
    one.ended_at = time.monotonic()


async def _follow(node: Node, one: Ask, reader: asyncio.StreamReader) -> None:
    async for data in http.events(reader):
        event = json.loads(data)
        if event["type"] in ENDS:
            one.end = event["type"]
            one.code = (event.get("error") or {}).get("code", "")
            one.result = event.get("result") or {}
            return
        if one.way == "cancel":
            one.way = ""
            # The answer comes when the job is over, and its end comes here too.
            asyncio.get_running_loop().create_task(_cancel(node, one.job_id))
        if one.way == "leave" and event["type"] in ("progress", "delta"):
            one.end = "left"
            return


async def _cancel(node: Node, job_id: str) -> None:
    await http.answer(node.port, "DELETE", f"/herd/api/jobs/{job_id}", None, _token(node))


def _code(text: str) -> str:
    found = re.search(r'"code":\s*"(\w+)"', text)
    return found[1] if found else text


def _token(node: Node) -> str:
    return f"Authorization: Bearer {node.token}"


async def crowd(node: Node, asks: Iterable[Ask], clients: int) -> list[Ask]:
    """All of `asks` in their order, `clients` at a time."""
    waiting = iter(asks)
    done: list[Ask] = []

    async def client() -> None:
        for one in waiting:
            await ask(node, one)
            done.append(one)

    await asyncio.gather(*(client() for _ in range(clients)))
    return done


async def status(node: Node) -> dict[str, Any]:
    """The node as it tells of itself: `nodes`, `health`."""
    return await http.answer_json(node.port, "GET", "/herd/api/status", _token(node))


async def stored(node: Node, asks: Sequence[Ask]) -> Counter[str]:
    """How the jobs of these ended, by the node's own records; those that were refused are none."""
    ends: Counter[str] = Counter()
    for one in asks:
        if one.job_id:
            job = await http.answer_json(node.port, "GET", f"/herd/api/jobs/{one.job_id}", _token(node))
            ends[job["status"]] += 1
    return ends


def overtaken(asks: Sequence[Ask]) -> int:
    """How many that were asked later have ended before it, for the one that had to let the most go first. Tells of
    starving without a clock, so a slow machine does not change it."""
    return max(sum(other.asked_at > one.asked_at and other.ended_at < one.ended_at for other in asks) for one in asks)


def mixed_up(asks: Sequence[Ask], letters: dict[str, str]) -> list[str]:
    """What is wrong with completed answers, in words: of another model, of another prompt, of another size. `letters`
    are what each chat model says."""
    found: list[str] = []
    overheads: dict[str, set[int]] = {}
    for one in asks:
        if one.end != "completed":
            continue
        request, result = one.request, one.result
        if request["kind"] == "image":
            told = {name: result[name] for name in ("model", "width", "height", "seed", "steps")}
            wanted = {name: request[name] for name in told}
        else:
            usage = result["usage"]
            told = {
                "model": result["model"],
                "tokens": usage["completion_tokens"],
                "length": len(result["text"]),
                "letters": "".join(sorted(set(result["text"]) - set(letters[one.model]))),
            }
            wanted = {"model": one.model, "tokens": request["max_tokens"], "length": request["max_tokens"]}
            wanted["letters"] = ""
            text = request["messages"][0]["content"]
            overheads.setdefault(one.model, set()).add(usage["prompt_tokens"] - len(text))
        if told != wanted:
            found.append(f"{one.job_id}: {told} instead of {wanted}")
    return found + [f"{model}: prompts of others, {many}" for model, many in overheads.items() if len(many) > 1]
