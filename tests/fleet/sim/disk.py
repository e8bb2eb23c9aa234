"""What a simulated Mac keeps when its node dies: the jobs, and the pictures; and the models that lie on it."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from herd_mcp.jobs import ErrorCode, HerdError, Job
from herd_mcp.node.history import History
from herd_mcp.node.models import BUILTIN_FOLDER
from herd_mcp.settings import GIB

COMMIT_S = 0.005
UNFINISHED = ("queued", "loading", "running")
PAINTER, TALKER = "painter", "talker"


class Disk:
    """Survives its node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, str] = {}
        self.full = False


class MemoryHistory:
    """`node.history.History` of one start of a node, without SQLite. What was not committed is lost with the node."""

    def __init__(self, disk: Disk, is_dead: Callable[[], bool], on_stored: Callable[[Job], None]) -> None:
        self._disk = disk
        self._is_dead = is_dead
        self._on_stored = on_stored

    def write(self, job: Job) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(COMMIT_S, self._commit, job, job.model_dump_json(exclude_none=True), future)
        return future

    def _commit(self, job: Job, text: str, future: asyncio.Future[None]) -> None:
        if self._is_dead():
            return
        if self._disk.full:
            if not future.done():
                future.set_exception(HerdError(ErrorCode.DISK, "The disk is full.", retryable=True))
            return
        self._disk.jobs[job.id] = text
        self._on_stored(job)
        if not future.done():
            future.set_result(None)

    async def save(self, job: Job) -> None:
        await self.write(job)

    async def get(self, job_id: str) -> Job | None:
        text = self._disk.jobs.get(job_id)
        return Job.model_validate_json(text) if text else None

    async def newest(self, limit: int, status: str | None = None) -> list[Job]:
        return [job for job in self.all() if status in (None, job.status)][-limit:][::-1]

    async def unfinished(self) -> list[Job]:
        return [job for job in self.all() if job.status in UNFINISHED]

    async def forget_answers(
        self, finished_before: float, *, keep: Iterable[str] = (), also: Iterable[str] = ()
    ) -> int:
        return 0

    def all(self) -> list[Job]:
        return [Job.model_validate_json(text) for text in self._disk.jobs.values()]

    def as_history(self) -> History:
        return cast("History", self)


# ── Models ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def model_shelf(folder: Path, *, painter: bool = True, talker: bool = True) -> Path:
    """A folder with the models that a Mac has: 3 GiB for images, 4 GiB for chats, of which the disk holds nothing."""
    if painter:
        _painter(folder / PAINTER)
    if talker:
        _talker(folder / TALKER)
    return folder


def _painter(place: Path) -> None:
    shutil.copytree(BUILTIN_FOLDER / "herd-tiny-image", place, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((place / "herd.json").read_text())
    config |= {"name": PAINTER, "default_px": 512, "max_px": 2048, "default_steps": 8}
    (place / "herd.json").write_text(json.dumps(config))
    for part in ("transformer", "text_encoder", "vae"):
        _weights(place / part / "0.safetensors", GIB)
        index = {"metadata": {"quantization_level": 4}, "weight_map": {"w": "0.safetensors"}}
        (place / part / "model.safetensors.index.json").write_text(json.dumps(index))


def _talker(place: Path) -> None:
    place.mkdir(parents=True)
    config: dict[str, Any] = {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "max_position_embeddings": 8192,
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 6144,
        "vocab_size": 150_000,
        "quantization": {"bits": 4, "group_size": 64},
    }
    (place / "config.json").write_text(json.dumps(config))
    (place / "tokenizer.json").write_text("{}")
    _weights(place / "model.safetensors", 4 * GIB)


def _weights(file: Path, size_bytes: int) -> None:
    """A file that says it has so many bytes, and has them as one hole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    header = {"w": {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}}
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + size_bytes)
