"""What is told while a model loads is a fraction of its bytes, whatever the number of its arrays."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx import nn

from herd_mcp.engines.chat_model import _read_weights
from herd_mcp.engines.image_load import READ_FROM, READ_TO, read_weights


class Uneven(nn.Module):  # type: ignore[misc]  # mlx has no types
    """Ten small arrays and one that has nine tenths of the bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.small = [mx.zeros(1000) for _ in range(10)]
        self.large = mx.zeros(90_000)


@pytest.mark.parametrize(("kind", "begins", "ends"), [("chat", 0.0, 0.95), ("image", READ_FROM, READ_TO)])
def test_the_fraction_is_one_of_bytes(kind: str, begins: float, ends: float) -> None:
    told: list[float] = []
    read = _read_weights if kind == "chat" else read_weights
    assert read(Uneven(), told.append) == 400_000
    done = [(fraction - begins) / (ends - begins) for fraction in told]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(1.0)
    steps = [after - before for before, after in zip([0.0, *done], done, strict=False)]
    assert max(steps) == pytest.approx(0.9, abs=0.03)  # the large one
