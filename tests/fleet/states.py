"""States of nodes for tests, as short as they can be said."""

from __future__ import annotations

from typing import Any

from herd_mcp.state import ChatRates, ImageRates, MemoryState, ModelState, NodeState

GIB = 2**30
IMAGE = ModelState(
    name="flux",
    aliases=("flux-schnell",),
    kind="image",
    bytes=8 * GIB,
    loaded=True,
    load_s=12,
    default_px=1000,
    default_steps=4,
    image=ImageRates(step_s_per_mpx=2, fixed_s_per_mpx=2),
)
"""Draws a usual image in 10 s."""
CHAT = ModelState(
    name="qwen",
    kind="chat",
    bytes=4 * GIB,
    loaded=True,
    load_s=5,
    capacity=4,
    context_tokens=8000,
    chat=ChatRates(prefill_tokens_per_s=100, decode_tokens_per_s=20, answer_tokens=200, tokens_per_byte=0.25),
)
"""Answers 400 bytes in 11 s."""
COLD = {"loaded": False}


MEMORY = MemoryState(total_bytes=32 * GIB, available_bytes=24 * GIB, budget_bytes=24 * GIB, reserved_bytes=0)
SHORT = MEMORY.model_copy(update={"pressure": "high", "begun_px": 512 * 512, "begun_tokens": 200})
"""Of a Mac that begins neither a usual image nor a conversation of 1000 bytes."""


def node(number: int, *models: ModelState, **fields: Any) -> NodeState:
    """The node `n<number>`, idle, with an image and a chat model unless others are given."""
    return NodeState(
        node_id=f"{number:010x}",
        name=f"n{number}",
        version="1",
        status=fields.pop("status", "online"),
        platform="macOS",
        chip="M2",
        cpu_cores=8,
        memory=fields.pop("memory", MEMORY),
        models=models or (IMAGE, CHAT),
        started_at=0,
        **fields,
    )


def like(model: ModelState, **fields: Any) -> ModelState:
    return ModelState.model_validate(model.model_dump() | fields)
