"""A chat model of any family that mlx-lm knows, with random weights: its answers mean nothing, its caches are real.

It says nothing but lower-case letters and never ends by itself, so an answer has the length that was asked for, and its
text is read back as the very same tokens.
"""

from __future__ import annotations

import importlib
import json
import string
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from tests.engines.byte_tokenizer import TEMPLATE, write_tokenizer


def build(
    folder: Path,
    family: str,
    letters: str = string.ascii_lowercase,
    *,
    dtype: str = "float32",
    bits: int | None = None,
    **sizes: Any,
) -> Path:
    """Write the model into `folder`. `family` is a module of mlx_lm.models, `sizes` the fields of its config.json,
    `letters` all that it ever says (an even number), `bits` what its weights are quantised to."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder, TEMPLATE)
    vocab_size = tokenizer.get_vocab_size()
    config = {"model_type": family, "vocab_size": vocab_size, "tie_word_embeddings": False, **sizes}
    module = importlib.import_module(f"mlx_lm.models.{family}")
    mx.random.seed(0)
    model = module.Model(module.ModelArgs.from_dict(config))
    if "lm_head" in model:  # in pairs of opposite rows: one of a pair is above the 0 of all that is no letter
        rows = mx.zeros_like(model.lm_head.weight)
        for first, second in zip(letters[::2], letters[1::2], strict=True):
            row = model.lm_head.weight[tokenizer.token_to_id(first)]
            rows[tokenizer.token_to_id(first)], rows[tokenizer.token_to_id(second)] = row, -row
        model.lm_head.weight = rows
    model.set_dtype(getattr(mx, dtype))
    if dtype != "float32":
        config["torch_dtype"] = dtype
    if bits is not None:
        nn.quantize(model, group_size=64, bits=bits)
        config["quantization"] = {"group_size": 64, "bits": bits}
    config["eos_token_id"] = tokenizer.token_to_id("<|im_end|>")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    return folder
