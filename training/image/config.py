"""The sizes of the model, and where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "herd_mcp" / "builtin" / "herd-tiny-image"
TEXT_TOKENS = 512
"""`Flux2Klein` pads every prompt to this many tokens, and its transformer sees the pads."""
HIDDEN, HEADS, HEAD_DIM = 64, 4, 32
LATENT = 128
"""Channels of one token of the picture: 32 of the VAE for each of 2×2 places."""
TOKEN_PX = 16
USED_CHANNELS = 12
"""Of the VAE's 32 channels. The others carry nothing: flat shapes need no more, and the transformer, which is no wider
than a token, would spend itself on handing their noise through."""
USED = USED_CHANNELS * 4
"""The same in a token, where they come first."""

TRANSFORMER: dict[str, Any] = {
    "num_layers": 3,
    "num_single_layers": 1,
    "attention_head_dim": HEAD_DIM,
    "num_attention_heads": HEADS,
    "joint_attention_dim": 3 * HIDDEN,
    "axes_dims_rope": [2, 12, 12, 6],
    "timestep_guidance_channels": 64,
    "mlp_ratio": 2.0,
}
VAE: dict[str, Any] = {"channels": [24, 32, 48, 64], "encoder_layers": 1, "decoder_layers": 0, "norm_groups": 1}


def herd_json(vocabulary: int) -> dict[str, Any]:
    """`herd.json`: what the engine builds the model from, and what it tells about it."""
    return {
        "family": "builtin-flux2-klein",
        "name": "herd-tiny-image",
        "random": False,
        "default_px": 64,
        "max_px": 128,
        "default_steps": 4,
        "transformer": TRANSFORMER,
        "text_encoder": {
            "vocab_size": vocabulary,
            "hidden_size": HIDDEN,
            "intermediate_size": 8,
            "num_hidden_layers": 27,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_dim": 8,
        },
        "vae": VAE,
    }
