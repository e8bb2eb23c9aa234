"""The KV caches of finished conversations, so that their next turn computes only what is new."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import mlx.core as mx
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    LRUPromptCache,
    PromptTrie,
    PromptTrieResult,
    RotatingKVCache,
    can_trim_prompt_cache,
    make_prompt_cache,
    trim_prompt_cache,
)

_NO_COUNT_LIMIT = 1 << 62
"""The bound is bytes. A bound in sequences makes returning users miss while memory is free."""


Shared = Literal["assistant", "user", "system"]
"""mlx-lm's words for what an entry ends with; of the first kind that is as numerous as the next, the oldest goes."""


def forgets(model: Any) -> bool:
    """Whether the model's cache cannot be cut back to an earlier token: sliding windows and state-space models.

    Of such a cache only the whole can be used again, so it has to be kept where a later prompt will have left it.
    """
    return any(_layer_forgets(layer) for layer in make_prompt_cache(model))


def _layer_forgets(layer: Any) -> bool:
    if isinstance(layer, CacheList):
        return any(_layer_forgets(inner) for inner in layer.caches)
    # A window says that it can be cut for as long as it is not full.
    return isinstance(layer, RotatingKVCache | ArraysCache) or not layer.is_trimmable()


def _states(cache: Iterable[Any]) -> Iterator[ArraysCache]:
    for layer in cache:
        if isinstance(layer, CacheList):
            yield from _states(layer.caches)
        elif isinstance(layer, ArraysCache):
            yield layer


class _Trie(PromptTrie):  # type: ignore[misc]
    """mlx-lm's, but for its way to an entry that goes on behind the common prefix.

    It looks through the continuations of all conversations for the shortest, in the square of their lengths: seconds
    for a few of 10,000 tokens, in which every stream of the engine stands still. Any of them is as good, since it is
    cut back to the common prefix.
    """

    def search(self, model: Any, tokens: list[int]) -> PromptTrieResult:
        current = self._trie.get(model)
        if current is None:
            return PromptTrieResult(model, None, None, None, 0)
        shorter, common = 0, 0
        for token in tokens:
            if token not in current:
                break
            current = current[token]
            common += 1
            if "__value__" in current:
                shorter = common
        if shorter == len(tokens) > 0:
            return PromptTrieResult(model, tokens, None, None, 0)
        longer = None
        if common:
            longer = tokens[:common]
            while "__value__" not in current:
                token, current = next(iter(current.items()))
                longer.append(token)
        return PromptTrieResult(model, None, tokens[:shorter] or None, longer, common)


class PromptCache:
    """mlx-lm's prefix trie, bounded in bytes. `max_bytes=0` keeps nothing."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._caches = LRUPromptCache(max_size=_NO_COUNT_LIMIT, max_bytes=max_bytes)
        self._caches._trie = _Trie()

    @property
    def nbytes(self) -> int:
        return int(self._caches.nbytes)

    @property
    def keeps(self) -> bool:
        return self._max_bytes > 0

    def limit(self, max_bytes: int) -> None:
        """A new bound; what is over it goes, oldest first."""
        self._max_bytes = self._caches.max_bytes = max_bytes
        self._caches.trim_to(n_bytes=max_bytes)

    def fetch(self, ids: list[int]) -> tuple[list[Any] | None, int]:
        """A copy of the cache with the longest common prefix, and that prefix's length; at least one token of `ids`
        is always left to compute, since the model needs an input to say something."""
        if not self.keeps or len(ids) < 2:
            return None, 0
        cache, rest = self._caches.fetch_nearest_cache("", ids)
        if cache is not None and not rest:
            if can_trim_prompt_cache(cache):
                trim_prompt_cache(cache, 1)
                return cache, len(ids) - 1
            cache, rest = self._caches.fetch_nearest_cache("", ids[:-1])
            rest = [*rest, ids[-1]]
        if cache is None:
            return None, 0
        return cache, len(ids) - len(rest)

    def keep(self, ids: list[int], cache: list[Any], shared: Shared = "assistant") -> None:
        """Remember the cache of `ids`. One that is larger than the whole bound is not kept, nor are others evicted."""
        if not self.keeps or sum(layer.nbytes for layer in cache) > self._max_bytes:
            return
        # A row taken out of a batch holds the whole batch's memory until it is copied and computed. mlx-lm copies keys
        # and values and not states.
        for states in _states(cache):
            states.cache = [None if state is None else mx.contiguous(state) for state in states.cache]
        mx.eval([layer.state for layer in cache])
        self._caches.insert_cache("", list(ids), cache, cache_type=shared)
