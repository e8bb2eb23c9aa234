"""What the models on this disk need on this Mac: their configs read, the arithmetic of `memory` and `sizes` asked."""

from __future__ import annotations

import ast
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from herd_mcp.node import memory, weights
from herd_mcp.node.measured import NOTHING, Known
from herd_mcp.node.memory import Needs
from herd_mcp.node.models import architecture, mlx_lm_folder
from herd_mcp.settings import Settings
from herd_mcp.state import ModelInfo

SAME_FILES = 0.25
"""How far measured weights may be from what the files say; beyond, other files lie under the model's name by now."""

FUSED = sys.platform == "darwin"
"""Whether MLX computes here with Metal, which has fused attention."""


def needs_of(model: ModelInfo, quantize: int | None, settings: Settings, budget: int, known: Known = NOTHING) -> Needs:
    """What an engine of this model takes, `known` what was measured of it. Reads config.json."""
    needs = _needs(model, quantize, settings, budget, known)
    if needs.smallest_bytes <= budget:
        return needs
    as_computed = tuple((shape, min(factor, 1.0)) for shape, factor in known.factors)
    usual = _needs(model, quantize, settings, budget, replace(known, factors=as_computed, held_bytes=0))
    if usual.smallest_bytes > budget:
        return needs
    # What was seen may have been an accident, which only another run can show: it gets all there is.
    return replace(usual, load_bytes=usual.load_bytes + budget - usual.smallest_bytes)


def _needs(model: ModelInfo, quantize: int | None, settings: Settings, budget: int, known: Known) -> Needs:
    weights_bytes = memory.loaded_bytes(model.bytes, model.bits, quantize)
    if abs(known.weights_bytes - weights_bytes) < weights_bytes * SAME_FILES:
        weights_bytes = known.weights_bytes
    if model.kind == "image":
        needs = memory.image_needs(model.family, weights_bytes, builtin=model.builtin, factors=known.factors)
    else:
        needs = memory.chat_needs(
            chat_config(Path(model.path)),
            weights_bytes,
            prompt_cache_bytes=memory.prompt_cache_share(settings.prompt_cache_bytes, budget, builtin=model.builtin),
            fused=FUSED,
            cache=known.cache,
            factors=known.factors,
        )
    return replace(needs, load_bytes=max(needs.load_bytes, known.held_bytes))


def chat_config(folder: Path) -> dict[str, Any]:
    """config.json with the defaults that mlx-lm's model adds: published configs leave out what is usual. Empty where
    it cannot be read, which is a dense model of a middle size."""
    try:
        config = weights.read_json(folder / "config.json")
    except weights.Broken:
        return {}
    inner = config.get("text_config")
    if isinstance(inner, dict):
        return {**config, "text_config": {**_defaults(architecture(inner)), **inner}}
    return {**_defaults(architecture(config)), **config}


@lru_cache(maxsize=64)
def _defaults(family: str) -> dict[str, Any]:
    """Plain values in `ModelArgs` of mlx-lm's module, read from its source: importing it would bring MLX here."""
    folder = mlx_lm_folder()
    if folder is None or not family.isidentifier() or not (file := folder / "models" / f"{family}.py").is_file():
        return {}
    tree = ast.parse(file.read_text("utf-8"))
    lines = [
        line
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "ModelArgs"
        for line in node.body
        if isinstance(line, ast.AnnAssign)
    ]
    return {
        line.target.id: line.value.value
        for line in lines
        if isinstance(line.target, ast.Name) and isinstance(line.value, ast.Constant) and line.value.value is not None
    }
