"""Tiny chat models built by code: random ones of the qwen3 family with a byte-level tokenizer."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

from tests.engines.byte_tokenizer import TEMPLATE, write_tokenizer

NAME = "tiny-qwen3"
CONTEXT_TOKENS = 8192
HEAD_DIM = 64


def kv_bytes_per_token(layers: int, width: int) -> int:
    """Keys and values in numbers of 4 bytes; there are half as many heads for them as for queries."""
    return 2 * layers * _kv_heads(width) * HEAD_DIM * 4


def _kv_heads(width: int) -> int:
    return max(1, width // HEAD_DIM // 2)


def build(folder: Path, layers: int = 4, width: int = 256) -> Path:
    """Write the model into `folder`/NAME and return that. `width` is a multiple of HEAD_DIM.

    It says nothing but lower-case letters and never ends by itself: answers have the length that was asked for, and
    their text is read back as the very same tokens.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import qwen3

    path = folder / NAME
    path.mkdir(parents=True)
    tokenizer = write_tokenizer(path, TEMPLATE)
    config: dict[str, Any] = {
        "model_type": "qwen3",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": 3 * width,
        "num_attention_heads": width // HEAD_DIM,
        "num_key_value_heads": _kv_heads(width),
        "head_dim": HEAD_DIM,
        "rms_norm_eps": 1e-6,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": CONTEXT_TOKENS,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": False,
    }
    mx.random.seed(0)
    model = qwen3.Model(qwen3.ModelArgs.from_dict(config))
    letters = {tokenizer.token_to_id(letter) for letter in string.ascii_lowercase}
    said = [[float(token in letters)] for token in range(config["vocab_size"])]
    # A logit of 0 is never the largest among 26 random ones.
    model.lm_head.weight = model.lm_head.weight * mx.array(said)
    config["eos_token_id"] = tokenizer.token_to_id("<|im_end|>")
    (path / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(path / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    return path


def text(seed: int, chars: int) -> str:
    """Words that no other seed begins with; one character is one token."""
    words = [f"[{seed}]"]
    number = seed * 2_654_435_761 % 2**32
    while sum(map(len, words)) + len(words) <= chars:
        number = (number * 1_103_515_245 + 12_345) % 2**31
        words.append(string.ascii_lowercase[number % 26] * (2 + (number >> 8) % 7))
    return " ".join(words)[:chars]
