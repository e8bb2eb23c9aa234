"""What there is to do, as placement sees it."""

from __future__ import annotations

from dataclasses import dataclass

from herd_mcp.fleet.prefixes import Prefix
from herd_mcp.jobs import Kind
from herd_mcp.state import ChatRates, ImageRates, ModelState, NodeState

SLOW_IMAGE = ImageRates(step_s_per_mpx=10, fixed_s_per_mpx=10)
SLOW_CHAT = ChatRates(prefill_tokens_per_s=100, decode_tokens_per_s=10, answer_tokens=256)
"""Of a node that does not tell its rates: those of a small Mac with a large model."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What there is to do, as far as it counts for its place."""

    kind: Kind
    model: str
    """Its name, resolved."""
    width_px: int | None = None
    height_px: int | None = None
    steps: int | None = None
    drawn: float = 1.0
    """Part of the steps that are computed: an image that starts from a picture skips the first ones."""
    prompt_bytes: int = 0
    max_tokens: int | None = None
    prefixes: tuple[Prefix, ...] = ()
    """Beginnings of the conversation, the shortest first."""


USUAL_PX = 1024
"""Side of an image, where neither the request nor the node says."""


def size_of(ask: Ask, model: ModelState) -> tuple[int, int]:
    """Width and height of an image in pixels."""
    width = ask.width_px or ask.height_px or model.default_px or USUAL_PX
    return width, ask.height_px or width


def model_of(state: NodeState, name: str) -> ModelState | None:
    return next((model for model in state.models if model.name == name), None)
