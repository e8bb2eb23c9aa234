"""Makes `herd_mcp/builtin/herd-tiny-image`: FLUX.2-klein's architecture in small sizes, with random weights.

    uv run --no-sync python -m training.make_random_image [FOLDER]

The same seed gives the same bytes: every weight is drawn from a generator that its own name seeds.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from pathlib import Path
from typing import Any

os.environ.setdefault("MLX_DISABLE_COMPILE", "1")

import mlx.core as mx
import numpy as np
from mflux.models.flux2.model.flux2_text_encoder.qwen3_text_encoder import Qwen3TextEncoder
from mflux.models.flux2.model.flux2_transformer.transformer import Flux2Transformer
from mlx import nn
from mlx.utils import tree_flatten
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from herd_mcp.engines import builtin_image

SEED = 7
FOLDER = Path(__file__).parents[1] / "herd_mcp" / "builtin" / "herd-tiny-image"
HIDDEN, HEADS, HEAD_DIM = 64, 4, 32
END = "<|endoftext|>"

CONFIG: dict[str, Any] = {
    "family": "builtin-flux2-klein",
    "name": "herd-tiny-image",
    "random": True,
    "default_px": 64,
    "max_px": 128,
    "default_steps": 4,
    "transformer": {
        "num_layers": 2,
        "num_single_layers": 3,
        "attention_head_dim": HEAD_DIM,
        "num_attention_heads": HEADS,
        "joint_attention_dim": 3 * HIDDEN,
        "axes_dims_rope": [2, 12, 12, 6],
        "timestep_guidance_channels": 64,
        "mlp_ratio": 2.0,
    },
    "text_encoder": {
        "vocab_size": 257,
        "hidden_size": HIDDEN,
        "intermediate_size": 8,
        "num_hidden_layers": 27,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 8,
    },
    "vae": {"channels": [16, 32, 48, 64], "encoder_layers": 1, "decoder_layers": 0, "norm_groups": 1},
}

CARD = """\
# herd-tiny-image

A model to try herd-mcp with, without a download. **Its weights are random: it draws noise.** It has learned nothing,
so the prompt changes the noise and does not describe it. Use it to see that the whole way works, from the request to
the PNG; use a real model for pictures.

- Architecture: FLUX.2-klein as mflux runs it (double and single stream transformer, Qwen3 text encoder, FLUX.2 VAE), in
  the small sizes that `herd.json` names. {parameters:,} parameters in bfloat16, {bytes:,} bytes.
- Pictures: 64×64 unless asked, 128×128 at most, 4 steps.
- Text: one token per byte, 512 tokens at most. It is never quantised, whatever a request asks.
- Made by `python -m training.make_random_image` of herd-mcp, seed {seed}. MIT licence, as herd-mcp itself.
"""


def random_weights(module: nn.Module, part: str, seed: int) -> dict[str, mx.array]:
    """Every parameter of `module` by mflux's name, scaled so that signals keep their size from layer to layer."""
    weights = {}
    for name, array in tree_flatten(module.parameters()):
        if "inv_freq" in name:
            continue
        rng = np.random.default_rng([seed, zlib.crc32(f"{part}.{name}".encode())])
        if name == "bn.running_mean" or name.endswith(".bias"):
            values = np.zeros(array.shape)
        elif array.ndim < 2:  # norm scales, and the variances of the latents
            values = np.ones(array.shape)
        else:
            values = rng.standard_normal(array.shape) / np.sqrt(np.prod(array.shape[1:]))
        # mflux reads the statistics of the latents in full precision.
        weights[name] = mx.array(values.astype(np.float32)).astype(
            mx.float32 if name.startswith("bn.") else mx.bfloat16
        )
    return weights


def save_tokenizer(folder: Path) -> None:
    """One token per byte and one end token, in the files that transformers' Qwen2 tokenizer reads."""
    folder.mkdir(parents=True)
    vocabulary = {END: 0} | {byte: i + 1 for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "pad_token": END,
        "eos_token": END,
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def make(folder: Path, seed: int = SEED) -> int:
    """Write the model to `folder`, which must not hold one yet. Returns its parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "vae": builtin_image.make_vae(CONFIG),
        "transformer": Flux2Transformer(**CONFIG["transformer"]),
        "text_encoder": Qwen3TextEncoder(**CONFIG["text_encoder"]),
    }
    parameters = 0
    for part, module in parts.items():
        weights = random_weights(module, part, seed)
        parameters += sum(array.size for array in weights.values())
        (folder / part).mkdir()
        # The metadata is how mflux knows its own layout, in which names need no mapping.
        mx.save_safetensors(
            str(folder / part / "0.safetensors"), weights, {"quantization_level": "None", "mflux_version": "0.24.0"}
        )
    save_tokenizer(folder / "tokenizer")
    (folder / builtin_image.CONFIG_FILE).write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    card = CARD.format(parameters=parameters, bytes=size, seed=seed)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return parameters


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    print(f"{make(target):,} parameters in {target}")
