"""The trained weights as the files that mlx-lm loads. No MLX needed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=True) + "\n", encoding="utf-8")


def bfloat16(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of the numbers, rounded to nearest even."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path: Path, weights: dict[str, NDArray[np.float32]]) -> None:
    """`weights` as bfloat16, in the safetensors format: a JSON header, then the bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    parts: list[bytes] = []
    at = 0
    for name in sorted(weights):
        data = bfloat16(np.ascontiguousarray(weights[name], np.float32)).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(weights[name].shape), "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(parts))


def write_index(folder: Path, weights: dict[str, NDArray[np.float32]]) -> None:
    size = 2 * sum(array.size for array in weights.values())
    names = dict.fromkeys(sorted(weights), "model.safetensors")
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": names})
