"""From trained weights to the folder that herd-mcp ships: bfloat16 safetensors, tokenizer, `herd.json`, model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mflux.models.flux2.model.flux2_text_encoder.qwen3_text_encoder import Qwen3TextEncoder
from mlx.utils import tree_flatten
from numpy.typing import NDArray

from herd_mcp.engines import builtin_image
from training.image import card, config, model, tokenizer

# How mflux knows its own layout, in which names need no mapping.
METADATA = {"quantization_level": "None", "mflux_version": "0.24.0"}
Arrays = dict[str, NDArray[Any]]


def export(weights: Path, folder: Path) -> None:
    """Write the model in `weights` (what `train` saved) to `folder`, in place of what is there."""
    with np.load(weights) as saved:
        arrays = dict(saved)
    vae, transformer = (part_of(arrays, part) for part in ("vae.", "transformer."))
    notes = {name: array.item() for name, array in part_of(arrays, "notes.").items()}
    embedding = transformer.pop(model.EMBEDDING)
    settings = config.herd_json(len(embedding))
    shutil.rmtree(folder, ignore_errors=True)
    for part, named in (
        ("vae", vae),
        ("transformer", transformer),
        ("text_encoder", text_encoder(settings["text_encoder"], embedding)),
    ):
        (folder / part).mkdir(parents=True)
        # mflux reads the statistics of the latents in full precision.
        tensors = {
            name: mx.array(array).astype(mx.float32 if name.startswith("bn.") else mx.bfloat16)
            for name, array in sorted(named.items())
        }
        mx.save_safetensors(str(folder / part / "0.safetensors"), tensors, METADATA)
    tokenizer.save(folder / "tokenizer")
    text = json.dumps(settings, indent=2) + "\n"
    (folder / builtin_image.CONFIG_FILE).write_text(text, encoding="utf-8")
    parameters = sum(array.size for array in (*vae.values(), *transformer.values(), embedding))
    card.write(folder, parameters, notes)


def part_of(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def text_encoder(sizes: dict[str, Any], embedding: NDArray[np.float32]) -> Arrays:
    """The embedding, and layers that hand it on unchanged: their projections are zero."""
    encoder = Qwen3TextEncoder(**sizes)
    named = {}
    for name, array in tree_flatten(encoder.parameters()):
        if "inv_freq" not in name:
            named[name] = np.zeros(array.shape, np.float32) if "_proj" in name else np.ones(array.shape, np.float32)
    return named | {"embed_tokens.weight": embedding}
