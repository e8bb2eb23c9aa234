"""What a node does when memory gets short, as a part of `decide`: no I/O, no clock.

| level | kept prompts of each engine | idle engines that are not pinned | answers, pictures, conversations |
|---|---|---|---|
| normal | all of prompt_cache_bytes | end after idle_unload_s | as asked |
| moderate | half | the same | within the level's pressure_… (`caps.py`) |
| high | a tenth | end after `SHORT_IDLE_S` | the same |
| critical | none | end at once | the same |

And at every level: an engine that holds more than its reservation by memory_margin and `SPARE_BYTES`, in two
measurements in a row, is ended. Neither MLX nor macOS does that.
"""

from __future__ import annotations

from typing import Any

from herd_mcp import pipe
from herd_mcp.node.caps import put_all_off
from herd_mcp.node.events import Effect, Measured, Send
from herd_mcp.node.lanes import Engine, Lane, State
from herd_mcp.node.room import end
from herd_mcp.settings import GIB, MIB
from herd_mcp.state import Level

KEPT: dict[Level, float] = {"normal": 1.0, "moderate": 0.5, "high": 0.1, "critical": 0.0}
"""Of prompt_cache_bytes."""
SHORT_IDLE_S = 30.0
"""How long an engine may be idle at level high."""
SPARE_BYTES = 128 * MIB
"""What an engine may hold beyond reservation and margin: so much is noise of the allocator."""
MEASUREMENTS = 2
"""So many in a row above that, and it is ended: one may be the moment of a copy."""
SETTLE_S = 10.0
"""How long the memory of a job that ended may take to come back."""


def measured(state: State, event: Measured, now: float) -> list[Effect]:
    """Note the level and what engines hold; do what the level asks for."""
    effects: list[Effect] = []
    changed, state.level = state.level != event.level, event.level
    held = {(key, generation): bytes_ for key, generation, bytes_ in event.held_bytes}
    for lane, engine in state.engines():
        if engine.condemned:
            continue
        bytes_ = held.get((lane.plan.key, engine.generation))
        if bytes_ is not None and _overgrown(engine, bytes_, state.limits.memory_margin, now):
            effects.append(end(lane.plan.key, engine, _too_much(engine)))
        elif _idle_for(state, lane, engine, now):
            effects.append(end(lane.plan.key, engine, f"it was idle, and memory is short ({state.level})"))
        elif changed and engine.phase == "ready":
            effects.append(limit(lane, engine, state.level))
    return [*effects, *put_all_off(state)] if changed else effects


def became_ready(state: State, lane: Lane, engine: Engine) -> list[Effect]:
    """An engine that comes while memory is short keeps less from the beginning."""
    return [] if state.level == "normal" else [limit(lane, engine, state.level)]


def limit(lane: Lane, engine: Engine, level: Level) -> Send:
    kept = int(lane.plan.spec.prompt_cache_bytes * KEPT[level])
    return Send(lane.plan.key, engine.generation, pipe.Limit(prompt_cache_bytes=kept))


def _idle_for(state: State, lane: Lane, engine: Engine, now: float) -> bool:
    """Whether the engine is idle for too long at this level. One that loads is not: somebody wants it."""
    if state.level not in ("high", "critical") or lane.plan.pinned:
        return False
    if engine.phase != "ready" or engine.running or lane.has_work:
        return False
    return state.level == "critical" or now - engine.last_used_at >= SHORT_IDLE_S


# ── Engines that take too much ────────────────────────────────────────────────────────────────────────────────────────


def _overgrown(engine: Engine, held: int, margin: float, now: float) -> bool:
    engine.held_bytes, engine.most_bytes = held, max(held, engine.most_bytes)
    if engine.reserved_bytes >= engine.lately_bytes or now - engine.lately_at >= SETTLE_S:
        engine.lately_bytes, engine.lately_at = engine.reserved_bytes, now
    settling = engine.phase == "ready" and not engine.running and now - engine.last_used_at < SETTLE_S
    over = held > engine.lately_bytes * (1 + margin) + SPARE_BYTES and not settling
    engine.times_over = engine.times_over + 1 if over else 0
    return engine.times_over >= MEASUREMENTS


def overgrown(engine: Engine) -> bool:
    """Whether it was ended for taking more than was reserved for it: then the estimate was too low."""
    return engine.times_over >= MEASUREMENTS


def why_gone(engine: Engine) -> dict[str, Any]:
    """Details for the error of the jobs that an engine leaves: the numbers, if it took too much."""
    if not overgrown(engine):
        return {}
    return {"held_bytes": engine.held_bytes, "reserved_bytes": engine.lately_bytes}


def _too_much(engine: Engine) -> str:
    return f"it took {engine.held_bytes / GIB:.2f} GiB, {engine.lately_bytes / GIB:.2f} GiB were reserved for it"
