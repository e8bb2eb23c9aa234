"""FLUX.2's VAE as mflux has it, in the sizes of `config.VAE`, restated in JAX. Pictures and latents are channels-last.
Weights are a flat mapping by mflux's own names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from training.image import config

Weights = Mapping[str, Any]
CHANNELS = 32
STATISTICS_EPS = 1e-4


def conv(w: Weights, name: str, x: Any, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> Any:
    kernel = w[f"{name}.weight"].transpose(1, 2, 3, 0)
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + w[f"{name}.bias"]


def linear(w: Weights, name: str, x: Any) -> Any:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def group_norm(w: Weights, name: str, x: Any) -> Any:
    batch, height, width, channels = x.shape
    groups = config.VAE["norm_groups"]
    y = x.reshape(batch, height * width, groups, channels // groups)
    y = y - y.mean((1, 3), keepdims=True)
    y = y * jax.lax.rsqrt((y * y).mean((1, 3), keepdims=True) + 1e-6)
    return y.reshape(x.shape) * w[f"{name}.weight"] + w[f"{name}.bias"]


def resnet(w: Weights, name: str, x: Any) -> Any:
    h = conv(w, f"{name}.conv1", jax.nn.silu(group_norm(w, f"{name}.norm1", x)))
    h = conv(w, f"{name}.conv2", jax.nn.silu(group_norm(w, f"{name}.norm2", h)))
    if f"{name}.conv_shortcut.weight" in w:
        x = conv(w, f"{name}.conv_shortcut", x, padding=(0, 0))
    return h + x


def attention(w: Weights, name: str, x: Any) -> Any:
    batch, height, width, channels = x.shape
    y = group_norm(w, f"{name}.group_norm", x).reshape(batch, height * width, channels)
    q, k, v = (linear(w, f"{name}.{part}", y) for part in ("to_q", "to_k", "to_v"))
    out = jax.nn.softmax(q @ k.transpose(0, 2, 1) / math.sqrt(channels), -1) @ v
    return x + linear(w, f"{name}.to_out", out).reshape(x.shape)


def middle(w: Weights, name: str, x: Any) -> Any:
    x = resnet(w, f"{name}.resnets.0", x)
    return resnet(w, f"{name}.resnets.1", attention(w, f"{name}.attentions.0", x))


def encode(w: Weights, pictures: Any) -> Any:
    """Latents [batch, height/8, width/8, 32] of pictures in -1…1."""
    h = conv(w, "encoder.conv_in", pictures)
    for i in range(len(config.VAE["channels"])):
        block = f"encoder.down_blocks.{i}"
        for j in range(config.VAE["encoder_layers"]):
            h = resnet(w, f"{block}.resnets.{j}", h)
        if f"{block}.downsamplers.0.conv.weight" in w:
            h = conv(w, f"{block}.downsamplers.0.conv", h, 2, (0, 1))
    h = middle(w, "encoder.mid_block", h)
    h = conv(w, "encoder.conv_out", jax.nn.silu(group_norm(w, "encoder.conv_norm_out", h)))
    return conv(w, "quant_conv", h, padding=(0, 0))[..., :CHANNELS]


def without_unused(w: Weights) -> dict[str, Any]:
    """The weights with nothing going into the unused channels and nothing coming out of them."""
    used = np.arange(2 * CHANNELS) < config.USED_CHANNELS
    return {
        **w,
        "quant_conv.weight": w["quant_conv.weight"] * used[:, None, None, None],
        "quant_conv.bias": w["quant_conv.bias"] * used,
        "post_quant_conv.weight": w["post_quant_conv.weight"] * used[:CHANNELS],
    }


def decode(w: Weights, latents: Any) -> Any:
    h = conv(w, "decoder.conv_in", conv(w, "post_quant_conv", latents, padding=(0, 0)))
    h = middle(w, "decoder.mid_block", h)
    for i in range(len(config.VAE["channels"])):
        block = f"decoder.up_blocks.{i}"
        for j in range(config.VAE["decoder_layers"] + 1):
            h = resnet(w, f"{block}.resnets.{j}", h)
        if f"{block}.upsamplers.0.conv.weight" in w:
            h = conv(w, f"{block}.upsamplers.0.conv", jnp.repeat(jnp.repeat(h, 2, 1), 2, 2))
    return conv(w, "decoder.conv_out", jax.nn.silu(group_norm(w, "decoder.conv_norm_out", h)))


def pack(latents: Any) -> Any:
    """[batch, h, w, 32] to the transformer's tokens [batch, h·w/4, 128], channels in mflux's order (c, dy, dx)."""
    batch, height, width, channels = latents.shape
    cells = latents.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
    return cells.reshape(batch, height * width // 4, channels * 4)


def unpack(tokens: Any, rows: int, columns: int) -> Any:
    cells = tokens.reshape(tokens.shape[0], rows, columns, CHANNELS, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return cells.reshape(tokens.shape[0], rows * 2, columns * 2, CHANNELS)


def normalise(w: Weights, tokens: Any) -> Any:
    return (tokens - w["bn.running_mean"]) / jnp.sqrt(w["bn.running_var"] + STATISTICS_EPS)


def denormalise(w: Weights, tokens: Any) -> Any:
    return tokens * jnp.sqrt(w["bn.running_var"] + STATISTICS_EPS) + w["bn.running_mean"]


# ── Weights to begin with ─────────────────────────────────────────────────────────────────────────────────────────────


def _resnet_shapes(name: str, channels_in: int, channels_out: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        f"{name}.norm1": (channels_in,),
        f"{name}.conv1": (channels_out, 3, 3, channels_in),
        f"{name}.norm2": (channels_out,),
        f"{name}.conv2": (channels_out, 3, 3, channels_out),
    }
    if channels_in != channels_out:
        shapes[f"{name}.conv_shortcut"] = (channels_out, 1, 1, channels_in)
    return shapes


def _middle_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    shapes = _resnet_shapes(f"{name}.resnets.0", channels, channels)
    shapes |= _resnet_shapes(f"{name}.resnets.1", channels, channels)
    shapes[f"{name}.attentions.0.group_norm"] = (channels,)
    for part in ("to_q", "to_k", "to_v", "to_out"):
        shapes[f"{name}.attentions.0.{part}"] = (channels, channels)
    return shapes


def layer_shapes() -> dict[str, tuple[int, ...]]:
    """The weight of every layer; each has a bias too."""
    channels = config.VAE["channels"]
    last = len(channels) - 1
    shapes: dict[str, tuple[int, ...]] = {"encoder.conv_in": (channels[0], 3, 3, 3)}
    for i, out in enumerate(channels):
        for j in range(config.VAE["encoder_layers"]):
            before = channels[max(i - 1, 0)] if j == 0 else out
            shapes |= _resnet_shapes(f"encoder.down_blocks.{i}.resnets.{j}", before, out)
        if i < last:
            shapes[f"encoder.down_blocks.{i}.downsamplers.0.conv"] = (out, 3, 3, out)
    shapes |= _middle_shapes("encoder.mid_block", channels[-1])
    shapes["encoder.conv_norm_out"] = (channels[-1],)
    shapes["encoder.conv_out"] = (2 * CHANNELS, 3, 3, channels[-1])
    shapes["quant_conv"] = (2 * CHANNELS, 1, 1, 2 * CHANNELS)
    shapes["post_quant_conv"] = (CHANNELS, 1, 1, CHANNELS)
    shapes["decoder.conv_in"] = (channels[-1], 3, 3, CHANNELS)
    shapes |= _middle_shapes("decoder.mid_block", channels[-1])
    widths = channels[::-1]
    for i, out in enumerate(widths):
        for j in range(config.VAE["decoder_layers"] + 1):
            before = widths[max(i - 1, 0)] if j == 0 else out
            shapes |= _resnet_shapes(f"decoder.up_blocks.{i}.resnets.{j}", before, out)
        if i < last:
            shapes[f"decoder.up_blocks.{i}.upsamplers.0.conv"] = (out, 3, 3, out)
    shapes["decoder.conv_norm_out"] = (channels[0],)
    shapes["decoder.conv_out"] = (3, 3, 3, channels[0])
    return shapes


def _orthogonal(rng: np.random.Generator, out: int, into: int) -> NDArray[np.float64]:
    rows, _ = np.linalg.qr(rng.standard_normal((max(out, into), min(out, into))))
    return (rows if out >= into else rows.T) * math.sqrt(max(1.0, out / into))


def _initial_weight(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Trunk layers pass their input on nearly unchanged; what each block adds to it begins at zero."""
    if len(shape) == 1:
        return np.ones(shape)
    if len(shape) == 2:
        return np.zeros(shape) if name.endswith("to_out") else rng.uniform(-1, 1, shape) / math.sqrt(shape[1])
    out, height, width, into = shape
    fan = height * width * into
    noise = rng.standard_normal(shape)
    if name.endswith("conv2"):
        return np.zeros(shape)
    if name.endswith("conv1"):
        return noise * math.sqrt(2 / fan)
    if "downsamplers" in name:
        weight = noise * math.sqrt(0.3 / fan)
        weight[:, :2, :2] += rng.standard_normal((out, 2, 2, into)) * math.sqrt(0.7 / (4 * into))
        return weight
    if height == 1:
        return _orthogonal(rng, out, into).reshape(shape)
    if name.endswith("conv_out"):
        weight = noise * math.sqrt(0.5 / fan)
        weight[:, 1, 1] += rng.standard_normal((out, into)) * math.sqrt(0.5 / into)
        return weight
    weight = noise * math.sqrt(0.15 / fan)
    weight[:, 1, 1] += 0.9 * _orthogonal(rng, out, into)
    return weight


def initial(seed: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in layer_shapes().items():
        weights[f"{name}.weight"] = _initial_weight(rng, name, shape).astype(np.float32)
        bias = np.zeros(shape[0])
        if name.endswith(("conv_in", "conv_shortcut")):
            bias = rng.standard_normal(shape[0]) * 0.7  # one norm group: colours must not all look alike to it
        weights[f"{name}.bias"] = bias.astype(np.float32)
    return weights
