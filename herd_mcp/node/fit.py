"""Whether a model could be loaded now, and why not, in the words and numbers that a person is told. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.node.admission import never
from herd_mcp.node.caps import RETRY_SHORT_S
from herd_mcp.node.lanes import Engine, EngineKey, Lane, Plan, State, for_jobs_only
from herd_mcp.settings import GIB, MIB

RETRY_S = 5
"""Told where nothing says how long it will take."""
MAX_TOLD = 20
"""Jobs that are named in a refusal."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether there is room for one more engine."""

    now: bool
    """Now, or as soon as idle models have ended for it."""
    reason: str = ""
    """Why it does not fit, or what would be ended first."""


def fit_of(state: State, key: EngineKey, needed: int) -> Fit:
    """For an engine that loads with `needed` bytes. What works, is waited for or is pinned is not ended for it."""
    lane = state.lanes.get(key)
    if lane is not None and lane.engine is not None and not lane.engine.condemned:
        return Fit(True)
    limits = state.limits
    free = limits.budget_bytes - state.reserved_bytes
    have = f"{gib(max(0, free))} of {gib(limits.budget_bytes)} are free for models"
    if needed > limits.budget_bytes:
        return Fit(False, f"it needs {gib(needed)}, and models may take {gib(limits.budget_bytes)} on this Mac")
    if state.level == "critical" and any(engine.running or engine.phase == "starting" for _, engine in state.engines()):
        return Fit(False, "this Mac is critically short of memory, and another model works")
    others = [(other, engine) for other, engine in state.engines() if not engine.condemned]
    free += sum(engine.reserved_bytes for _, engine in state.engines() if engine.condemned)
    places = limits.max_loaded - len(others) if limits.max_loaded else len(others) + 1
    leaving: list[str] = []
    for other, engine in sorted(others, key=lambda pair: pair[1].last_used_at):
        if needed <= free and places > 0:
            break
        if _idle(other, engine):
            leaving.append(other.plan.spec.model)
            free += engine.reserved_bytes
            places += 1
    if needed > free:
        return Fit(False, f"it needs {gib(needed)}, {have}, and {_what_holds(others)}")
    if places <= 0:
        return Fit(False, f"max_loaded is {limits.max_loaded}, and {_what_holds(others)}")
    return Fit(True, f"{' and '.join(leaving)} would be ended first" if leaving else "")


def check_fit(state: State, plan: Plan) -> None:
    """Raises HerdError when the engine cannot be loaded now: insufficient_memory if it never can, else busy."""
    if error := never(state, plan):
        raise HerdError.of(error)
    fit = fit_of(state, plan.key, plan.needs.load_bytes)
    if not fit.now:
        raise HerdError(
            ErrorCode.BUSY,
            f"{plan.spec.model} cannot be loaded now: {fit.reason}.",
            f"Try again in about {RETRY_S} s.",
            retryable=True,
            details={
                "retry_after_s": RETRY_S,
                "needed_bytes": plan.needs.load_bytes,
                "free_bytes": max(0, state.limits.budget_bytes - state.reserved_bytes),
                "budget_bytes": state.limits.budget_bytes,
            },
        )


def check_level(state: State, plan: Plan) -> None:
    """Raises HerdError(busy) when this Mac is so short of memory that the engine is not loaded without a job."""
    lane = state.lanes.get(plan.key)
    there = lane is not None and lane.engine is not None and not lane.engine.condemned
    if there or not for_jobs_only(state.level):
        return
    raise HerdError(
        ErrorCode.BUSY,
        f"This Mac is short of memory ({state.level}): {plan.spec.model} is loaded only for who waits for it.",
        f"Send a request that waits, try again in about {RETRY_SHORT_S} s, or close other programs.",
        retryable=True,
        details={"retry_after_s": RETRY_SHORT_S, "pressure": state.level},
    )


def still_loading(state: State, plan: Plan, engine: Engine | None, now: float) -> HerdError:
    """What one is told who does not wait for a model: how far its loading is, and when to come back."""
    left_s, told = None, fit_of(state, plan.key, plan.needs.load_bytes).reason or "it has just begun"
    loaded = engine.loaded if engine else -1.0
    if engine is not None and loaded > 0:
        left_s = (now - engine.started_at) * (1 - loaded) / loaded
        told = f"{loaded:.0%} are done"
    retry_after_s = RETRY_S if left_s is None else max(1, math.ceil(left_s))
    return HerdError(
        ErrorCode.BUSY,
        f"{plan.spec.model} is being loaded: {told}.",
        f"Try again in about {retry_after_s} s.",
        retryable=True,
        details={"retry_after_s": retry_after_s, "loading": max(0.0, loaded)},
    )


def in_use(model: str, jobs: list[str]) -> HerdError:
    """Why a model is not unloaded now."""
    return HerdError(
        ErrorCode.BUSY,
        f"{model} is in use: {len(jobs)} {'job runs or waits' if len(jobs) == 1 else 'jobs run or wait'} in it.",
        "Wait for them, or cancel them (`herd-mcp cancel`).",
        retryable=True,
        details={"jobs": jobs[:MAX_TOLD]},
    )


def unloaded(model: str) -> HerdError:
    """What one is told whose load was ended by an unload."""
    return HerdError(ErrorCode.BUSY, f"{model} was unloaded before it was ready.", "Load it again.", retryable=True)


def not_gone(model: str) -> HerdError:
    """Why an unload is not done yet."""
    return HerdError(
        ErrorCode.BUSY,
        f"{model} has not ended yet: its memory is not free.",
        "`herd-mcp status` tells when it is.",
        retryable=True,
    )


def _idle(lane: Lane, engine: Engine) -> bool:
    return engine.phase == "ready" and not engine.running and not lane.has_work and not lane.plan.pinned


def _what_holds(others: list[tuple[Lane, Engine]]) -> str:
    """The rest of a sentence: which models are not ended for another."""
    held = [lane.plan.spec.model for lane, engine in others if not _idle(lane, engine)]
    return f"what works, loads or is pinned stays: {', '.join(held)}" if held else "nothing more can be ended"


def gib(count: int) -> str:
    """Bytes for people."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
