"""What a request gets while memory is short: a shorter answer, fewer steps, or a later start. Pure.

An answer and the steps of a picture are cut, and the result says so. What was asked to be of a size is not given in
another one: a picture or a conversation over the level's size is refused for now, with the size that goes; one that was
accepted before waits until memory is back, and lets smaller ones pass.
"""

from __future__ import annotations

import math

from herd_mcp import pipe
from herd_mcp.jobs import ChatRequest, ErrorCode, ErrorInfo, Queued, Request
from herd_mcp.node.events import Tell
from herd_mcp.node.lanes import Plan, Run, State
from herd_mcp.node.sizes import tokens_at_most

RETRY_SHORT_S = 30
"""When to come back to a Mac that is short of memory. Its level falls some time after the cause is gone."""


# ── What is cut ───────────────────────────────────────────────────────────────────────────────────────────────────────


def capped(state: State, run: Run, plan: Plan) -> Request:
    """The run's request as its engine gets it now: no longer an answer (tokens) and no more steps than the level
    allows."""
    request, run.cap = run.request, None
    if state.level == "normal":
        return request
    if isinstance(request, ChatRequest):
        most, asked = state.limits.pressure_max_tokens.get(state.level), run.answer_tokens
    else:
        most, asked = state.limits.pressure_max_steps.get(state.level), request.steps or plan.steps
    if most is None or most >= asked:
        return request
    run.cap = most
    return request.model_copy(update={"max_tokens" if isinstance(request, ChatRequest) else "steps": most})


def limited_by(run: Run, facts: pipe.ChatFacts | pipe.ImageFacts) -> str:
    """What cut short what would have been longer, for a reader; empty where nothing did."""
    if run.cap is None:
        return ""
    if isinstance(facts, pipe.ImageFacts):
        return f"memory: the picture was drawn in {run.cap} steps while this Mac is short of memory"
    if facts.finish_reason != "length" or facts.completion_tokens < run.cap:
        return ""
    return f"memory: the answer was limited to {run.cap} tokens while this Mac is short of memory"


# ── What is too large for now ─────────────────────────────────────────────────────────────────────────────────────────


def begun_px(state: State) -> int | None:
    """Pixels of the largest picture that is begun at the level of now; None without limit."""
    side = None if state.level == "normal" else state.limits.pressure_max_image_px.get(state.level)
    return None if side is None else side * side


def begun_tokens(state: State) -> int | None:
    """The same of a conversation, prompt and answer together."""
    return None if state.level == "normal" else state.limits.pressure_context_tokens.get(state.level)


def too_large(state: State, request: Request, size: int, plan: Plan) -> ErrorInfo | None:
    """Why this is not begun at the level of now: a picture of `size` pixels, or a conversation of `size` tokens."""
    most = begun_tokens(state) if isinstance(request, ChatRequest) else begun_px(state)
    if state.level == "normal" or most is None or size <= most:
        return None
    told: dict[str, object] = {"retry_after_s": RETRY_SHORT_S, "pressure": state.level}
    if isinstance(request, ChatRequest):
        answer = state.limits.pressure_max_tokens.get(state.level)
        if (size := _cut_tokens(request, plan, answer)) <= most:
            return None
        what, goes = f"a conversation of up to {size} tokens", f"{most} tokens, prompt and answer together"
        told |= {"asked_tokens": size, "fits_tokens": most}
    else:
        side = math.isqrt(most)
        what = f"a picture of {size / 1e6:.2f} megapixels"
        goes = f"{side} × {side} px or as many in another shape ({most / 1e6:.2f} megapixels)"
        told |= {"asked_px": size, "fits_px": most}
    return ErrorInfo(
        code=ErrorCode.BUSY,
        message=f"This Mac is short of memory ({state.level}): {what} is too large now.",
        hint=f"Ask for at most {goes}, try again in about {RETRY_SHORT_S} s, or close other programs.",
        retryable=True,
        details=told,
    )


def _cut_tokens(request: ChatRequest, plan: Plan, most: int | None) -> int:
    """Of a conversation whose answer is cut to `most` tokens."""
    asked = request.max_tokens or plan.max_tokens
    given = asked if most is None else min(asked, most)
    return tokens_at_most(request.model_copy(update={"max_tokens": given}), given, plan.spec.context_tokens)


def put_off(state: State, run: Run, plan: Plan) -> bool:
    """Note whether a run that was accepted waits for memory to come back; true when that is news."""
    before, run.put_off = run.put_off, too_large(state, run.request, run.size, plan) is not None
    return run.put_off != before


def put_all_off(state: State) -> list[Tell]:
    """The same for all that wait, after the level has changed."""
    told = []
    for lane in state.lanes.values():
        for position, run in enumerate(lane.waiting):
            if put_off(state, run, lane.plan):
                told.append(Tell(run.job_id, run.attempt, queued(state, run, position, lane.eta_s(position))))
    return told


def queued(state: State, run: Run, position: int, eta_s: float | None) -> Queued:
    """Where a run stands; one that is put off is told why, and nobody knows for how long."""
    if not run.put_off:
        return Queued(position=position, eta_s=eta_s)
    return Queued(position=position, message=f"too large while this Mac is short of memory ({state.level})")
