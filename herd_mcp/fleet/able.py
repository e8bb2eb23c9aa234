"""What keeps a node from running a job, each with its reason for people."""

from __future__ import annotations

from herd_mcp.fleet.ask import SLOW_CHAT, Ask, model_of, size_of
from herd_mcp.state import WIRE_MAJOR, ModelState, NodeState

LEAST_DISK_BYTES = 512 * 1024 * 1024
CONTEXT_SLACK = 1.5
"""Tokens are estimated from bytes: only what is clearly too long is kept from a node, the rest it counts itself."""


def unable(ask: Ask, state: NodeState) -> str:
    """Why a node cannot run it, for people; empty where it can."""
    if state.status == "offline":
        return f"it is offline: {state.reason}" if state.reason else "it is offline"
    if state.status == "draining":
        return "it is about to end"
    if state.wire[0] != WIRE_MAJOR:
        return f"it speaks version {state.wire[0]} between nodes, this Mac version {WIRE_MAJOR}: update the older one"
    model = model_of(state, ask.model)
    if model is None or model.kind != ask.kind:
        other = any(model.kind == ask.kind for model in state.models)
        return f"it does not have {ask.model}" if other else f"it has no {ask.kind} model"
    if not model.fits:
        return model.reason or f"{model.name} does not fit into its memory"
    longest_px = max(ask.width_px or 0, ask.height_px or 0)
    if model.largest_px is not None and longest_px > model.largest_px:
        return f"it draws at most {model.largest_px} px"
    if ask.kind == "chat" and model.context_tokens is not None:
        tokens = _prompt_tokens(ask, model)
        if tokens > model.context_tokens * CONTEXT_SLACK:
            return f"about {tokens} tokens are too long for it, which holds {model.context_tokens}"
    if state.disk_free_bytes is not None and state.disk_free_bytes < LEAST_DISK_BYTES:
        return f"its disk has only {state.disk_free_bytes / 2**20:.0f} MiB left"
    return ""


def put_off(ask: Ask, state: NodeState) -> str:
    """Why a node that can run it does not begin it while its memory is as short as now; empty where it does."""
    model, memory = model_of(state, ask.model), state.memory
    if model is None:
        return ""
    short = f"while it is short of memory ({memory.pressure})"
    if ask.kind == "image":
        width, height = size_of(ask, model)
        large = memory.begun_px is not None and width * height > memory.begun_px
        return f"it begins no image as large as {width} × {height} px {short}" if large else ""
    tokens = _prompt_tokens(ask, model)
    long = memory.begun_tokens is not None and tokens > memory.begun_tokens
    return f"it begins no conversation of about {tokens} tokens {short}" if long else ""


def _prompt_tokens(ask: Ask, model: ModelState) -> int:
    return round(ask.prompt_bytes * (model.chat or SLOW_CHAT).tokens_per_byte)
