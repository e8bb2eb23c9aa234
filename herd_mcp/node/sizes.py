"""What a chat model holds beside its weights, from its config.json: caches, activations, prompts. Pure, in bytes.

The rules are those of the installed mlx-lm's models, whose sources say which layers keep what; they were compared
with the caches of real models. A family that is not known is taken for a dense one, the most that any keeps; what the
engine measures then stands before that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from herd_mcp.jobs import ChatRequest
from herd_mcp.node import state_space
from herd_mcp.node.state_space import Kind, StateLayer, StateWork
from herd_mcp.pipe import CacheShape
from herd_mcp.settings import MOST_BYTES

Config = Mapping[str, Any]

LATENT_FAMILIES = frozenset(
    {
        "deepseek_v3",
        "deepseek_v32",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "kimi_vl",
        "kimi_linear",
        "kimi_k2",
        "longcat_flash",
    }
    | {"longcat_flash_ngram", "mistral4", "bailing_hybrid", "bailing_moe_v3"}
)
"""Keep a compressed latent and a rotary part per token (MLA). Others with `kv_lora_rank` keep it expanded per head."""

WINDOW_FAMILIES = frozenset(
    {"afmoe", "cohere2", "exaone4", "exaone_moe", "gemma3_text", "gemma3n", "gemma4_text", "gpt_oss", "laguna", "llama"}
    | {"mellum", "ministral3", "mistral", "olmo3", "step3p5"}
)
"""Keep a sliding window where the config says so. The rest keep every token, whatever `sliding_window` says."""

FUSED_HEADS = frozenset({64, 72, 80, 96, 128})
"""Widths of a head for which Metal computes attention to a prompt without writing down a score for each pair of tokens.
MLX has kernels for wider ones too and does not choose them, being slower."""

MOST, MOST_LAYERS = 2**31, 4096
"""Bounds of the numbers in a config: a broken one may name any, and is read with all the others."""

_WORDS = {"float32": 4, "float64": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Work:
    """What computing takes, in bytes."""

    token_bytes: int
    """Per token of a prompt that is computed in one step."""
    pair_bytes: int
    """Per such token and token that it looks back to; 0 where attention is fused."""
    row_bytes: int
    """Per sequence of a step: the logits."""
    states: StateWork | None = None
    """Of layers that keep a state, where there are some."""


def text_part(config: Config) -> Config:
    """The language model's own part of the config of one that also sees or hears."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, Mapping) else config


def number_bytes(config: Config) -> int:
    """Bytes of a number in caches and activations: mlx-lm computes in the checkpoint's type, quantised or not."""
    for part in (text_part(config), config):
        for key in ("torch_dtype", "dtype"):
            if (word := str(part.get(key) or "").removeprefix("torch.")) in _WORDS:
                return _WORDS[word]
    return 4


def cache_shape(config: Config) -> CacheShape:
    """How the keys and values of one sequence grow."""
    part = text_part(config)
    each = number_bytes(config)
    kept = [_layer(part, kind) for kind in _layer_kinds(part)]
    window = _int(part, "sliding_window", "sliding_window_size", "attention_window_size", "window_size")
    return CacheShape(
        token_bytes=min(each * sum(layer.numbers for layer in kept if not layer.windowed), MOST_BYTES),
        window_token_bytes=min(each * sum(layer.numbers for layer in kept if layer.windowed), MOST_BYTES),
        window_tokens=window if any(layer.windowed for layer in kept) else 0,
        fixed_bytes=min(sum(layer.fixed_bytes for layer in kept), MOST_BYTES),
    )


def layers(config: Config) -> int:
    """Layers that keep a cache of their own, at least 1."""
    return max(1, len(_layer_kinds(text_part(config))))


EXPERTS_PART = 0.9
"""Of the weights of a model with experts, those that are theirs: the rest every token passes."""


def active_part(config: Config) -> float:
    """The part of the weights that one token passes: all, but for a model with experts."""
    part = text_part(config)
    experts = _int(part, "num_experts", "num_local_experts", "n_routed_experts")
    chosen = _int(part, "num_experts_per_tok", "num_experts_per_token", "moe_topk")
    if not experts or not chosen:
        return 1.0
    return 1 - EXPERTS_PART + EXPERTS_PART * min(chosen / experts, 1.0)


def work(config: Config, *, fused: bool) -> Work:
    """What a step takes. `fused`: the device has fused attention for the usual widths of a head (Metal has)."""
    part = text_part(config)
    each = number_bytes(config)
    hidden, heads = _hidden(part), _heads(part)
    inner = _int(part, "intermediate_size", "ffn_dim", "n_inner") or 4 * hidden
    if experts := _int(part, "num_experts_per_tok", "num_experts_per_token"):
        inner = max(inner, experts * (_int(part, "moe_intermediate_size") or inner))
    queries = heads * _head_dim(part)
    pairs = 0 if fused and _head_dim(part) in FUSED_HEADS and not _int(part, "kv_lora_rank") else heads
    if part.get("model_type") == "gpt_oss":  # its sinks are joined to the scores, which copies them
        pairs *= 3
    if _int(part, "kv_lora_rank"):  # the rotary part has scores of its own, which come in as a mask
        pairs *= 2
    count = sum(kind in ("state", "both") for kind in _layer_kinds(part))
    return Work(
        token_bytes=each * (HIDDEN_COPIES * hidden + QUERY_COPIES * queries + INNER_COPIES * inner),
        pair_bytes=each * pairs + MASK_BYTES,
        row_bytes=each * LOGIT_COPIES * _int(part, "vocab_size"),
        states=state_space.work(_state_layer(part), count, hidden, each, fused=fused) if count else None,
    )


HIDDEN_COPIES, QUERY_COPIES, INNER_COPIES, LOGIT_COPIES = 6, 3, 3, 6
"""How often an array of that width is there at the same time, as measured: MLX plans some operations ahead."""
MASK_BYTES = 1
"""Per pair of tokens, of the mask that says which sees which."""


# ── Layers ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Layer:
    numbers: int = 0
    """Per token, keys and values together."""
    windowed: bool = False
    fixed_bytes: int = 0


def _layer_kinds(part: Config) -> list[str]:
    """`full`, `window`, `state`, `both` (attention and state) or `none` for each layer that has a cache of its own."""
    family = str(part.get("model_type", ""))
    count = min(_int(part, "num_hidden_layers", "n_layer", "n_layers", "num_layers") or 1, MOST_LAYERS)
    if family in ("mamba", "mamba2", "falcon_mamba", "rwkv7"):
        return ["state"] * count
    if family == "falcon_h1":
        return ["both"] * count
    if family == "nemotron_h":
        pattern = part.get("hybrid_override_pattern") or part.get("layers_block_type") or part.get("layer_types") or ()
        blocks = pattern if isinstance(pattern, str | list | tuple) else ()
        return [_NEMOTRON.get(str(block), "none") for block in blocks] or ["both"] * count
    kinds = _named_kinds(part, family)
    if not kinds:
        kinds = [_kind_at(part, family, index) for index in range(count)]
    if family in ("gemma3n", "gemma4_text"):  # the last layers look into the caches of earlier ones
        kinds = kinds[: max(1, count - _int(part, "num_kv_shared_layers"))]
    return kinds


_NEMOTRON = {"M": "state", "*": "full", "linear_attention": "state", "mamba": "state", "conv": "state"} | {
    "full_attention": "full",
    "attention": "full",
}
_NAMES = {"mamba": "state", "linear_attention": "state", "conv": "state", "recurrent": "state"}


def _named_kinds(part: Config, family: str) -> list[str]:
    """From a list of names in the config, where there is one that counts."""
    names = part.get("layer_types") or part.get("layers_block_type")
    if not isinstance(names, list | tuple):
        return []
    window = "window" if family in WINDOW_FAMILIES and _int(part, "sliding_window") else "full"
    return [window if name == "sliding_attention" else _NAMES.get(str(name), "full") for name in names]


def _kind_at(part: Config, family: str, index: int) -> str:
    """By the rule of the family."""
    if family in ("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"):
        return "full" if (index + 1) % (_int(part, "full_attention_interval") or 4) == 0 else "state"
    if family == "jamba":
        period, offset = _int(part, "attn_layer_period") or 1, _int(part, "attn_layer_offset")
        return "full" if index % period == offset else "state"
    if family == "lfm2" and isinstance(part.get("full_attn_idxs"), list | tuple):
        return "full" if index in part["full_attn_idxs"] else "state"
    if family not in WINDOW_FAMILIES or not _int(part, "sliding_window"):
        return "full"
    if family == "gpt_oss":
        return "full" if index % 2 else "window"
    pattern = part.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:
        return "window" if pattern[index % len(pattern)] == "L" else "full"
    if isinstance(pattern, int) and pattern > 0 and family in ("gemma3_text", "gemma4_text", "cohere2"):
        return "full" if (index + 1) % pattern == 0 else "window"
    return "full"


def _layer(part: Config, kind: str) -> _Layer:
    if kind == "none":
        return _Layer()
    if kind == "state":
        return _Layer(fixed_bytes=_state_layer(part).kept_bytes)
    if kind == "both":
        return _Layer(_attention_numbers(part, windowed=False), fixed_bytes=_state_layer(part).kept_bytes)
    return _Layer(_attention_numbers(part, windowed=kind == "window"), windowed=kind == "window")


def _attention_numbers(part: Config, *, windowed: bool) -> int:
    """Numbers that one layer keeps per token."""
    family = str(part.get("model_type", ""))
    rotary = _int(part, "qk_rope_head_dim")
    if latent := _int(part, "kv_lora_rank"):
        if family in LATENT_FAMILIES:
            index = 2 * _int(part, "index_head_dim")  # of deepseek_v32, kept as key and as value
            return latent + rotary + index
        nope, values = _int(part, "qk_nope_head_dim"), _int(part, "v_head_dim")
        return _heads(part) * (nope + rotary + (values or nope))
    heads, dim = _kv_heads(part), _head_dim(part)
    if family == "gemma4_text" and not windowed:
        heads = _int(part, "num_global_key_value_heads") or heads
        dim = _int(part, "global_head_dim") or dim
    return 2 * heads * dim


def _state_layer(part: Config) -> StateLayer:
    """One layer that keeps a state instead of tokens."""
    if value_heads := _int(part, "linear_num_value_heads"):  # gated delta net
        keys = _int(part, "linear_num_key_heads") * _int(part, "linear_key_head_dim")
        values = value_heads * _int(part, "linear_value_head_dim")
        kernel = _int(part, "linear_conv_kernel_dim") or 4
        return StateLayer("delta", values, values + 2 * keys, kernel, state=_int(part, "linear_key_head_dim"))
    if width := _int(part, "conv_L_cache"):  # lfm2
        return StateLayer("convolution", _hidden(part), _hidden(part), width, state=0)
    heads = _int(part, "mamba_n_heads", "mamba_num_heads", "num_heads")
    inner = heads * _int(part, "mamba_d_head", "mamba_head_dim", "head_dim")
    inner = inner or _int(part, "mamba_d_ssm") or (_int(part, "mamba_expand", "expand") or 2) * _hidden(part)
    size = _int(part, "mamba_d_state", "ssm_state_size", "state_size") or 128
    groups = _int(part, "mamba_n_groups", "n_groups") or 1
    kernel = _int(part, "mamba_d_conv", "conv_kernel") or 4
    kind: Kind = "mamba2" if heads else "jamba" if part.get("model_type") == "jamba" else "mamba"
    return StateLayer(kind, inner, inner + 2 * groups * size, kernel, size, heads)


# ── Names in configs ──────────────────────────────────────────────────────────────────────────────────────────────────


def _int(part: Config, *keys: str) -> int:
    """The first of these that is a number above 0, and one that a model could have; else 0."""
    for key in keys:
        value = part.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MOST:
            return value
    return 0


def _hidden(part: Config) -> int:
    return _int(part, "hidden_size", "n_embd", "d_model", "dim", "model_dim") or 4096


def _heads(part: Config) -> int:
    return _int(part, "num_attention_heads", "n_head", "n_heads", "num_heads") or max(1, _hidden(part) // 128)


def _kv_heads(part: Config) -> int:
    return _int(part, "num_key_value_heads", "n_kv_heads", "num_kv_heads") or _heads(part)


def _head_dim(part: Config) -> int:
    return _int(part, "head_dim") or max(1, _hidden(part) // _heads(part))


# ── Requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ASCII_CHARS_PER_TOKEN = 3
MESSAGE_TOKENS = 16
"""Of a chat template around each message."""
TEMPLATE_TOKENS = 64
"""Of a chat template around all."""
TOOLS_TOKENS = 256
"""Of a chat template that explains tools."""


def tokens_at_most(request: ChatRequest, max_tokens_default: int, context_tokens: int | None) -> int:
    """Prompt and answer together, estimated from above without a tokenizer: what memory is reserved for. The engine
    counts exactly, and does not begin a prompt that is longer."""
    prompt = TEMPLATE_TOKENS + (TOOLS_TOKENS if request.tools else 0)
    for message in request.messages:
        calls = "".join(f"{call.name}{call.arguments}" for call in message.tool_calls)
        prompt += MESSAGE_TOKENS + sum(map(text_tokens, (message.content or "", message.reasoning or "", calls)))
    prompt += sum(text_tokens(tool.model_dump_json()) for tool in request.tools)
    tokens = prompt + (request.max_tokens or max_tokens_default)
    return tokens if context_tokens is None else min(tokens, context_tokens)


def text_tokens(text: str) -> int:
    """A token for each character that is not ASCII, and one for three that are: few texts have more."""
    strange = 0 if text.isascii() else sum(not char.isascii() for char in text)
    return strange + -(-(len(text) - strange) // ASCII_CHARS_PER_TOKEN)
