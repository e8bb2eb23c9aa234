"""What a config says of caches, and how many tokens a request may have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from herd_mcp.jobs import Tool
from herd_mcp.node.memory import chat_needs
from herd_mcp.node.models import mlx_lm_folder
from herd_mcp.node.needs import chat_config
from herd_mcp.node.sizes import LATENT_FAMILIES, WINDOW_FAMILIES, cache_shape, text_tokens, tokens_at_most
from herd_mcp.pipe import CacheShape
from herd_mcp.settings import GIB
from tests.engines.pipe_client import ask_chat

BASE: dict[str, Any] = {
    "model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "torch_dtype": "bfloat16",
}  # fmt: skip
DENSE = 4 * 2 * 2 * 16 * 2
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_n_groups": 1}
STATE = 4 * (32 * 16 + 3 * (32 + 2 * 16))
LATENT = {"kv_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}


def shape(**fields: Any) -> CacheShape:
    return cache_shape({**BASE, **fields})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, CacheShape(token_bytes=DENSE)),
        ({"torch_dtype": "float32"}, CacheShape(token_bytes=2 * DENSE)),
        ({"torch_dtype": None, "dtype": "float16"}, CacheShape(token_bytes=DENSE)),
        ({"torch_dtype": None}, CacheShape(token_bytes=2 * DENSE)),
        ({"head_dim": None}, CacheShape(token_bytes=DENSE)),
        ({"num_key_value_heads": None}, CacheShape(token_bytes=2 * DENSE)),
        ({"quantization": {"bits": 4}}, CacheShape(token_bytes=DENSE)),
        ({"sliding_window": 8}, CacheShape(token_bytes=DENSE)),
        (
            {"model_type": "gemma3_text", "sliding_window": 8, "sliding_window_pattern": 4},
            CacheShape(token_bytes=DENSE // 4, window_token_bytes=3 * DENSE // 4, window_tokens=8),
        ),
        (
            {"model_type": "llama", "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
            CacheShape(token_bytes=DENSE // 2, window_token_bytes=DENSE // 2, window_tokens=8),
        ),
        (
            {"model_type": "gpt_oss", "sliding_window": 8},
            CacheShape(token_bytes=DENSE // 2, window_token_bytes=DENSE // 2, window_tokens=8),
        ),
        ({"model_type": "deepseek_v3", **LATENT}, CacheShape(token_bytes=4 * (32 + 8) * 2)),
        ({"model_type": "deepseek_v2", **LATENT}, CacheShape(token_bytes=4 * 4 * (16 + 8 + 16) * 2)),
        ({"model_type": "mamba2", "num_heads": 4, "head_dim": 8, "state_size": 16}, CacheShape(fixed_bytes=4 * STATE)),
        (
            {"model_type": "granitemoehybrid", "layer_types": ["mamba", "mamba", "mamba", "attention"], **MAMBA},
            CacheShape(token_bytes=DENSE // 4, fixed_bytes=3 * STATE),
        ),
        ({"model_type": "falcon_h1", **MAMBA}, CacheShape(token_bytes=DENSE, fixed_bytes=4 * STATE)),
        ({"model_type": "never_heard_of"}, CacheShape(token_bytes=DENSE)),
    ],
)  # fmt: skip
def test_a_cache_is_counted_as_the_family_keeps_it(fields: dict[str, Any], expected: CacheShape) -> None:
    assert shape(**fields) == expected


def test_a_model_that_also_sees_is_counted_by_its_text_part() -> None:
    assert cache_shape({"model_type": "gemma3", "torch_dtype": "bfloat16", "text_config": BASE}) == shape()


@pytest.mark.parametrize("config", [{}, {"num_hidden_layers": "x", "hidden_size": -1}, {"text_config": 3}])
def test_a_config_that_makes_no_sense_has_a_shape_too(config: dict[str, Any]) -> None:
    assert cache_shape(config).token_bytes > 0


@pytest.mark.parametrize("family", sorted(WINDOW_FAMILIES - {"mistral"}))
def test_the_families_with_windows_have_them_in_the_installed_library(family: str) -> None:
    folder = mlx_lm_folder()
    assert folder is not None
    assert "RotatingKVCache(" in (folder / "models" / f"{family}.py").read_text()


def test_the_families_with_latents_keep_them_in_the_installed_library() -> None:
    folder = mlx_lm_folder()
    assert folder is not None
    for family in ("deepseek_v3", "deepseek_v32", "glm4_moe_lite", "mistral4", "longcat_flash"):
        assert family in LATENT_FAMILIES
        assert "update_and_fetch(kv_latent" in (folder / "models" / f"{family}.py").read_text()


def test_what_a_published_config_leaves_out_is_taken_from_the_library(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 12}}'
    )
    inner = chat_config(tmp_path)["text_config"]
    assert (inner["head_dim"], inner["sliding_window_pattern"], inner["num_hidden_layers"]) == (256, 6, 12)


# ── Requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tokens_are_estimated_from_above_by_characters() -> None:
    assert text_tokens("") == 0
    assert text_tokens("abcd") == 2
    assert text_tokens("日本語") == 3
    assert text_tokens("aé") == 2
    short = tokens_at_most(ask_chat("x" * 300, max_tokens=50), 4096, None)
    assert 150 < short < 300
    assert tokens_at_most(ask_chat("x" * 300), 4096, None) == short + 4046
    assert tokens_at_most(ask_chat("x" * 300), 4096, 1000) == 1000
    tool = Tool(name="look", description="d" * 600)
    assert tokens_at_most(ask_chat("x" * 300, max_tokens=50, tools=(tool,)), 4096, None) > short + 400


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "num_hidden_layers": 10**9},
        {"model_type": "mamba", "num_hidden_layers": 10**12},
        {"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 10**400},
        {"model_type": "llama", "num_hidden_layers": 32, "head_dim": 2**31 - 1, "num_key_value_heads": 2**31 - 1},
        {"model_type": "mamba2", "num_hidden_layers": 64, "mamba_num_heads": 2**31 - 1, "head_dim": 2**31 - 1},
        {"model_type": "nemotron_h", "num_hidden_layers": 4, "hybrid_override_pattern": 5},
        {"model_type": "nemotron_h", "num_hidden_layers": 4, "layers_block_type": True},
        {"model_type": ["llama"], "num_hidden_layers": "many", "sliding_window": {}, "layer_types": {"a": 1}},
        {"model_type": "lfm2", "num_hidden_layers": 4, "full_attn_idxs": [[], {}]},
        {"model_type": "llama", "text_config": {"text_config": [], "num_hidden_layers": -1, "torch_dtype": []}},
    ],
)
def test_a_config_of_nonsense_has_sizes_and_takes_nobody_along(config: dict[str, object]) -> None:
    needs = chat_needs(config, GIB, prompt_cache_bytes=0, fused=True)
    assert needs.smallest_bytes > GIB
