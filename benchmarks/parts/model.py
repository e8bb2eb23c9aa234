"""Tiny chat models built by code: random ones of the qwen3 family with a byte-level tokenizer."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

NAME = "tiny-qwen3"
CONTEXT_TOKENS = 8192
HEAD_DIM = 64


def kv_bytes_per_token(layers: int, width: int) -> int:
    """Keys and values in numbers of 4 bytes; there are half as many heads for them as for queries."""
    return 2 * layers * _kv_heads(width) * HEAD_DIM * 4


def _kv_heads(width: int) -> int:
    return max(1, width // HEAD_DIM // 2)


def build(
    folder: Path,
    layers: int = 4,
    width: int = 256,
    *,
    name: str = NAME,
    letters: str = string.ascii_lowercase,
    experts: int = 0,
) -> Path:
    """Write the model into `folder`/`name` and return that. `width` is a multiple of HEAD_DIM; `letters` are all that
    it ever says, which tells its answers from another's. With `experts`, of which each token uses one, it is large and
    no slower."""
    from tests.engines import random_model  # imports MLX, which takes a second

    mixture: dict[str, Any] = {
        "num_experts": experts,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": width,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    }
    return random_model.build(
        folder / name,
        "qwen3_moe" if experts else "qwen3",
        letters,
        **(mixture if experts else {}),
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=3 * width,
        num_attention_heads=width // HEAD_DIM,
        num_key_value_heads=_kv_heads(width),
        head_dim=HEAD_DIM,
        rms_norm_eps=1e-6,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_theta=1_000_000.0,
    )


def text(seed: int, chars: int) -> str:
    """Words that no other seed begins with; one character is one token."""
    words = [f"[{seed}]"]
    number = seed * 2_654_435_761 % 2**32
    while sum(map(len, words)) + len(words) <= chars:
        number = (number * 1_103_515_245 + 12_345) % 2**31
        words.append(string.ascii_lowercase[number % 26] * (2 + (number >> 8) % 7))
    return " ".join(words)[:chars]
