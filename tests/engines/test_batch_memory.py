"""What mlx-lm's batches really take, which the ledger's arithmetic takes for granted: rows times the longest, and not
more than `COPIED_LAYERS` of them twice while rows join and leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from herd_mcp.node.memory import COPIED_LAYERS
from herd_mcp.pipe import CACHE_SPARE_TOKENS, PREFILL_BATCH, PREFILL_CHUNK_TOKENS
from tests.engines.random_model import build

LAYERS, HEAD_DIM = 12, 64
TOKEN_BYTES = LAYERS * 2 * HEAD_DIM * 4
SIZES: dict[str, Any] = {
    "family": "qwen3", "hidden_size": 32, "num_hidden_layers": LAYERS, "intermediate_size": 32, "head_dim": HEAD_DIM,
    "num_attention_heads": 1, "num_key_value_heads": 1, "rms_norm_eps": 1e-6, "max_position_embeddings": 16384,
    "rope_theta": 1e4,
}  # fmt: skip


class Batch:
    """A batch generator whose prompts come with their caches, so that no prompt's activations hide what they take."""

    def __init__(self, folder: Path) -> None:
        self._model, _ = load_model(build(folder, **SIZES))
        self._batch: Any = BatchGenerator(
            self._model, prefill_batch_size=PREFILL_BATCH, prefill_step_size=PREFILL_CHUNK_TOKENS,
            stream=mx.default_stream(mx.default_device()),
        )  # fmt: skip
        mx.clear_cache()
        self._before_bytes = mx.get_active_memory()
        self._most_bytes = 0
        mx.reset_peak_memory()

    def insert(self, tokens: int) -> None:
        self._most_bytes = self.peak_bytes
        cache = make_prompt_cache(self._model)
        for layer in cache:
            layer.update_and_fetch(mx.ones((1, 1, tokens, HEAD_DIM)), mx.ones((1, 1, tokens, HEAD_DIM)))
        mx.eval([layer.state for layer in cache])
        mx.reset_peak_memory()  # what it took to make them is ours
        self._batch.insert([[1, 2]], max_tokens=[1000], caches=[cache])

    def decode(self, rows: int) -> None:
        """Until so many rows take part, and then three tokens of each."""
        while len(self._batch._generation_batch) < rows:
            self._batch.next()
        for _ in range(3):
            self._batch.next()

    def leave(self) -> None:
        self._batch.remove([self._batch._generation_batch.uids[-1]])
        self._batch.next()

    @property
    def held_bytes(self) -> int:
        mx.synchronize()
        return mx.get_active_memory() - self._before_bytes

    @property
    def peak_bytes(self) -> int:
        return max(self._most_bytes, mx.get_peak_memory() - self._before_bytes)


@pytest.mark.parametrize("tokens", [512, 2048, pytest.param(8192, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rows", [1, 4, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["together", "one by one", "one long"])
def test_a_batch_takes_rows_times_its_longest(tmp_path: Path, how: str, rows: int, tokens: int) -> None:
    batch = Batch(tmp_path / "model")
    expected_bytes = rows * (tokens + CACHE_SPARE_TOKENS) * TOKEN_BYTES
    for row in range(rows):
        batch.insert(64 if how == "one long" and row else tokens - 5)
        if how == "one by one":
            batch.decode(row + 1)
    batch.decode(rows)
    assert 0.85 * expected_bytes < batch.held_bytes < 1.02 * expected_bytes
    batch.leave()
    assert batch.peak_bytes < (1 + COPIED_LAYERS / LAYERS) * expected_bytes
