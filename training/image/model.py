"""FLUX.2's transformer as mflux has it, restated in JAX. Weights are a flat mapping by mflux's own names.

Text is right-padded to 512 tokens and nothing masks the pads. Training may stand in for them with a few: each then
counts for several, by a weight on its attention. Sums and norms are in float32, all else in the weights' type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from training.image import config

Weights = Mapping[str, Any]
EMBEDDING = "embedding"
"""The text encoder's one trained weight, kept with the transformer's while training."""
ROPE_THETA = 2000.0


@dataclass(frozen=True)
class Text:
    """Tokens [batch, T], where each stands, and the logarithm of how many each stands for (None: one each)."""

    ids: Any
    places: Any
    weight: Any = None


def weight_shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Every weight of the transformer and the embedding, as mflux names and shapes them."""
    sizes = config.TRANSFORMER
    head = sizes["attention_head_dim"]
    width = head * sizes["num_attention_heads"]
    inner = int(width * sizes["mlp_ratio"])
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (vocabulary, config.HIDDEN),
        "time_guidance_embed.linear_1.weight": (width, sizes["timestep_guidance_channels"]),
        "time_guidance_embed.linear_2.weight": (width, width),
        "double_stream_modulation_img.linear.weight": (6 * width, width),
        "double_stream_modulation_txt.linear.weight": (6 * width, width),
        "single_stream_modulation.linear.weight": (3 * width, width),
        "x_embedder.weight": (width, config.LATENT),
        "context_embedder.weight": (width, sizes["joint_attention_dim"]),
        "norm_out.linear.weight": (2 * width, width),
        "proj_out.weight": (config.LATENT, width),
    }
    for i in range(sizes["num_layers"]):
        block = f"transformer_blocks.{i}"
        for name in ("to_q", "to_k", "to_v", "to_out", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
            shapes[f"{block}.attn.{name}.weight"] = (width, width)
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            shapes[f"{block}.attn.{name}.weight"] = (head,)
        for name in ("ff", "ff_context"):
            shapes[f"{block}.{name}.linear_in.weight"] = (2 * inner, width)
            shapes[f"{block}.{name}.linear_out.weight"] = (width, inner)
    for i in range(sizes["num_single_layers"]):
        block = f"single_transformer_blocks.{i}.attn"
        shapes[f"{block}.to_qkv_mlp_proj.weight"] = (3 * width + 2 * inner, width)
        shapes[f"{block}.to_out.weight"] = (width, width + inner)
        shapes[f"{block}.norm_q.weight"] = shapes[f"{block}.norm_k.weight"] = (head,)
    return shapes


def initial(vocabulary: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights to begin with: uniform as `nn.Linear` draws them, zero for the last layer and the unused channels."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(vocabulary).items():
        if name == EMBEDDING:
            values = rng.standard_normal(shape) * 0.5
        elif len(shape) == 1:
            values = np.ones(shape)
        elif name == "proj_out.weight":
            values = np.zeros(shape)
        else:
            values = rng.uniform(-1, 1, shape) / math.sqrt(shape[1])
        if name == "x_embedder.weight":
            values[:, config.USED :] = 0
        weights[name] = values.astype(np.float32)
    return weights


def all_pads(ids: Any) -> Text:
    """Text exactly as mflux hands it over: `ids` already hold the pads."""
    places = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.float32), ids.shape)
    return Text(ids, places)


def few_pads(key: Any, ids: Any, lengths: Any) -> Text:
    """`ids` [batch, T] with T below 512: its pads are put at random places, and each counts for as many as it must."""
    batch, tokens = ids.shape
    at = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.float32), ids.shape)
    length = lengths[:, None].astype(jnp.float32)
    is_pad = at >= length
    pads = tokens - length
    every = (config.TEXT_TOKENS - length) / pads
    # One pad at random within each stretch that it stands for.
    spread = jnp.floor(length + (at - length + jax.random.uniform(key, (batch, tokens))) * every)
    places = jnp.where(is_pad, jnp.clip(spread, length, config.TEXT_TOKENS - 1), at)
    return Text(ids, places, jnp.where(is_pad, jnp.log(every), 0.0))


def linear(w: Weights, name: str, x: Any) -> Any:
    return x @ w[f"{name}.weight"].T


def layer_norm(x: Any) -> Any:
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    return (y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)


def rms_norm(weight: Any, x: Any) -> Any:
    y = x.astype(jnp.float32)
    return (y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + 1e-5) * weight.astype(jnp.float32)).astype(x.dtype)


def rope_table(places: Any) -> tuple[Any, Any]:
    """Cosines and sines for places [batch, tokens, 4]."""
    angles = []
    for axis, size in enumerate(config.TRANSFORMER["axes_dims_rope"]):
        speeds = 1.0 / ROPE_THETA ** (np.arange(0, size, 2, dtype=np.float32) / size)
        angles.append(places[..., axis : axis + 1] * speeds)
    angle = jnp.concatenate(angles, -1)[:, None]
    return jnp.cos(angle), jnp.sin(angle)


def rope(x: Any, table: tuple[Any, Any]) -> Any:
    cos, sin = table
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    real, imaginary = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([real * cos - imaginary * sin, imaginary * cos + real * sin], -1)
    return turned.reshape(x.shape).astype(x.dtype)


def split_heads(x: Any) -> Any:
    batch, tokens, _ = x.shape
    return x.reshape(batch, tokens, config.HEADS, config.HEAD_DIM).transpose(0, 2, 1, 3)


def attend(q: Any, k: Any, v: Any, weight: Any) -> Any:
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32) / math.sqrt(config.HEAD_DIM)
    if weight is not None:
        scores = scores + weight[:, None, None, :]
    out = jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores, -1).astype(v.dtype), v)
    batch, heads, tokens, size = out.shape
    return out.transpose(0, 2, 1, 3).reshape(batch, tokens, heads * size)


def swiglu(x: Any) -> Any:
    gate, value = jnp.split(x, 2, -1)
    return jax.nn.silu(gate) * value


def feed_forward(w: Weights, name: str, x: Any) -> Any:
    return linear(w, f"{name}.linear_out", swiglu(linear(w, f"{name}.linear_in", x)))


def timestep_embedding(sigma: Any, dtype: Any) -> Any:
    """mflux keeps the timestep in the latents' type: in bfloat16 it loses all but eight bits."""
    half = config.TRANSFORMER["timestep_guidance_channels"] // 2
    time = (sigma * 1000.0).astype(dtype).astype(jnp.float32)
    angle = time[:, None] * jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)


def double_block(w: Weights, name: str, x: Any, c: Any, mods: Sequence[Any], table: Any, weight: Any) -> Any:
    image, text = mods
    queries, keys, values = [], [], []
    for stream, mod, projections, norms in (
        (c, text, ("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k")),
        (x, image, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k")),
    ):
        normed = (1 + mod[1]) * layer_norm(stream) + mod[0]
        q, k, v = (split_heads(linear(w, f"{name}.attn.{part}", normed)) for part in projections)
        queries.append(rms_norm(w[f"{name}.attn.{norms[0]}.weight"], q))
        keys.append(rms_norm(w[f"{name}.attn.{norms[1]}.weight"], k))
        values.append(v)
    q, k, v = (jnp.concatenate(parts, 2) for parts in (queries, keys, values))
    out = attend(rope(q, table), rope(k, table), v, weight)
    tokens = c.shape[1]
    x = x + image[2] * linear(w, f"{name}.attn.to_out", out[:, tokens:])
    c = c + text[2] * linear(w, f"{name}.attn.to_add_out", out[:, :tokens])
    x = x + image[5] * feed_forward(w, f"{name}.ff", (1 + image[4]) * layer_norm(x) + image[3])
    c = c + text[5] * feed_forward(w, f"{name}.ff_context", (1 + text[4]) * layer_norm(c) + text[3])
    return x, c


def single_block(w: Weights, name: str, h: Any, mod: Sequence[Any], table: Any, weight: Any) -> Any:
    width = h.shape[-1]
    projected = linear(w, f"{name}.attn.to_qkv_mlp_proj", (1 + mod[1]) * layer_norm(h) + mod[0])
    q, k, v = (split_heads(part) for part in jnp.split(projected[..., : 3 * width], 3, -1))
    q = rope(rms_norm(w[f"{name}.attn.norm_q.weight"], q), table)
    k = rope(rms_norm(w[f"{name}.attn.norm_k.weight"], k), table)
    out = jnp.concatenate([attend(q, k, v, weight), swiglu(projected[..., 3 * width :])], -1)
    return h + mod[2] * linear(w, f"{name}.attn.to_out", out)


def velocity(w: Weights, latents: Any, text: Text, sigma: Any, rows: int, columns: int) -> Any:
    """noise − picture, for latents [batch, rows·columns, 128] of noise level `sigma` [batch]."""
    dtype = w["x_embedder.weight"].dtype
    batch, tokens = text.ids.shape
    # The embedding's gradient by a matrix product: adding up by index is not deterministic on a GPU.
    embedded = jax.nn.one_hot(text.ids, w[EMBEDDING].shape[0], dtype=dtype) @ w[EMBEDDING].astype(dtype)
    c = linear(w, "context_embedder", jnp.concatenate([embedded] * 3, -1))
    x = linear(w, "x_embedder", latents.astype(dtype))

    time = linear(w, "time_guidance_embed.linear_1", timestep_embedding(sigma, dtype).astype(dtype))
    time = jax.nn.silu(linear(w, "time_guidance_embed.linear_2", jax.nn.silu(time)))

    def modulation(name: str, count: int) -> Sequence[Any]:
        parts: Sequence[Any] = jnp.split(linear(w, f"{name}.linear", time)[:, None], count, -1)
        return parts

    grid = np.zeros((1, rows * columns, 4), np.float32)
    grid[0, :, 1], grid[0, :, 2] = np.repeat(np.arange(rows), columns), np.tile(np.arange(columns), rows)
    image_places = jnp.broadcast_to(jnp.asarray(grid), (batch, rows * columns, 4))
    text_places = jnp.zeros((batch, tokens, 4)).at[:, :, 3].set(text.places)
    table = rope_table(jnp.concatenate([text_places, image_places], 1))
    weight = None if text.weight is None else jnp.pad(text.weight, ((0, 0), (0, rows * columns)))

    mods = modulation("double_stream_modulation_img", 6), modulation("double_stream_modulation_txt", 6)
    for i in range(config.TRANSFORMER["num_layers"]):
        x, c = double_block(w, f"transformer_blocks.{i}", x, c, mods, table, weight)
    h = jnp.concatenate([c, x], 1)
    mod = modulation("single_stream_modulation", 3)
    for i in range(config.TRANSFORMER["num_single_layers"]):
        h = single_block(w, f"single_transformer_blocks.{i}", h, mod, table, weight)
    scale, shift = jnp.split(linear(w, "norm_out.linear", time)[:, None], 2, -1)
    return linear(w, "proj_out", layer_norm(h[:, tokens:]) * (1 + scale) + shift)


def sigmas(image_tokens: int, steps: int) -> NDArray[np.float64]:
    """mflux's schedule for FLUX.2 (`FlowMatchEulerDiscreteScheduler.get_timesteps_and_sigmas`), ending in 0."""
    at_200 = 0.00016927 * image_tokens + 0.45666666
    at_10 = 8.73809524e-05 * image_tokens + 1.89833333
    slope = (at_200 - at_10) / 190.0
    shift = math.exp(slope * steps + at_200 - 200.0 * slope)
    straight = np.linspace(1.0, 1.0 / steps, steps)
    return np.append(shift / (shift + (1.0 / straight - 1.0)), 0.0)


def draw(w: Weights, noise: Any, text: Text, rows: int, columns: int, steps: int) -> Any:
    """Latents from noise, in mflux's steps."""
    schedule = sigmas(rows * columns, steps)
    x = noise
    for now, after in pairwise(schedule):
        level = jnp.full((x.shape[0],), now, jnp.float32)
        x = x + (after - now) * velocity(w, x, text, level, rows, columns).astype(x.dtype)
    return x
