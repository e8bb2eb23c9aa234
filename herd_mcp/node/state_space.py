"""Layers that keep a state instead of tokens: what a sequence keeps in one, and what computing a prompt takes. Pure
functions, in bytes.

mlx-lm has the caches of all layers evaluated together, and the states come last: what a state is computed from is held
in every such layer at once. So a model of many takes much more than a dense one of the same size. How often each width
counts was fitted to random models of 2 to 16 layers on a CPU; Metal was not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from herd_mcp.settings import MOST_BYTES

SCAN_TOKENS = 256
"""Tokens of a prompt that Mamba-2 computes at once, with a number for each pair of them and head."""
HIDDEN_COPIES = 2
"""As wide as the model: what comes into a layer, and its norm."""
FLOAT = 4
"""Bytes of a number in a state and in what leads to it, whatever the checkpoint's type."""

Kind = Literal["delta", "convolution", "mamba", "jamba", "mamba2"]


@dataclass(frozen=True, slots=True)
class StateLayer:
    kind: Kind
    inner: int
    """Numbers per token that go into the state."""
    conv: int
    """Numbers per token that go through the convolution."""
    kernel: int
    """Tokens that the convolution looks at."""
    state: int
    """Numbers of the state, for each of `inner`."""
    heads: int = 0

    @property
    def kept_bytes(self) -> int:
        """Of one sequence: the state, and the last inputs of the convolution."""
        return FLOAT * (self.inner * self.state + (self.kernel - 1) * self.conv)


@dataclass(frozen=True, slots=True)
class StateWork:
    """What a step of prompts takes in such layers."""

    token_bytes: float
    """Per token, while a layer is computed."""
    pair_bytes: float
    """Per pair of SCAN_TOKENS, likewise."""
    held_token_bytes: float
    """Per token, until the step is over."""
    held_pair_bytes: float

    def layer_bytes(self, prompts: int, tokens: int) -> float:
        return prompts * (self.token_bytes * tokens + self.pair_bytes * min(tokens, SCAN_TOKENS) ** 2)

    def held_bytes(self, prompts: int, tokens: int) -> float:
        return prompts * (self.held_token_bytes * tokens + self.held_pair_bytes * min(tokens, SCAN_TOKENS) ** 2)


def work(layer: StateLayer, layers: int, hidden: int, each: int, *, fused: bool) -> StateWork:
    """Of a model with so many layers like it. `hidden`: its width. `each`: bytes of a number of the checkpoint's type.
    `fused`: the device has kernels of its own (Metal)."""
    pair, held_pair = 0.0, 0.0
    if layer.kind == "delta":
        # Without a kernel there is the state after every token. What the kernel takes besides is derived, not measured.
        own = 6 * each * layer.conv if fused else 3 * each * layer.conv + FLOAT * layer.inner * layer.state
        token, held = float(own), float(each * layer.conv)
    elif layer.kind == "convolution":
        token, held = 9 * each * layer.inner, 2.5 * each * layer.inner
    elif layer.kind == "mamba":  # one token after the other
        token, held = 8.0 * each * layer.inner, 3.0 * each * layer.inner
    elif layer.kind == "jamba":  # the state after every token
        token, held = each * layer.inner * (8 + 9.5 * layer.state), each * layer.inner * (3 + layer.state)
    else:
        token, held = layer.inner * (6 * each + 10), layer.inner * (2 * each + 5)
        pair, held_pair = FLOAT * layer.heads * (3 + 8 * layer.state / SCAN_TOKENS), FLOAT * layer.heads
    parts = (token + HIDDEN_COPIES * each * hidden, pair, layers * held, layers * held_pair)
    return StateWork(*(min(part, float(MOST_BYTES)) for part in parts))
