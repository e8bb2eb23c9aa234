"""A chat model in memory: weights, tokenizer, and the facts that requests are checked against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, load_tokenizer

from herd_mcp.engines.checkpoint import check_chat_checkpoint, damaged
from herd_mcp.engines.engine import Report
from herd_mcp.engines.turns import Turn
from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.pipe import EngineSpec

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")
_READ_GROUPS = 50


@dataclass(frozen=True, slots=True)
class ChatModel:
    """`model` is an `nn.Module` of mlx-lm, `tokenizer` its `TokenizerWrapper`."""

    folder: Path
    model: Any
    tokenizer: Any
    context_tokens: int | None
    """None where the model's config names no limit."""
    longest_token_chars: int
    weights_bytes: int


def load_chat_model(spec: EngineSpec, report: Report, turn: Turn) -> ChatModel:
    """Read the weights in groups, with a report after each. Raises HerdError naming what is missing or unsupported."""
    folder = Path(spec.path)
    check_chat_checkpoint(folder, spec.model)
    try:
        model, config = load_model(folder, lazy=True, trust_remote_code=spec.trust_remote_code)
    except ValueError as error:
        why = _words(error)
        if why.startswith(("Missing", "Expected shape")):  # the words of mlx's strict loading
            raise damaged(spec.model, why) from error
        raise HerdError(
            ErrorCode.KIND_NOT_SUPPORTED,
            f"mlx-lm cannot load {spec.model}: {why}.",
            "Take a model of an architecture that mlx-lm has.",
        ) from error
    except RuntimeError as error:
        if "safetensor" not in str(error):
            raise
        raise damaged(spec.model, _words(error)) from error
    except (TypeError, KeyError, AttributeError) as error:
        why = f"its config.json makes no sense ({type(error).__name__}: {_words(error)})"
        raise damaged(spec.model, why) from error
    with turn:  # some architectures put weights together while they are read
        weights_bytes = _read_weights(model, report)
    try:
        tokenizer = load_tokenizer(
            folder,
            # Left out, transformers would ask a person on stdin.
            {"trust_remote_code": spec.trust_remote_code},
            eos_token_ids=config.get("eos_token_id"),
        )
    except Exception as error:  # every library underneath has its own
        why = f"its tokenizer cannot be read ({type(error).__name__}: {_words(error)})"
        raise damaged(spec.model, why) from error
    return ChatModel(
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        context_tokens=min(filter(None, (_context_tokens(config), spec.context_tokens)), default=None),
        longest_token_chars=max(map(len, tokenizer.get_vocab()), default=1),
        weights_bytes=weights_bytes,
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:500].rstrip(".")


def _read_weights(model: Any, report: Report) -> int:
    arrays = [array for _, array in tree_flatten(model.parameters())]
    total = sum(array.nbytes for array in arrays)
    group: list[mx.array] = []
    group_bytes = read = 0
    for array in arrays:
        group.append(array)
        group_bytes += array.nbytes
        if group_bytes * _READ_GROUPS >= total:
            mx.eval(group)
            read += group_bytes
            report(0.95 * read / max(1, total))
            group, group_bytes = [], 0
    mx.eval(group)
    return int(total)


def _context_tokens(config: dict[str, Any]) -> int | None:
    for part in (config, config.get("text_config")):
        if not isinstance(part, dict):
            continue
        for key in _CONTEXT_KEYS:
            value = part.get(key)
            if isinstance(value, int) and value > 1:
                return value
    return None
