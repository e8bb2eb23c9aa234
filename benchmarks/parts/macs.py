"""Unequal Macs and models, by public figures: memory, memory bandwidth and GPU of Apple's chips, sizes of checkpoints.

Decoding reads all weights for each token, so its rate is bandwidth by bytes; prefill and diffusion steps compute, so
theirs is the GPU's. The parts that are reached of both are guesses of the right order. Only ratios of policies on the
same guesses are reported.
"""

from __future__ import annotations

from dataclasses import dataclass

from herd_mcp.jobs import Kind

GB = 10**9
REACHED_BANDWIDTH = 0.7
REACHED_GPU = 0.5
LOAD_BYTES_PER_S = 2 * GB
PROCESS_S = 2.0
"""Start of an engine, without reading its weights."""


@dataclass(frozen=True, slots=True)
class Chip:
    name: str
    memory_gb: int
    bandwidth_gb_s: float
    gpu_tflops: float
    """In 32 bits, as published."""

    @property
    def budget_bytes(self) -> int:
        """What herd-mcp leaves to models: all but a quarter, at least 2 GiB."""
        return int((self.memory_gb - max(self.memory_gb / 4, 2.15)) * GB)


CHIPS = (
    Chip("M1 8 GB", 8, 68, 2.6),
    Chip("M2 16 GB", 16, 100, 3.6),
    Chip("M4 16 GB", 16, 120, 4.3),
    Chip("M2 Pro 32 GB", 32, 200, 6.8),
    Chip("M4 Pro 48 GB", 48, 273, 9.2),
    Chip("M3 Max 64 GB", 64, 400, 14.2),
    Chip("M4 Max 128 GB", 128, 546, 18.4),
    Chip("M2 Ultra 192 GB", 192, 800, 27.2),
    Chip("M3 Ultra 512 GB", 512, 819, 28.4),
)


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    kind: Kind
    billions: float
    """Parameters that a token or a step computes with."""
    bytes: int
    answer_tokens: float = 0

    @property
    def load_s(self) -> float:
        return PROCESS_S + self.bytes / LOAD_BYTES_PER_S

    def step_s_per_mpx(self, chip: Chip) -> float:
        """12 billion parameters take about 4 s a step at 1024 px on an M3 Ultra (18 s for an image of four)."""
        return 4.0 * (self.billions / 12) * (28.4 / chip.gpu_tflops)

    def fixed_s_per_mpx(self, chip: Chip) -> float:
        return 2.0 * 28.4 / chip.gpu_tflops

    def prefill_tokens_per_s(self, chip: Chip) -> float:
        return REACHED_GPU * chip.gpu_tflops * 1e12 / (2 * self.billions * 1e9)

    def decode_tokens_per_s(self, chip: Chip) -> float:
        return REACHED_BANDWIDTH * chip.bandwidth_gb_s * GB / self.bytes


SMALL_IMAGE = Model("small-image", "image", 2.0, 4 * GB)
MODELS = (
    SMALL_IMAGE,
    Model("middle-image", "image", 6.0, 11 * GB),
    Model("large-image", "image", 12.0, 18 * GB),
    Model("chat-4b", "chat", 4.0, int(2.3 * GB), 250),
    Model("chat-8b", "chat", 8.0, int(4.6 * GB), 300),
    Model("chat-32b", "chat", 32.0, 18 * GB, 400),
)
BY_NAME = {model.name: model for model in MODELS}
