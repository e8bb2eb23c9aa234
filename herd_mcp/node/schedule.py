"""Who runs next, as a part of `decide`. Lanes in the order of their oldest job that may start:

a. engine ready: start jobs while there is room in it; one that must be alone waits until the engine is empty, and those
   behind it wait for it;
b. no engine: start one if its reservation fits in the budget;
c. it does not fit: end idle engines, the one longest unused first, if that makes room;
d. it would not make room: wait, and let no engine start jobs younger than this one, so that room comes.
"""

from __future__ import annotations

from herd_mcp import pipe
from herd_mcp.jobs import JobEvent, Progress, Queued
from herd_mcp.node.events import Effect, EndEngine, Send, StartEngine, Tell
from herd_mcp.node.lanes import Engine, EngineKey, Lane, Run, State


def schedule(state: State, now: float) -> list[Effect]:
    """Start what may start now."""
    effects: list[Effect] = []
    claimed_at: float | None = None  # when the oldest job came that waits for others' memory
    heads = [(head.submitted_at, head.number, lane) for lane in state.lanes.values() if (head := lane.head)]
    for submitted_at, _, lane in sorted(heads, key=lambda row: row[:2]):
        if lane.engine is None:
            room, made = _make_room(state, lane)
            effects += made
            if room and claimed_at is None:
                effects.append(_start_engine(state, lane, now))
            elif claimed_at is None:
                claimed_at = submitted_at
        elif lane.engine.phase == "ready" and not lane.engine.condemned:
            effects += _start_runs(state, lane, lane.engine, claimed_at, now)
    for lane in state.lanes.values():
        if lane.wanted and lane.engine is None and claimed_at is None:
            room, made = _make_room(state, lane)
            effects += made
            if room:
                effects.append(_start_engine(state, lane, now))
    return effects


def _make_room(state: State, lane: Lane) -> tuple[bool, list[Effect]]:
    """Whether the lane's engine fits now, and the idle engines to end if that makes it fit soon."""
    missing = lane.plan.needs.load_bytes + state.reserved_bytes - state.limits.budget_bytes
    most = state.limits.max_loaded
    crowd = len(list(state.engines())) + 1 - most if most else 0
    if missing <= 0 and crowd <= 0:
        return True, []
    condemned = [engine.reserved_bytes for _, engine in state.engines() if engine.condemned]
    missing -= sum(condemned)
    crowd -= len(condemned)
    leaving: list[tuple[Lane, Engine]] = []
    for other, engine in sorted(state.engines(), key=lambda pair: pair[1].last_used_at):
        if missing <= 0 and crowd <= 0:
            break
        if other.plan.pinned:
            continue
        if engine.phase == "ready" and not engine.condemned and not engine.running and not _owed_first(other, lane):
            leaving.append((other, engine))
            missing -= engine.reserved_bytes
            crowd -= 1
    if missing > 0 or crowd > 0:
        return False, []
    return False, [end(other.plan.key, engine, f"room for {lane.plan.spec.model}") for other, engine in leaving]


def _owed_first(other: Lane, lane: Lane) -> bool:
    """Whether `other` has a job that came before the one that `lane` wants room for."""
    mine, theirs = lane.head, other.head
    return mine is not None and theirs is not None and theirs.number < mine.number


def _start_engine(state: State, lane: Lane, now: float) -> StartEngine:
    plan = lane.plan
    lane.wanted = False
    lane.engine = Engine(
        generation=state.number(),
        reserved_bytes=plan.needs.load_bytes,
        started_at=now,
        last_used_at=now,
        last_progress_at=now,
    )
    return StartEngine(plan.key, lane.engine.generation, plan.spec)


def _start_runs(state: State, lane: Lane, engine: Engine, claimed_at: float | None, now: float) -> list[Effect]:
    effects: list[Effect] = []
    while (run := lane.head) and len(engine.running) < lane.plan.capacity:
        if claimed_at is not None and run.submitted_at > claimed_at:
            break
        if engine.running and (run.alone or any(other.alone for other in engine.running.values())):
            break
        lane.waiting.remove(run)
        if not engine.running:
            engine.last_progress_at = now  # it was idle, not silent
        engine.running[run.number] = run
        engine.last_used_at = run.started_at = now
        run.load_s = max(0.0, (engine.ready_at or now) - max(run.submitted_at, engine.started_at))
        start = pipe.Start(run=run.number, request=run.request, spool=run.spool)
        effects.append(tell(run, Progress(step=0, steps=run.steps, message="started")))
        effects.append(Send(lane.plan.key, engine.generation, start))
    if effects and lane.plan.capacity == 1:
        effects += [
            tell(run, Queued(position=i, eta_s=lane.eta_s(i))) for i, run in enumerate(lane.waiting) if not run.held
        ]
    return effects


def tell(run: Run, event: JobEvent) -> Tell:
    """An event of the run for the job's owner."""
    return Tell(run.job_id, run.attempt, event)


def end(key: EngineKey, engine: Engine, reason: str) -> EndEngine:
    """Order the end of an engine; it keeps its memory until it is gone."""
    engine.condemned = True
    return EndEngine(key, engine.generation, reason)
