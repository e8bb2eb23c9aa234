"""The ledger's arithmetic: what the engines of this Mac may hold, and what one engine needs. Pure functions, bytes."""

from __future__ import annotations

from herd_mcp.jobs import ErrorCode, HerdError, Kind
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
