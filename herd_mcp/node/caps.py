"""How long an answer may be while memory is short. Pure; tokens."""

from __future__ import annotations

from herd_mcp import pipe
from herd_mcp.jobs import ChatRequest, Request
from herd_mcp.node.lanes import Run, State


def capped(state: State, run: Run) -> Request:
    """The run's request as its engine gets it now: a chat's answer is no longer than the level allows (tokens)."""
    request, run.token_cap = run.request, None
    if state.level == "normal" or not isinstance(request, ChatRequest):
        return request
    most = state.limits.pressure_max_tokens.get(state.level)
    if most is None or most >= (request.max_tokens or pipe.DEFAULT_MAX_TOKENS):
        return request
    run.token_cap = most
    return request.model_copy(update={"max_tokens": most})


def limited_by(run: Run, facts: pipe.ChatFacts) -> str:
    """What cut an answer short that would have been longer, for a reader; empty where nothing did."""
    if run.token_cap is None or facts.finish_reason != "length" or facts.completion_tokens < run.token_cap:
        return ""
    return f"memory: the answer was limited to {run.token_cap} tokens while this Mac is short of memory"
