"""What engines were computed to need and what MLX really held, for random models and the built-in ones.

The peer is the computation: a ratio of 1 is a true estimate, below 1 a reservation that was more than enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.parts import machine, processes
from benchmarks.parts.held import measure as held
from benchmarks.parts.measure import Goal, Row, row
from benchmarks.parts.report import Report, parser
from herd_mcp.node import memory
from herd_mcp.node.memory import Needs
from herd_mcp.node.models import BUILTIN_FOLDER
from herd_mcp.node.needs import chat_config

MIB = 1024 * 1024
SIZES: dict[str, Any] = {
    "hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 512, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 64, "rms_norm_eps": 1e-6, "max_position_embeddings": 16384,
    "rope_theta": 1e6, "vocab_size": 8192, "torch_dtype": "float32",
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("qwen3", {}),
    "grouped KV": ("qwen3", {"num_key_value_heads": 1}),
    "4 bits": ("qwen3", {"bits": 4}),
    "sliding window": ("gpt_oss", {"sliding_window": 128, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "MLA": (
        "deepseek_v3",
        {
            "q_lora_rank": None, "kv_lora_rank": 64, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64, "v_head_dim": 64,
            "n_routed_experts": 4,
            "first_k_dense_replace": 99, "moe_intermediate_size": 64,
        },
    ),
    "Mamba": (
        "falcon_h1",
        {
            "mamba_d_ssm": 256, "mamba_d_head": 32, "mamba_n_heads": 8, "mamba_d_state": 32, "mamba_expand": 2,
            "tie_word_embeddings": False,
        },
    ),
    "delta net": (
        "qwen3_next",
        {
            "linear_num_value_heads": 8, "linear_num_key_heads": 4, "linear_key_head_dim": 32,
            "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4, "num_experts": 4, "num_experts_per_tok": 2,
            "decoder_sparse_step": 1, "shared_expert_intermediate_size": 64, "mlp_only_layers": [0, 1, 2, 3],
            "moe_intermediate_size": 64, "partial_rotary_factor": 0.5,
        },
    ),
}  # fmt: skip
ANSWER = 24
OVERHEAD = 20
"""Tokens of the template, at most."""


@dataclass(frozen=True, slots=True)
class Case:
    model: str
    rows: int = 1
    tokens: int = 256
    """Prompt and answer together."""

    def __str__(self) -> str:
        return f"{self.model}, {self.rows} × {self.tokens} tokens"


QUICK = (Case("dense", 1, 1024), Case("dense", 4, 512), Case("4 bits", 1, 512), Case("grouped KV", 4, 512))
CASES = (
    *QUICK,
    Case("dense", 16, 1024),
    Case("dense", 1, 8192),
    Case("grouped KV", 16, 320),
    Case("grouped KV", 1, 8192),
    Case("sliding window", 1, 1024),
    Case("sliding window", 4, 512),
    Case("MLA", 1, 512),
    Case("Mamba", 1, 1024),
    Case("Mamba", 4, 576),
    Case("Mamba", 1, 8192),
    Case("delta net", 1, 512),
)
PIXELS = (64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Seen:
    """Bytes, without the process."""

    weights: int
    computed_weights: int
    peak: int
    computed_peak: int


def build(folder: Path, model: str) -> Path:
    from tests.engines import random_model  # imports MLX, which takes a second

    family, fields = MODELS[model]
    path = folder / model.replace(" ", "-")
    return path if path.exists() else random_model.build(path, family, **{**SIZES, **fields})


def chat(folder: Path, case: Case) -> Seen:
    """One batch in a new process."""
    from herd_mcp.node import weights

    path = build(folder, case.model)
    told = held(
        {
            "path": str(path),
            "rows": case.rows,
            "prompt_tokens": case.tokens - ANSWER - OVERHEAD,
            "answer_tokens": ANSWER,
        }
    )
    size = weights.whole_bytes(weights.weight_files(path))
    needs = memory.chat_needs(chat_config(path), size, prompt_cache_bytes=0, fused=False)
    return Seen(told["weights"], size, told["peak"], size + beyond(needs, [case.tokens] * case.rows))


def image(px: int) -> Seen:
    """One image of the built-in model in a new process."""
    told = held({"path": str(BUILTIN_FOLDER / "herd-tiny-image"), "family": "builtin-flux2-klein", "px": px})
    needs = memory.image_needs("builtin-flux2-klein", told["weights"], builtin=True)
    return Seen(told["weights"], told["weights"], told["peak"], told["weights"] + beyond(needs, [px * px]))


def beyond(needs: Needs, sizes: list[int]) -> int:
    """What is needed besides the process and the weights."""
    return needs.caches_for(sizes) + needs.work_for(sizes)


def rows_of(name: str, seen: Seen) -> list[Row]:
    peaks = row(
        f"{name}: peak", "MiB", [seen.peak / MIB], [seen.computed_peak / MIB],
        Goal("within", 1.2), peer_name="computed",
    )  # fmt: skip
    weights = row(
        f"{name}: weights", "MiB", [seen.weights / MIB], [seen.computed_weights / MIB],
        Goal("within", 1.1), peer_name="computed",
    )  # fmt: skip
    return [weights, peaks]


def measure(cases: tuple[Case, ...], pixels: tuple[int, ...]) -> Report:
    before = machine.load()
    rows: list[Row] = []
    with processes.folder() as folder:
        for case in cases:
            rows += rows_of(str(case), chat(folder, case))
    for px in pixels:
        rows += rows_of(f"built-in image, {px} × {px}", image(px))[1:]
    about = "What MLX held at most, against what was computed from the config; without the process itself."
    return Report("memory", about, tuple(rows), machine.look(before), 1)


def main(argv: list[str]) -> int:
    options = parser("memory", __doc__, pairs=1)
    options.add_argument("--quick", action="store_true", help="fewer and smaller ones")
    asked = options.parse_args(argv)
    report = measure(QUICK[:2], PIXELS[:1]) if asked.quick else measure(CASES, PIXELS)
    return report.show(as_json=asked.json)
