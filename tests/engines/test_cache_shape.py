"""What a sequence's caches take, as it is measured at load, against what they take when they are really filled."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import QuantizedKVCache, make_prompt_cache
from mlx_lm.utils import load_model

from herd_mcp.engines.cache_shape import shape_of
from herd_mcp.node.memory import cache_bytes
from herd_mcp.pipe import CACHE_SPARE_TOKENS, CacheShape
from tests.engines.random_model import build
from tests.engines.test_prompt_cache import FAMILIES, WINDOW_TOKENS

CHUNK_TOKENS = 128
FAMILIES = {
    **FAMILIES,
    "both in one layer": {
        "family": "falcon_h1", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "mamba_d_ssm": 32, "mamba_d_head": 16, "mamba_n_heads": 2,
        "mamba_d_state": 8, "mamba_chunk_size": 16, "max_position_embeddings": 4096,
    },
    "latent attention": {
        "family": "deepseek_v3", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32,
        "moe_intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 16,
        "q_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "qk_nope_head_dim": 8, "first_k_dense_replace": 2,
        "n_routed_experts": None, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "max_position_embeddings": 4096,
    },
}  # fmt: skip


def load(folder: Path, family: str) -> Any:
    model, _ = load_model(build(folder / "model", **FAMILIES[family]))
    return model


def filled_bytes(model: Any, tokens: int) -> tuple[int, int]:
    """What the caches hold after a prompt of so many tokens, at the end and at the most."""
    cache = make_prompt_cache(model)
    most = 0
    while tokens:
        part = min(CHUNK_TOKENS, tokens)
        model(mx.ones((1, part), mx.int32), cache=cache)
        mx.eval([layer.state for layer in cache])
        tokens -= part
        most = max(most, sum(layer.nbytes for layer in cache))
    return sum(layer.nbytes for layer in cache), most


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shape_says_what_filled_caches_take(tmp_path: Path, family: str) -> None:
    model = load(tmp_path, family)
    shape = shape_of(model, CHUNK_TOKENS)
    assert shape is not None
    for tokens in (CHUNK_TOKENS, 256, 512, 1024):
        _, most = filled_bytes(model, tokens)
        blocks = -(-tokens // CACHE_SPARE_TOKENS)  # one sequence has no more; a batch has one besides
        filled = cache_bytes(shape, (blocks - 1) * CACHE_SPARE_TOKENS)
        assert most <= filled <= most * 1.01 + shape.window_token_bytes * CHUNK_TOKENS


def test_each_kind_of_layer_is_counted_as_what_it_is(tmp_path: Path) -> None:
    shapes = {family: shape_of(load(tmp_path / family, family), CHUNK_TOKENS) for family in FAMILIES}
    kv_bytes = 2 * 16 * 4  # keys and values of one head, 16 wide, four bytes each
    assert shapes["whole history"] == CacheShape(token_bytes=2 * kv_bytes)
    assert shapes["sliding window"] == CacheShape(
        token_bytes=kv_bytes, window_token_bytes=kv_bytes, window_tokens=WINDOW_TOKENS + CHUNK_TOKENS - 1
    )
    for family, grows in (("state space", False), ("both in one layer", True), ("latent attention", True)):
        shape = shapes[family]
        assert shape is not None
        assert (shape.token_bytes > 0) is grows
        assert (shape.fixed_bytes > 0) is (family != "latent attention")


def test_quantised_caches_are_counted_with_their_scales(tmp_path: Path) -> None:
    sizes = {**FAMILIES["whole history"], "head_dim": 64}
    model, _ = load_model(build(tmp_path / "model", **sizes))
    model.make_cache = lambda: [QuantizedKVCache(group_size=64, bits=4) for _ in model.layers]
    eight_codes_per_word, scale_and_bias = 64 // 8 * 4, 2 * 4
    assert shape_of(model, CHUNK_TOKENS) == CacheShape(token_bytes=2 * 2 * (eight_codes_per_word + scale_and_bias))


def test_a_model_whose_caches_do_not_tell_has_no_shape() -> None:
    class Silent:
        def make_cache(self) -> list[object]:
            return [object()]

        def __call__(self, tokens: mx.array, cache: list[object]) -> None: ...

    assert shape_of(Silent(), CHUNK_TOKENS) is None


def test_measuring_computes_nothing(tmp_path: Path) -> None:
    sizes = {**FAMILIES["whole history"], "num_hidden_layers": 40, "num_key_value_heads": 64, "num_attention_heads": 64}
    model, _ = load_model(build(tmp_path / "model", **sizes))
    mx.eval(model.parameters())
    mx.reset_peak_memory()
    held_bytes = mx.get_active_memory()
    began = time.process_time()
    shape = shape_of(model, CHUNK_TOKENS)
    assert time.process_time() - began < 1
    assert shape is not None
    assert max(mx.get_peak_memory(), held_bytes) - held_bytes < shape.token_bytes
