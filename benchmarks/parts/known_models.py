"""Well-known models: facts of their published configs, for a table of what fits where. Nothing here was measured.

`bytes` are of the checkpoint as it is usually run on a Mac: parameters at 4 bits with a scale and a bias per group of
64, which is 4.5 bits each; gpt-oss as published (its experts at 4.25 bits, the rest at 16).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class KnownChat:
    name: str
    parameters: float
    """Billions."""
    config: dict[str, Any]
    context_tokens: int
    bits: float = 4.5

    @property
    def weights_bytes(self) -> int:
        return int(self.parameters * 1e9 * self.bits / 8)


@dataclass(frozen=True, slots=True)
class KnownImage:
    name: str
    family: str
    parameters: float
    """Billions: the transformer, its text encoders and the VAE."""
    bits: float = 8.5
    """What the node quantises to while loading, with scale and bias."""

    @property
    def weights_bytes(self) -> int:
        return int(self.parameters * 1e9 * self.bits / 8)


def _config(
    family: str, layers: int, hidden: int, inner: int, heads: int, kv_heads: int, head_dim: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": family, "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inner,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "vocab_size": vocab,
        "torch_dtype": "bfloat16", **more,
    }  # fmt: skip


_GEMMA = {"sliding_window": 1024, "sliding_window_pattern": 6}

CHATS = (
    KnownChat("Llama 3.2 3B", 3.21, _config("llama", 28, 3072, 8192, 24, 8, 128, 128256), 131_072),
    KnownChat("Qwen3 4B", 4.02, _config("qwen3", 36, 2560, 9728, 32, 8, 128, 151936), 40_960),
    KnownChat("Llama 3.1 8B", 8.03, _config("llama", 32, 4096, 14336, 32, 8, 128, 128256), 131_072),
    KnownChat("Qwen3 8B", 8.19, _config("qwen3", 36, 4096, 12288, 32, 8, 128, 151936), 40_960),
    KnownChat("Gemma 3 12B", 11.77, _config("gemma3_text", 48, 3840, 15360, 16, 8, 256, 262208, **_GEMMA), 131_072),
    KnownChat(
        "gpt-oss-20b",
        20.91,
        _config("gpt_oss", 24, 2880, 2880, 64, 8, 64, 201088, sliding_window=128, num_experts_per_tok=4),
        131_072,
        bits=5.3,
    ),
    KnownChat("Mistral Small 3 24B", 23.57, _config("llama", 40, 5120, 32768, 32, 8, 128, 131072), 32_768),
    KnownChat("Gemma 3 27B", 27.01, _config("gemma3_text", 62, 5376, 21504, 32, 16, 128, 262208, **_GEMMA), 131_072),
    KnownChat(
        "Qwen3 30B-A3B",
        30.53,
        _config("qwen3_moe", 48, 2048, 6144, 32, 4, 128, 151936, num_experts_per_tok=8, moe_intermediate_size=768),
        40_960,
    ),
    KnownChat("Qwen2.5 32B", 32.76, _config("qwen2", 64, 5120, 27648, 40, 8, 128, 152064), 32_768),
    KnownChat("Llama 3.3 70B", 70.55, _config("llama", 80, 8192, 28672, 64, 8, 128, 128256), 131_072),
)

IMAGES = (
    KnownImage("Z-Image-Turbo", "z-image-turbo", 6.15 + 4.02 + 0.08),
    KnownImage("FLUX.2 klein 4B", "flux2-klein-4b", 3.9 + 4.02 + 0.08),
    KnownImage("FLUX.1 dev", "dev", 11.9 + 4.76 + 0.12 + 0.08),
)

MACS_GIB = (8, 16, 32, 64, 128)
