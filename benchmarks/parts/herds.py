"""Real nodes on this machine, in one herd over TLS, with engines of a fixed pace: two cores cannot show the speed of
several Macs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.parts import http, jobs, processes
from benchmarks.parts.jobs import IMAGE
from benchmarks.parts.processes import Node

PACED = Path(__file__).with_name("paced") / "command.py"
PACE = {"load_s": 0.2, "step_s": 0.1, "token_s": 0.01}
"""Seconds; see paced/engine.py."""
FAR = 6
"""Times that a guess is off at least, with these paces; they themselves differ by less."""
NETWORK = {"peer_bind": "127.0.0.1", "peer_port": "0", "bonjour": "false", "idle_unload_s": "0"}


@contextlib.contextmanager
def herd(*paces: dict[str, float], each: dict[int, dict[str, str]] | None = None) -> Iterator[list[Node]]:
    """A node named `mac<number>` for each pace, all of one herd, each knowing all others. `each`: settings of single
    ones by number."""
    with processes.folder() as folder, contextlib.ExitStack() as stack:
        nodes = []
        for number, pace in enumerate(paces):
            file = folder / f"pace{number}.json"
            file.write_text(json.dumps(PACE | pace))
            command = [sys.executable, str(PACED), str(file), "up"]
            settings = NETWORK | {"node_name": f"mac{number}"} | (each or {}).get(number, {})
            nodes.append(stack.enter_context(processes.node(command, **settings)))
        for node in nodes[1:]:
            code = ask(nodes[0], "POST", "/herd/api/herd/invite")["code"]
            ask(node, "POST", "/herd/api/herd/join", {"code": code})
        for node in nodes:
            until(
                node, lambda seen: [state["status"] for state in seen.values()] == ["online"] * len(paces), "the herd"
            )
        yield nodes


def ask(node: Node, method: str, path: str, body: object = None) -> dict[str, Any]:
    """The answer to a question with the node's token. Raises BadAnswer."""
    token = f"Authorization: Bearer {node.token}"
    return asyncio.run(http.answer_json(node.port, method, path, token, asked=body))


def views(node: Node) -> dict[str, dict[str, Any]]:
    """All nodes by name, as this one knows them."""
    return {state["name"]: state for state in ask(node, "GET", "/herd/api/status")["nodes"]}


def until(node: Node, look: Callable[[dict[str, dict[str, Any]]], bool], what: str) -> float:
    """When the node knew what `look` finds in its views, by the monotonic clock. Raises TimeoutError."""
    processes.wait(lambda: look(views(node)), what)
    return time.monotonic()


def run_on(nodes: Sequence[Node], asked: int, runner: int) -> None:
    """Let jobs that are asked at one node run on one alone: all others are paused, and the one that is asked knows."""
    for number, node in enumerate(nodes):
        pause(node, on=number != runner)
    free = f"mac{runner}"
    until(
        nodes[asked],
        lambda seen: all(bool(state["paused"]) == (name != free) for name, state in seen.items()),
        "the pauses",
    )


def pause(node: Node, *, on: bool) -> None:
    ask(node, "POST", "/herd/api/pause", {}) if on else ask(node, "POST", "/herd/api/resume")


def warm(nodes: Sequence[Node], *others: Node) -> None:
    """The image model is loaded on each, each has learned how long an image takes, and they and the others know."""
    for node in nodes:
        ask(node, "POST", f"/api/models/{IMAGE}/load")
    for node in nodes:
        until(node, lambda seen: sum(map(_is_warm, seen.values())) >= len(nodes), "the engines")
        asyncio.run(jobs.ask(node, jobs.image(0, width=64, height=64, steps=20)))
    for node in (*nodes, *others):
        until(node, _is_known, "how long an image takes")


def _is_known(seen: dict[str, dict[str, Any]]) -> bool:
    """Whether no node is far from the others any more, as one is that has drawn nothing and is guessed."""
    models = [model for state in seen.values() for model in state["models"] if model["name"] == IMAGE]
    rates = [model["image"]["step_s_per_mpx"] for model in models if model["loaded"]]
    return bool(max(rates) < FAR * min(rates))


def _is_warm(state: dict[str, Any]) -> bool:
    return any(model["loaded"] for model in state["models"] if model["name"] == IMAGE)


@dataclass(frozen=True, slots=True)
class Idle:
    """What one node takes while nobody asks for anything."""

    cpu_percent: float
    """Of one core."""
    bytes_per_s: float
    """Through the loopback of this machine, divided by the nodes: right where nothing else speaks there."""


def idle(nodes: Sequence[Node], seconds: float) -> Idle:
    began, before = time.monotonic(), _loopback_bytes()
    used_s = [processes.cpu_s(node.pid) for node in nodes]
    time.sleep(seconds)
    took_s, passed = time.monotonic() - began, _loopback_bytes() - before
    more_s = sum(processes.cpu_s(node.pid) - was for node, was in zip(nodes, used_s, strict=True))
    return Idle(100 * more_s / took_s / len(nodes), passed / took_s / len(nodes))


def _loopback_bytes() -> int:
    every = psutil.net_io_counters(pernic=True)
    return int((every.get("lo") or every["lo0"]).bytes_sent)


def known_s(nodes: Sequence[Node]) -> float:
    """Seconds from the pause of the first node until every other says it."""

    began = time.monotonic()
    with ThreadPoolExecutor(len(nodes)) as pool:
        pause(nodes[0], on=True)
        looks = [pool.submit(until, node, lambda seen: bool(seen["mac0"]["paused"]), "the pause") for node in nodes[1:]]
        known_at = max(look.result() for look in looks)
    pause(nodes[0], on=False)
    for node in nodes[1:]:
        until(node, lambda seen: not seen["mac0"]["paused"], "the end of the pause")
    return known_at - began
