"""The ledger's arithmetic: what the engines of this Mac may hold, and what one engine needs. Pure functions, bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from herd_mcp.jobs import ErrorCode, HerdError, Kind
from herd_mcp.node import sizes
from herd_mcp.node.shapes import Factors, corrected
from herd_mcp.node.state_space import StateWork
from herd_mcp.pipe import CACHE_SPARE_TOKENS, PREFILL_BATCH, PREFILL_CHUNK_TOKENS, CacheShape
from herd_mcp.settings import GIB, MIB, Settings

PROCESS_BYTES: dict[Kind, int] = {"chat": 256 * MIB, "image": 320 * MIB}
"""An engine process without its weights: Python, MLX, mlx-lm or mflux, a tokenizer. Measured on Linux with the built-in
models, resident size once loaded less weights (`python -m benchmarks memory`): 102 MiB for chat, 105 for images and 139
after one; tokenizers of 150,000 words take up to 100 more. The rest is for what Metal takes, which was not measured."""
PROMPT_CACHE_SHARE = 16
"""Kept conversations of one engine take at most this part of the budget."""
BUILTIN_PROMPT_CACHE_BYTES = 16 * MIB
FREED_SHARE, LEAST_FREED_BYTES, MOST_FREED_BYTES = 4, 32 * MIB, GIB
"""Freed buffers that MLX may keep for the next step: this part of what a step takes, within these bounds."""
COPIED_LAYERS = 2
"""Layers whose cache is there twice while a batch grows, as measured."""
ENCODER_BYTES = 256 * MIB
"""Of an image before its first step: the prompt in the text encoder. Derived, not measured."""
DECODE_PX_BYTES = 2560
"""Per pixel while a VAE decodes. Derived from the widths that the families share: at full size 256 channels that are
held in 2 bytes, in 4 for their norm, and as input and output of a convolution. Not measured on a Mac."""
STRIP_ROWS = 128
"""Rows that the families with strips decode at once; of the rest there are results in 2 bytes only."""
STRIPS_PX_BYTES, STRIP_BYTES = 1280, 4352
"""Per pixel of the picture, and of one strip: derived from the built-in model by the channels (256 against 32), without
what the CPU copies for a convolution (9 times 4 bytes)."""
STRIP_FAMILIES = ("flux2", "ideogram", "lens")
BUILTIN_WORK_BYTES, BUILTIN_PX_BYTES, BUILTIN_STRIP_BYTES = MIB, 163, 1712
"""Of the built-in image model, measured on Linux at 64 to 512 pixels."""
PROOF_PX = 256 * 256
"""Pixels of the image whose first step proves a model while it loads."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What one engine takes, in bytes."""

    load_bytes: int
    """The process, the weights and what it keeps, from its start to its end."""
    work_bytes: int = 0
    """Of a step, while anything runs."""
    cache: CacheShape | None = None
    """Chat: the keys and values of one sequence."""
    px_bytes: float = 0.0
    """Images: per pixel of the picture, while it is drawn and decoded."""
    strip_bytes: float = 0.0
    """Images: per pixel of the rows that are decoded at once."""
    row_bytes: float = 0.0
    """Chat: per sequence, the logits of a step."""
    token_bytes: float = 0.0
    """Chat: per token of the prompts that are computed in one step."""
    pair_bytes: float = 0.0
    """Chat: per such token and token of its sequence."""
    states: StateWork | None = None
    """Chat: of layers that keep a state instead of tokens."""
    copies: float = 0.0
    """Chat: the part of the caches that is there twice while a batch grows."""
    factors: Factors = ()
    """By what work is multiplied: measured by computed, for small and large work."""
    proof_bytes: int = 0
    """Of load_bytes: work that is done while loading, and never beside other work."""
    prompt_cache_bytes: int = 0
    """Of load_bytes: kept conversations."""
    freed_bytes: int = 0
    """Of load_bytes: freed buffers that MLX may keep."""
    active: float = 1.0
    """Chat: the part of the weights that one token passes."""

    def bytes_for(self, sizes: Iterable[int]) -> int:
        """With these jobs running: tokens of each chat (prompt and answer), or pixels of each image.

        A batch of sequences costs as many times its longest, because shorter ones are padded to it.
        """
        sizes = list(sizes)
        work = max(self.work_for(sizes), self.proof_bytes)
        return self.load_bytes - self.proof_bytes + self.caches_for(sizes) + work

    def caches_for(self, sizes: Sequence[int]) -> int:
        """Of these, the keys and values."""
        return len(sizes) * cache_bytes(self.cache, max(sizes)) if self.cache and sizes else 0

    def work_for(self, sizes: Sequence[int]) -> int:
        """Of these, what is there during a step."""
        return corrected(self.factors, self.computed_for(sizes))

    def computed_for(self, sizes: Sequence[int]) -> int:
        """The same before what was measured corrects it."""
        if not sizes:
            return 0
        rows, longest = len(sizes), max(sizes)
        work = self.work_bytes + self.px_bytes * longest + self.strip_bytes * _strip_px(longest)
        prompts, tokens = min(rows, PREFILL_BATCH), min(longest, PREFILL_CHUNK_TOKENS)
        step = prompts * tokens * (self.token_bytes + self.pair_bytes * longest)
        if self.states:
            step = max(step, self.states.layer_bytes(prompts, tokens)) + self.states.held_bytes(prompts, tokens)
        work += step
        # A step of prompts copies caches of these; that of the others grows when they take part, after it.
        caches = self.copies * self.caches_for(sizes)
        return int(max(work + caches * prompts / rows, caches) + self.row_bytes * rows)

    @property
    def smallest_bytes(self) -> int:
        """With one short chat, or one small image."""
        return self.bytes_for([SMALLEST_PX if self.px_bytes else SMALLEST_TOKENS])


def _strip_px(px: int) -> int:
    """Of a square picture."""
    side = math.isqrt(px)
    return side * min(side, STRIP_ROWS)


SMALLEST_TOKENS = 512
SMALLEST_PX = 512 * 512


def cache_bytes(shape: CacheShape, tokens: int) -> int:
    """Keys and values of one sequence of `tokens`."""
    held = tokens + CACHE_SPARE_TOKENS
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


def loaded_bytes(weights_bytes: int, bits: int | None, quantize: int | None) -> int:
    """Weights as they will lie in memory. `bits`: of the checkpoint, None for 16. `quantize`: bits to quantise to while
    loading, None to leave them.

    Quantised weights carry a scale and a bias per group of 64: half a bit more per weight.
    """
    if quantize is not None and bits is None:
        return int(weights_bytes * (quantize + 0.5) / 16)
    return weights_bytes


def chat_needs(
    config: sizes.Config,
    weights_bytes: int,
    *,
    prompt_cache_bytes: int,
    fused: bool,
    cache: CacheShape | None = None,
    factors: Factors = (),
) -> Needs:
    """Of a chat model. `fused`: the device has fused attention. `cache`: as measured, instead of as computed.
    `factors`: measured work by computed work."""
    work = sizes.work(config, fused=fused)
    shape = cache or sizes.cache_shape(config)
    step = PREFILL_BATCH * PREFILL_CHUNK_TOKENS * work.token_bytes
    freed = min(max(step // FREED_SHARE, LEAST_FREED_BYTES), MOST_FREED_BYTES)
    return Needs(
        load_bytes=PROCESS_BYTES["chat"] + weights_bytes + prompt_cache_bytes + freed,
        # A window holds the tokens of a step besides, until the next.
        token_bytes=work.token_bytes + shape.window_token_bytes,
        pair_bytes=work.pair_bytes,
        row_bytes=work.row_bytes,
        states=work.states,
        copies=min(1.0, COPIED_LAYERS / sizes.layers(config)),
        cache=shape,
        factors=factors,
        prompt_cache_bytes=prompt_cache_bytes,
        freed_bytes=freed,
        active=sizes.active_part(config),
    )


def image_needs(family: str, weights_bytes: int, *, builtin: bool, factors: Factors = ()) -> Needs:
    """Of an image model: `weights_bytes` as they lie in memory. `factors`: as for chats."""
    work, px, strip = ENCODER_BYTES, DECODE_PX_BYTES, 0
    if builtin:
        work, px, strip = BUILTIN_WORK_BYTES, BUILTIN_PX_BYTES, BUILTIN_STRIP_BYTES
    elif family.startswith(STRIP_FAMILIES):
        px, strip = STRIPS_PX_BYTES, STRIP_BYTES
    proof = work + px * PROOF_PX if not builtin else 0
    freed = LEAST_FREED_BYTES if builtin else min(max(proof // FREED_SHARE, LEAST_FREED_BYTES), MOST_FREED_BYTES)
    return Needs(
        load_bytes=PROCESS_BYTES["image"] + weights_bytes + freed + proof,
        work_bytes=work,
        px_bytes=px,
        strip_bytes=strip,
        factors=factors,
        proof_bytes=proof,
        freed_bytes=freed,
    )


def prompt_cache_share(setting_bytes: int, budget: int, *, builtin: bool) -> int:
    """What one engine may keep of ended conversations."""
    return min(setting_bytes, BUILTIN_PROMPT_CACHE_BYTES if builtin else budget // PROMPT_CACHE_SHARE)


def longest_tokens(needs: Needs, budget: int, context_tokens: int | None, rows: int = 1) -> int:
    """The longest conversation, in steps of 1,024 tokens, for which `rows` at once fit into the budget; 0 for none."""
    low, high = 0, -(-(context_tokens or 1 << 20) // 1024)
    while low < high:
        middle = (low + high + 1) // 2
        tokens = min(middle * 1024, context_tokens or middle * 1024)
        low, high = (middle, high) if needs.bytes_for([tokens] * rows) <= budget else (low, middle - 1)
    return min(low * 1024, context_tokens or low * 1024)


def too_big(model: str, needed_bytes: int, budget: int) -> HerdError:
    """The refusal of a model that does not fit even on an empty Mac."""
    return HerdError(
        ErrorCode.INSUFFICIENT_MEMORY,
        f"{model} needs about {needed_bytes / GIB:.1f} GiB, and models may take {budget / GIB:.1f} GiB on this Mac.",
        "Choose a smaller or more quantised model (`herd-mcp models`), or lower memory_floor_bytes "
        "(`herd-mcp config`).",
        details={"needed_bytes": needed_bytes, "budget_bytes": budget},
    )
