"""qwen3 in JAX, with the names of Hugging Face's weights, and AdamW."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

Weights = dict[str, jax.Array]

DROP = 0.1


@dataclass(frozen=True)
class Shape:
    """What `config.json` says."""

    vocab_size: int
    hidden: int = 256
    layers: int = 4
    inner: int = 512
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    eps: float = 1e-6
    rope_theta: float = 10_000.0
    context_tokens: int = 4096


def make_weights(shape: Shape, seed: int) -> Weights:
    """Random weights to start from."""
    key = jax.random.key(seed)
    weights: Weights = {}

    def normal(name: str, rows: int, columns: int, scale: float) -> None:
        nonlocal key
        key, now = jax.random.split(key)
        weights[name] = scale * jax.random.normal(now, (rows, columns), jnp.float32)

    hidden, inner = shape.hidden, shape.inner
    narrow = 1 / math.sqrt(2 * shape.layers)
    normal("model.embed_tokens.weight", shape.vocab_size, hidden, 0.03)
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        normal(f"{at}self_attn.q_proj.weight", shape.heads * shape.head_dim, hidden, hidden**-0.5)
        normal(f"{at}self_attn.k_proj.weight", shape.kv_heads * shape.head_dim, hidden, hidden**-0.5)
        normal(f"{at}self_attn.v_proj.weight", shape.kv_heads * shape.head_dim, hidden, hidden**-0.5)
        normal(f"{at}self_attn.o_proj.weight", hidden, shape.heads * shape.head_dim, narrow * hidden**-0.5)
        normal(f"{at}mlp.gate_proj.weight", inner, hidden, hidden**-0.5)
        normal(f"{at}mlp.up_proj.weight", inner, hidden, hidden**-0.5)
        normal(f"{at}mlp.down_proj.weight", hidden, inner, narrow * inner**-0.5)
        for name, size in (
            ("input_layernorm", hidden),
            ("post_attention_layernorm", hidden),
            ("self_attn.q_norm", shape.head_dim),
            ("self_attn.k_norm", shape.head_dim),
        ):
            weights[f"{at}{name}.weight"] = jnp.ones(size, jnp.float32)
    weights["model.norm.weight"] = jnp.ones(hidden, jnp.float32)
    return weights


def logits(
    weights: Weights, shape: Shape, tokens: jax.Array, segments: jax.Array, key: jax.Array | None = None
) -> jax.Array:
    """Scores of the next token. `tokens` and `segments` are [rows, length]; a token sees its own segment only.

    With a `key`, in the first half of the training, a share DROP of what each part says is left out at random.
    """
    keys = iter([None] * (2 * shape.layers + 1) if key is None else list(jax.random.split(key, 2 * shape.layers + 1)))
    length = tokens.shape[1]
    seen = (segments[:, :, None] == segments[:, None, :]) & jnp.tril(jnp.ones((length, length), bool))
    cos, sin = _rope(shape, length)
    low = {name: weight.astype(jnp.bfloat16) for name, weight in weights.items()}
    x = _drop(low["model.embed_tokens.weight"][tokens], next(keys))
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        inner = _norm(x, low[f"{at}input_layernorm.weight"], shape.eps)
        x = x + _drop(_attention(low, shape, at, inner, seen, cos, sin), next(keys))
        inner = _norm(x, low[f"{at}post_attention_layernorm.weight"], shape.eps)
        gate = jax.nn.silu(inner @ low[f"{at}mlp.gate_proj.weight"].T)
        inner = (gate * (inner @ low[f"{at}mlp.up_proj.weight"].T)) @ low[f"{at}mlp.down_proj.weight"].T
        x = x + _drop(inner, next(keys))
    x = _norm(x, low["model.norm.weight"], shape.eps)
    return (x @ low["model.embed_tokens.weight"].T).astype(jnp.float32)


def _drop(x: jax.Array, key: jax.Array | None) -> jax.Array:
    if key is None:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - DROP, x.shape), x / (1 - DROP), 0).astype(x.dtype)


def _attention(
    weights: Weights, shape: Shape, at: str, x: jax.Array, seen: jax.Array, cos: jax.Array, sin: jax.Array
) -> jax.Array:
    rows, length, _ = x.shape

    def heads(name: str, number: int) -> jax.Array:
        return (x @ weights[f"{at}self_attn.{name}_proj.weight"].T).reshape(rows, length, number, shape.head_dim)

    q = _turn(_norm(heads("q", shape.heads), weights[f"{at}self_attn.q_norm.weight"], shape.eps), cos, sin)
    k = _turn(_norm(heads("k", shape.kv_heads), weights[f"{at}self_attn.k_norm.weight"], shape.eps), cos, sin)
    out = jax.nn.dot_product_attention(q, k, heads("v", shape.kv_heads), mask=seen[:, None])
    return out.reshape(rows, length, -1) @ weights[f"{at}self_attn.o_proj.weight"].T


def _norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)).astype(x.dtype) * weight


def _rope(shape: Shape, length: int) -> tuple[jax.Array, jax.Array]:
    half = shape.head_dim // 2
    angles = jnp.arange(length)[:, None] * shape.rope_theta ** (-jnp.arange(half) / half)[None, :]
    return jnp.cos(angles)[None, :, None, :], jnp.sin(angles)[None, :, None, :]


def _turn(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def loss(
    weights: Weights, shape: Shape, tokens: jax.Array, segments: jax.Array, counts: jax.Array, key: jax.Array | None
) -> jax.Array:
    """Mean cross-entropy of the tokens that `counts` marks."""
    scores = logits(weights, shape, tokens[:, :-1], segments[:, :-1], key)
    targets = tokens[:, 1:]
    chosen = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
    each = jax.nn.logsumexp(scores, axis=-1) - chosen
    weight = counts[:, 1:].astype(jnp.float32)
    return jnp.sum(each * weight) / jnp.maximum(jnp.sum(weight), 1)


def adamw(
    weights: Weights, slopes: Weights, moments: tuple[Weights, Weights], step: jax.Array, rate: jax.Array, decay: float
) -> tuple[Weights, tuple[Weights, Weights]]:
    """One step of AdamW, gradients cut at norm 1; decay on matrices only."""
    beta1, beta2 = 0.9, 0.98
    norm = jnp.sqrt(sum((jnp.sum(slope * slope) for slope in slopes.values()), jnp.float32(0)))
    cut = jnp.minimum(1.0, 1.0 / (norm + 1e-6))
    new: Weights = {}
    first: Weights = {}
    second: Weights = {}
    for name, weight in weights.items():
        slope = slopes[name] * cut
        first[name] = beta1 * moments[0][name] + (1 - beta1) * slope
        second[name] = beta2 * moments[1][name] + (1 - beta2) * slope * slope
        move = (first[name] / (1 - beta1**step)) / (jnp.sqrt(second[name] / (1 - beta2**step)) + 1e-9)
        if weight.ndim > 1:
            move = move + decay * weight
        new[name] = weight - rate * move
    return new, (first, second)


def config(shape: Shape, eos: int) -> dict[str, Any]:
    """`config.json`, as mlx-lm's qwen3 reads it."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.inner,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.rope_theta,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.context_tokens,
        "tie_word_embeddings": True,
        "eos_token_id": eos,
        "torch_dtype": "bfloat16",
    }
