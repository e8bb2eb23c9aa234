"""How a chat model's caches grow, measured from the caches themselves: formulas over config.json are wrong for latent
attention, sliding windows and state spaces."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import CacheList, RotatingKVCache, make_prompt_cache

from herd_mcp.pipe import CacheShape

log = logging.getLogger("herd_mcp.engine")

PART_TOKENS = 256
"""mlx-lm's caches grow by blocks of so many; over whole blocks, what they hold is what is in them."""


def shape_of(model: Any, chunk_tokens: int) -> CacheShape | None:
    """The bytes that one sequence takes, None where the caches do not tell.

    Two parts of a prompt go through the model and nothing is computed: MLX knows the size of what it has yet to
    compute. A sliding window holds, while a prompt is computed in chunks of `chunk_tokens`, one chunk more than it
    will look at.
    """
    try:
        cache = make_prompt_cache(model)
        layers = list(_layers(cache))
        model(mx.zeros((1, PART_TOKENS), mx.int32), cache=cache)
        first_bytes = [int(layer.nbytes) for layer in layers]
        model(mx.zeros((1, PART_TOKENS), mx.int32), cache=cache)
        return _shape(layers, first_bytes, chunk_tokens)
    except Exception as error:  # whatever a model's own code trips over; it has said its token, so it works
        log.warning("how the caches of this model grow is not known: %s: %s", type(error).__name__, error)
        return None


def _shape(layers: list[Any], first_bytes: list[int], chunk_tokens: int) -> CacheShape:
    token_bytes = window_token_bytes = window_tokens = fixed_bytes = 0
    for layer, before_bytes in zip(layers, first_bytes, strict=True):
        if isinstance(layer, RotatingKVCache):
            window_token_bytes += layer.nbytes // layer.keys.shape[2]
            window_tokens = max(window_tokens, layer.max_size + chunk_tokens - 1)
        else:
            grown_bytes = (layer.nbytes - before_bytes) // PART_TOKENS
            token_bytes += grown_bytes
            fixed_bytes += max(0, before_bytes - grown_bytes * PART_TOKENS)
    return CacheShape(
        token_bytes=token_bytes,
        window_token_bytes=window_token_bytes,
        window_tokens=window_tokens,
        fixed_bytes=fixed_bytes,
    )


def _layers(caches: Iterable[Any]) -> Iterator[Any]:
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from _layers(cache.caches)
        else:
            yield cache
