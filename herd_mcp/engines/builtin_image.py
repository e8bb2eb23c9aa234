"""The built-in image model: FLUX.2-klein as mflux runs it, in sizes that its folder's `herd.json` names.

`ModelConfig` can express a small transformer and a small text encoder. A small VAE it cannot, so that one class is
put in its place while mflux builds the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mflux.models.common.config.model_config import ModelConfig
from mflux.models.flux2 import flux2_initializer
from mflux.models.flux2.model.flux2_vae.decoder.decoder import Flux2Decoder
from mflux.models.flux2.model.flux2_vae.encoder.encoder import Flux2Encoder
from mflux.models.flux2.model.flux2_vae.vae import Flux2VAE
from mflux.models.flux2.variants.txt2img.flux2_klein import Flux2Klein

CONFIG_FILE = "herd.json"


def read_config(folder: Path) -> dict[str, Any]:
    """`herd.json` of a built-in model. Raises OSError or ValueError when it is missing or no JSON object."""
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG_FILE} is not a JSON object")
    return config


def model_config(config: dict[str, Any]) -> ModelConfig:
    """mflux's description of the model, from `transformer` and `text_encoder` in `herd.json`."""
    return ModelConfig(
        priority=999,
        aliases=[config["name"]],
        model_name=config["name"],
        base_model=None,
        controlnet_model=None,
        custom_transformer_model=None,
        num_train_steps=1000,
        max_sequence_length=512,
        supports_guidance=False,
        requires_sigma_shift=True,
        transformer_overrides=dict(config["transformer"]),
        text_encoder_overrides=dict(config["text_encoder"]),
    )


def make_vae(config: dict[str, Any]) -> Flux2VAE:
    """FLUX.2's VAE (8x smaller latents of 32 channels) with the widths in `vae` of `herd.json`."""
    sizes = config["vae"]
    channels = tuple(sizes["channels"])
    vae = Flux2VAE(decoder_block_out_channels=(32,) * len(channels))  # replaced below; the least it can be built with
    vae.encoder = Flux2Encoder(
        block_out_channels=channels,
        layers_per_block=sizes["encoder_layers"],
        norm_num_groups=sizes["norm_groups"],
    )
    vae.decoder = Flux2Decoder(
        block_out_channels=channels,
        layers_per_block=sizes["decoder_layers"],
        norm_num_groups=sizes["norm_groups"],
    )
    return vae


@contextmanager
def _vae_of(config: dict[str, Any]) -> Iterator[None]:
    original = flux2_initializer.Flux2VAE
    flux2_initializer.Flux2VAE = lambda: make_vae(config)
    try:
        yield
    finally:
        flux2_initializer.Flux2VAE = original


def load(folder: Path) -> Flux2Klein:
    """The model in `folder`, through mflux's own loader, never quantised: its layers are narrower than MLX's groups
    of 64 weights. Call it on the thread that will draw."""
    config = read_config(folder)
    with _vae_of(config):
        return Flux2Klein(model_path=str(folder), model_config=model_config(config))
