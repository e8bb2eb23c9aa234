"""Who runs next, as a part of `decide`. Lanes in the order of their places, which is that of their oldest job that may
start, but for those that had their turn:

a. engine ready: start jobs while there is room in it and memory for them; one that must be alone waits until the engine
   is empty, and those behind it wait for it;
b. no engine: start one if what it needs for its first job is free;
c. it is not free: claim it (`room.py`). Who claims first is served first, and what it waits for nobody younger takes;
d. it would not even be free if nothing else ran: the job fails with the numbers.

Then the engines that are wanted without a job, of what nobody waits for.
"""

from __future__ import annotations

from collections import deque

from herd_mcp import pipe
from herd_mcp.jobs import Failed, JobEvent, Progress
from herd_mcp.node.admission import never
from herd_mcp.node.caps import capped, queued
from herd_mcp.node.events import Effect, Send, StartEngine, Tell
from herd_mcp.node.lanes import Engine, Lane, Run, State, capacity_at, for_jobs_only
from herd_mcp.node.room import Room, Wish, end, settle, turn_runs
from herd_mcp.orders import Returned


def schedule(state: State, now: float) -> list[Effect]:
    """Start what may start now, and end what is wanted no more."""
    effects: list[Effect] = []
    settle(state)
    room = Room(state, now)
    for lane in sorted((lane for lane in state.lanes.values() if lane.head), key=lambda lane: lane.place):
        effects += _serve(state, room, lane, now)
    for lane in [lane for lane in state.lanes.values() if lane.wanted]:
        effects += _warm(state, room, lane, now)
    for lane, engine in state.engines():
        if engine.unloading and idle(lane, engine):
            effects.append(end(lane.plan.key, engine, "unloaded"))
    state.claim_at = room.claim_at
    return effects


def _serve(state: State, room: Room, lane: Lane, now: float) -> list[Effect]:
    """Start the lane's engine or its runs, as far as there is room."""
    effects: list[Effect] = []
    begun = False
    while run := lane.head:
        engine = lane.engine
        if engine is None:
            wish = Wish(lane.plan.needs.bytes_for([run.size]), 1)
        elif _takes(state, room, lane, engine, run):
            sizes = [other.size for other in engine.running.values()]
            wish = Wish(lane.plan.needs.bytes_for([*sizes, run.size]) - engine.reserved_bytes)
        else:
            break
        if room.take(lane, wish):
            if engine is None:
                effects.append(_start_engine(state, lane, wish.bytes, now))
                break
            effects += _start_run(state, lane, engine, run, wish.bytes, now)
            begun = True
        elif error := never(state, lane.plan, run.size):
            forget(state, run)
            effects.append(tell(run, Failed(error=error)))
        else:
            effects += room.claim(lane, wish)
            break
    if begun and lane.plan.capacity == 1:
        effects += [
            tell(run, queued(state, run, i, lane.eta_s(i))) for i, run in enumerate(lane.waiting) if not run.held
        ]
    return effects


def _takes(state: State, room: Room, lane: Lane, engine: Engine, run: Run) -> bool:
    """Whether the engine would take the run now, memory aside."""
    if engine.phase != "ready" or engine.condemned or lane.plan.key in room.blocked:
        return False
    if len(engine.running) >= capacity_at(state.level, lane.plan.capacity):
        return False
    return not (engine.running and (run.alone or any(other.alone for other in engine.running.values())))


def _start_engine(state: State, lane: Lane, reserved_bytes: int, now: float) -> StartEngine:
    plan = lane.plan
    lane.wanted = False
    lane.engine = Engine(
        generation=state.number(),
        reserved_bytes=reserved_bytes,
        started_at=now,
        last_used_at=now,
        last_progress_at=now,
        starts=deque(maxlen=turn_runs(plan.capacity)),
    )
    return StartEngine(plan.key, lane.engine.generation, plan.spec)


def _start_run(state: State, lane: Lane, engine: Engine, run: Run, more_bytes: int, now: float) -> list[Effect]:
    lane.waiting.remove(run)
    if not engine.running:
        engine.last_progress_at = now  # it was idle, not silent
    engine.reserved_bytes += more_bytes
    run.streams_s = engine.count_streams(now)
    engine.running[run.number] = run
    engine.starts.append(now)
    engine.last_used_at = run.started_at = now
    ready_at = now if engine.ready_at is None else engine.ready_at
    run.load_s = max(0.0, ready_at - max(run.submitted_at, engine.started_at))
    tokens = run.size if lane.plan.spec.kind == "chat" else 0
    start = pipe.Start(run=run.number, request=capped(state, run, lane.plan), spool=run.spool, tokens=tokens)
    return [
        tell(run, Progress(step=0, steps=run.steps, message="started")),
        Send(lane.plan.key, engine.generation, start),
    ]


def _warm(state: State, room: Room, lane: Lane, now: float) -> list[Effect]:
    """An engine without a job: it takes what is free or idle and nobody waits for, when memory is not short."""
    if lane.engine is not None or lane.head is not None:
        return []
    if never(state, lane.plan):
        lane.wanted = False
        drop(state, lane)
        return []
    if state.draining or for_jobs_only(state.level):
        return []
    wish = Wish(lane.plan.needs.load_bytes, 1)
    if room.take(lane, wish):
        return [_start_engine(state, lane, wish.bytes, now)]
    return [*room.claim(lane, wish)]


def idle(lane: Lane, engine: Engine) -> bool:
    """Whether nothing runs or waits in an engine that is to stay."""
    return not engine.condemned and not engine.running and not lane.has_work


def forget(state: State, run: Run) -> None:
    """The run's end is told: nothing more is said about it."""
    state.runs.pop(run.id, None)
    lane = state.lanes[run.key]
    if run.started_at is None:
        lane.waiting.remove(run)
    drop(state, lane)


def drop(state: State, lane: Lane) -> None:
    """A lane without engine and work is none."""
    if not lane.waiting and lane.engine is None and not lane.wanted:
        state.lanes.pop(lane.plan.key, None)


def tell(run: Run, event: JobEvent | Returned) -> Tell:
    """An event of the run for the job's owner."""
    return Tell(run.job_id, run.attempt, event)
