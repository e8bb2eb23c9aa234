"""What is not taken though there is a lane for it: what never fits, and what comes when memory is critically short."""

from __future__ import annotations

from herd_mcp.jobs import ChatRequest, ErrorCode, ErrorInfo
from herd_mcp.node import memory
from herd_mcp.node.caps import RETRY_SHORT_S
from herd_mcp.node.lanes import Plan, Run, State
from herd_mcp.node.memory import Needs
from herd_mcp.node.room import kept_bytes


def never(state: State, plan: Plan, size: int | None = None) -> ErrorInfo | None:
    """Why this would not fit if nothing ran and all went that may go. `size` None: the engine alone, without a job."""
    pinned = [
        kept_bytes(lane, engine)
        for lane, engine in state.engines()
        if lane.plan.pinned and lane.plan.key != plan.key and not engine.condemned
    ]
    limits = state.limits
    if limits.max_loaded and len(pinned) >= limits.max_loaded:
        return ErrorInfo(
            code=ErrorCode.INSUFFICIENT_MEMORY,
            message=f"{plan.spec.model} cannot be loaded: {len(pinned)} pinned models take every place (max_loaded).",
            hint="Unpin one, or raise max_loaded (`herd-mcp config`).",
            details={"max_loaded": limits.max_loaded, "pinned": len(pinned)},
        )
    sizes = [] if size is None else [size]
    needed_bytes = plan.needs.bytes_for(sizes)
    room_bytes = limits.budget_bytes - sum(pinned)
    if needed_bytes <= room_bytes:
        return None
    error = memory.too_big(plan.spec.model, needed_bytes, room_bytes).info
    details = error.details | {"budget_bytes": limits.budget_bytes}
    hint = error.hint
    if pinned:
        details["pinned_bytes"] = sum(pinned)
        hint = "Pinned models keep their memory: unpin one, or choose a smaller model (`herd-mcp models`)."
    if size is not None and (fits := largest_size(plan.needs, room_bytes, size)):
        chat = plan.spec.kind == "chat"
        details["fits_tokens" if chat else "fits_px"] = fits
        hint = (
            f"Ask for at most {fits} tokens, prompt and answer together."
            if chat
            else f"Ask for a picture of at most {fits / 1e6:.2f} megapixels."
        )
    return error.model_copy(update={"hint": hint, "details": details})


def largest_size(needs: Needs, room_bytes: int, size: int) -> int:
    """The largest size below `size` that fits in so many bytes; 0 when none does."""
    fits, too_large = 0, size
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if needs.bytes_for([middle]) <= room_bytes:
            fits = middle
        else:
            too_large = middle
    return fits


def too_short(state: State, plan: Plan) -> ErrorInfo | None:
    """The refusal of a job that would need another engine beside those that work, on a Mac critically short of
    memory."""
    lane = state.lanes.get(plan.key)
    if state.level != "critical" or (lane is not None and lane.engine is not None):
        return None
    if not any(engine.running or engine.phase == "starting" for _, engine in state.engines()):
        return None
    return ErrorInfo(
        code=ErrorCode.BUSY,
        message=f"This Mac is critically short of memory: {plan.spec.model} is not loaded beside what runs.",
        hint=f"Try again in about {RETRY_SHORT_S} s, or close other programs.",
        retryable=True,
        details={"retry_after_s": RETRY_SHORT_S, "pressure": state.level},
    )


def counted_size(run: Run, error: ErrorInfo, context_tokens: int | None = None) -> int | None:
    """What to reserve for a chat whose prompt turned out longer than it was taken for: tokens of the prompt, as its
    engine counted them, and of the answer. None if that is not what the error says, or was said before."""
    tokens = error.details.get("prompt_tokens")
    if error.code != ErrorCode.INSUFFICIENT_MEMORY or run.counted or run.first_token_at is not None:
        return None
    if not isinstance(run.request, ChatRequest) or type(tokens) is not int or not 0 < tokens < 2**40:
        return None
    size: int = tokens + run.answer_tokens
    return size if context_tokens is None else min(size, context_tokens)
