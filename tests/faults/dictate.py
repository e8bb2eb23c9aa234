"""A real node whose engines do what the test dictates, and what is to be true of it afterwards."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from herd_mcp.herd import Herd, open_herd
from herd_mcp.jobs import ChatRequest, ImageRequest, Job, JobEvent
from herd_mcp.node import engines
from herd_mcp.node.pressure import ReadMemory, read
from herd_mcp.settings import load_settings
from tests.conftest import until

CHAT, IMAGE = "herd-tiny-chat", "herd-tiny-image"
PROGRAM = Path(__file__).parent / "engine.py"
LIMIT_S = 90.0
TERMINAL = ("completed", "failed", "cancelled")
Act = dict[str, Any]
ASK: dict[str, Callable[[], ChatRequest | ImageRequest]] = {"chat": lambda: chat(), "image": lambda: image()}


def chat(text: str = "hello", **fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": text}], "model": CHAT, **fields})


def image(prompt: str = "a red circle", **fields: Any) -> ImageRequest:
    return ImageRequest.model_validate({"prompt": prompt, "model": IMAGE, "steps": 1, **fields})


def write_script(folder: Path, **acts: Sequence[Act]) -> tuple[str, ...]:
    """What the engines of `chat` and `image` do, first to last. Returns the command of such an engine."""
    folder.mkdir(exist_ok=True)
    names = {"chat": CHAT, "image": IMAGE}
    (folder / "script.json").write_text(json.dumps({names[kind]: list(what) for kind, what in acts.items()}))
    return (sys.executable, "-IS", str(PROGRAM), str(folder))


@contextlib.asynccontextmanager
async def node(
    command: Sequence[str], folder: Path, read_memory: ReadMemory = read, **settings: Any
) -> AsyncIterator[Herd]:
    """A herd of one node with `command` for its engines. When it is closed, none of its processes is left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "WORKER", tuple(command))
        async with open_herd(load_settings(**settings), read_memory) as herd:
            yield herd
    assert [pid for pid in noted(folder, "pids") if alive(int(pid))] == []


@contextlib.asynccontextmanager
async def dictated(
    folder: Path,
    *,
    chat: Sequence[Act] = ({},),
    image: Sequence[Act] = ({},),
    read_memory: ReadMemory = read,
    **settings: Any,
) -> AsyncIterator[Herd]:
    """A node with engines that follow a script; `folder` then tells what they did."""
    async with node(write_script(folder, chat=chat, image=image), folder, read_memory, **settings) as herd:
        yield herd


def noted(folder: Path, file: str) -> list[str]:
    """What the engines wrote down: `pids`, `starts`, `strangers`."""
    path = folder / file
    return path.read_text().split("\n")[:-1] if path.exists() else []


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def outcome(herd: Herd, job: Job) -> JobEvent:
    """The one outcome, which is the last event, and the only terminal one."""
    events = [event async for event in herd.watch(job.id)]
    assert [event.type for event in events if event.type in TERMINAL] == [events[-1].type]
    return events[-1]


async def attempts(herd: Herd, job: Job) -> list[str]:
    """How each attempt ended, once the job is over."""
    await outcome(herd, job)
    return [attempt.outcome for attempt in (await herd.job(job.id)).attempts]


async def has_status(herd: Herd, job: Job, wanted: str) -> None:
    async def reached() -> bool:
        return (await herd.job(job.id)).status == wanted

    await until(reached, f"{job.id} is {wanted}", LIMIT_S)


async def nothing_reserved(herd: Herd) -> None:
    """Every engine is gone and has given its memory back."""

    async def empty() -> bool:
        state = (await herd.nodes())[0]
        return not state.engines and state.memory.reserved_bytes == 0

    await until(empty, "no engine holds memory", LIMIT_S)
