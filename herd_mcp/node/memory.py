"""The ledger's arithmetic: what the engines of this Mac may hold, and what one engine needs. Pure functions, bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from herd_mcp.jobs import ErrorCode, HerdError, Kind
from herd_mcp.pipe import CacheShape
from herd_mcp.settings import GIB, MIB, Settings

PROCESS_BYTES = 256 * MIB
"""An engine process before its weights: Python, MLX, mlx-lm or mflux. Seen on Linux with the built-in models: 108 MiB
resident for chat, 141 for images; the rest is for what Metal takes, which was not measured."""
CHAT_WORK_BYTES = 512 * MIB
"""Activations and the KV caches of running chats, as a first estimate."""
IMAGE_WORK_BYTES = 2 * GIB
"""Activations and the VAE decode of a 1024 px image, as a first estimate."""
BUILTIN_WORK_BYTES = 64 * MIB
"""The same for the built-in models, which are a thousandth of the size."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What one engine takes, in bytes."""

    load_bytes: int
    """The process, the weights and what it keeps, from its start to its end."""
    work_bytes: int = 0
    """Activations of a step, while anything runs."""
    cache: CacheShape | None = None
    """Chat: the keys and values of one sequence."""
    px_bytes: float = 0.0
    """Images: per pixel of the picture, while it is drawn and decoded."""

    def bytes_for(self, sizes: Iterable[int]) -> int:
        """With these jobs running: tokens of each chat (prompt and answer), or pixels of each image.

        A batch of sequences costs as many times its longest, because shorter ones are padded to it.
        """
        sizes = list(sizes)
        if not sizes:
            return self.load_bytes
        rows = len(sizes) * cache_bytes(self.cache, max(sizes)) if self.cache else 0
        return self.load_bytes + self.work_bytes + rows + int(self.px_bytes * max(sizes))


CACHE_STEP_TOKENS = 256
"""mlx-lm's caches grow by blocks of so many tokens."""


def cache_bytes(shape: CacheShape, tokens: int) -> int:
    """Keys and values of one sequence of `tokens`."""
    held = -(-tokens // CACHE_STEP_TOKENS) * CACHE_STEP_TOKENS
    windowed = shape.window_token_bytes * min(held, shape.window_tokens)
    return shape.fixed_bytes + shape.token_bytes * held + windowed


def budget_bytes(settings: Settings, total_bytes: int) -> int:
    """What all engines together may reserve on a Mac with `total_bytes` of memory."""
    if settings.memory_budget_bytes is not None:
        return settings.memory_budget_bytes
    floor = settings.memory_floor_bytes
    if floor is None:
        floor = max(total_bytes // 4, 2 * GIB)
    return max(total_bytes - floor, 0)


def engine_bytes(kind: Kind, weights_bytes: int, bits: int | None, quantize: int | None, *, builtin: bool) -> int:
    """What an engine reserves: the process, its weights as they will lie in memory, and room to work.

    `bits`: of the checkpoint, None for 16. `quantize`: bits to quantise to while loading, None to leave them.
    Quantised weights carry a scale and a bias per group of 64: half a bit more per weight.
    """
    if quantize is not None and bits is None:
        weights_bytes = int(weights_bytes * (quantize + 0.5) / 16)
    work = BUILTIN_WORK_BYTES if builtin else IMAGE_WORK_BYTES if kind == "image" else CHAT_WORK_BYTES
    return PROCESS_BYTES + weights_bytes + work


def too_big(model: str, needed_bytes: int, budget: int) -> HerdError:
    """The refusal of a model that does not fit even on an empty Mac."""
    return HerdError(
        ErrorCode.INSUFFICIENT_MEMORY,
        f"{model} needs about {needed_bytes / GIB:.1f} GiB, and models may take {budget / GIB:.1f} GiB on this Mac.",
        "Choose a smaller or more quantised model (`herd-mcp models`), or lower memory_floor_bytes "
        "(`herd-mcp config`).",
        details={"needed_bytes": needed_bytes, "budget_bytes": budget},
    )
