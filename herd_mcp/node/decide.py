"""Every decision of a node: `decide(state, event, now)` changes the state and says what to do. No I/O, no clock.

The order of decisions, each time something happened:
1. The event itself: take or refuse a job, note what an engine said, end what is over its time.
2. Lanes in the order of their oldest job that may start:
   a. engine ready: start jobs while there is room in it;
   b. no engine: start one if its reservation fits in the budget;
   c. it does not fit: end idle engines, the one longest unused first, if that makes room;
   d. it would not make room: wait, and let no engine start jobs younger than this one, so that room comes.
"""

from __future__ import annotations

from collections.abc import Iterator

from herd_mcp import pipe
from herd_mcp.jobs import Cancelled, ErrorCode, ErrorInfo, Failed, JobEvent, Loading, Progress, Queued
from herd_mcp.node import memory
from herd_mcp.node.events import (
    Cancel,
    Close,
    Drain,
    Effect,
    EndEngine,
    Event,
    Exited,
    Heard,
    Refuse,
    Release,
    Send,
    StartEngine,
    Submit,
    Tell,
    Tick,
)
from herd_mcp.node.lanes import Engine, EngineKey, Lane, Run, State
from herd_mcp.node.outcome import completed, deltas


def decide(state: State, event: Event, now: float) -> list[Effect]:
    """Apply `event` at `now` (seconds, monotonic) and return what has to be done, in order."""
    effects: list[Effect] = []
    match event:
        case Submit():
            effects += _submit(state, event, now)
        case Release(job_id):
            if run := state.runs.get(job_id):
                run.held = False
        case Cancel(job_id):
            effects += _cancel(state, job_id)
        case Heard(key, generation, message):
            effects += _heard(state, key, generation, message, now)
        case Exited():
            effects += _exited(state, event)
        case Drain():
            state.draining = True
        case Close():
            state.draining = state.closed = True
        case Tick():
            effects += _tick(state, now)
    # A plain step starts and ends nothing: the hot path skips the look at all lanes.
    plain = isinstance(event, Heard) and isinstance(event.message, pipe.Step | pipe.LoadingNow | pipe.WaitingForTurn)
    if not plain and not state.closed:
        effects += _schedule(state, now)
    return effects


def next_tick_at(state: State) -> float | None:
    """When the next `Tick` is due, None while nothing can run out."""
    limits = state.limits
    times = [run.deadline_at for run in state.runs.values()]
    for lane, engine in state.engines():
        if engine.condemned:
            continue
        if engine.phase == "starting":
            times.append(engine.started_at + limits.load_timeout_s)
        if engine.running or engine.phase == "starting":
            times.append(engine.last_progress_at + limits.engine_stall_s)
        elif limits.idle_unload_s and not lane.waiting:
            times.append(engine.last_used_at + limits.idle_unload_s)
    return min(times, default=None)


# ── Jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _submit(state: State, event: Submit, now: float) -> list[Effect]:
    plan = event.plan
    lane = state.lanes.get(plan.key)
    if state.draining and not event.forced:
        return [Refuse(event.job_id, _draining())]
    if plan.reserve_bytes > state.limits.budget_bytes:
        refusal = memory.too_big(plan.spec.model, plan.reserve_bytes, state.limits.budget_bytes)
        return [Refuse(event.job_id, refusal.info)]
    if lane is not None and len(lane.waiting) >= state.limits.queue_limit and not event.forced:
        return [Refuse(event.job_id, _busy(lane))]
    if lane is None:
        lane = state.lanes[plan.key] = Lane(plan)
    elif lane.engine is None:
        lane.plan = plan  # the files may have changed since the last engine
    run = Run(
        number=state.number(),
        job_id=event.job_id,
        attempt=event.attempt,
        request=event.request,
        key=plan.key,
        spool=event.spool,
        submitted_at=now,
        deadline_at=now + event.timeout_s,
    )
    state.runs[event.job_id] = run
    position = len(lane.waiting)
    lane.waiting.append(run)
    return [_tell(run, Queued(position=position, eta_s=lane.eta_s(position)))]


def _cancel(state: State, job_id: str) -> list[Effect]:
    run = state.runs.get(job_id)
    if run is None or run.cancelling:
        return []
    if run.started_at is None:
        _forget(state, run)
        return [_tell(run, Cancelled())]
    run.cancelling = True
    return _let_go(state, run)


def _let_go(state: State, run: Run) -> list[Effect]:
    engine = state.lanes[run.key].engine
    return [Send(run.key, engine.generation, pipe.Cancel(run=run.number))] if engine else []


def _forget(state: State, run: Run) -> None:
    """The run's end is told: nothing more is said about it."""
    state.runs.pop(run.job_id, None)
    lane = state.lanes[run.key]
    if run.started_at is None:
        lane.waiting.remove(run)
    if not lane.waiting and lane.engine is None:
        del state.lanes[run.key]


# ── Engines ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _heard(state: State, key: EngineKey, generation: int, message: pipe.Message, now: float) -> list[Effect]:
    lane = state.lanes.get(key)
    engine = lane.engine if lane else None
    if lane is None or engine is None or engine.generation != generation:
        return []  # the last words of a process that was ended
    engine.last_progress_at = now
    match message:
        case pipe.Step():
            return [_tell(run, event) for run, event in _steps(engine, message, now)]
        case pipe.LoadingNow(fraction=fraction):
            return [_tell(run, Loading(fraction=fraction)) for run in lane.waiting if not run.held]
        case pipe.WaitingForTurn():
            return []  # it lives; the one to end is the silent one that it waits for
        case pipe.Ready():
            engine.phase = "ready"
            engine.ready_at = engine.last_used_at = now
            return []
        case pipe.LoadFailed(error=error):
            engine.load_error = error
            return []
        case pipe.Done() | pipe.RunFailed() | pipe.RunCancelled():
            return _run_over(state, lane, engine, message, now)


def _steps(engine: Engine, message: pipe.Step, now: float) -> Iterator[tuple[Run, JobEvent]]:
    for delta in message.runs:
        run = engine.running.get(delta.run)
        if run is not None and not run.ended:
            for event in deltas(run, delta, now):
                yield run, event


def _run_over(
    state: State, lane: Lane, engine: Engine, message: pipe.Done | pipe.RunFailed | pipe.RunCancelled, now: float
) -> list[Effect]:
    run = engine.running.pop(message.run, None)
    if run is None:
        return []
    engine.last_used_at = now
    if run.ended:
        return []
    _forget(state, run)
    match message:
        case pipe.Done(facts=facts):
            taken_s = now - (run.started_at or now)
            lane.mean_run_s = taken_s if lane.mean_run_s is None else 0.7 * lane.mean_run_s + 0.3 * taken_s
            return [_tell(run, completed(run, facts, state.node, lane.plan.spec.model, now))]
        case pipe.RunFailed(error=error):
            return [_tell(run, Failed(error=error))]
        case pipe.RunCancelled():
            return [_tell(run, Cancelled())]


def _exited(state: State, event: Exited) -> list[Effect]:
    lane = state.lanes.get(event.key)
    engine = lane.engine if lane else None
    if lane is None or engine is None or engine.generation != event.generation:
        return []
    lane.engine = None
    lost = [run for run in engine.running.values() if not run.ended]
    error = _crashed(lane.plan.spec.model, event.reason)
    if engine.phase == "starting":
        lost += [run for run in lane.waiting if not run.held]
        error = engine.load_error or error
    for run in lost:
        _forget(state, run)
    if not lane.waiting:
        state.lanes.pop(event.key, None)
    return [_tell(run, Failed(error=error)) for run in lost]


def _idle(lane: Lane, engine: Engine) -> bool:
    return not engine.condemned and not engine.running and not lane.waiting


def _end(key: EngineKey, engine: Engine, reason: str) -> EndEngine:
    engine.condemned = True
    return EndEngine(key, engine.generation, reason)


# ── Time ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tick(state: State, now: float) -> list[Effect]:
    effects: list[Effect] = []
    for run in [run for run in state.runs.values() if now >= run.deadline_at]:
        run_s = round(now - run.submitted_at)
        error = ErrorInfo(
            code=ErrorCode.TIMEOUT,
            message=f"The job was not done after {run_s} s and was cancelled.",
            hint="Ask for less (fewer steps, a smaller size, fewer tokens), or raise job_timeout_s.",
            retryable=True,
        )
        _forget(state, run)
        if run.started_at is not None:
            run.ended = True
            effects += _let_go(state, run)
        effects.append(_tell(run, Failed(error=error)))
    for lane, engine in list(state.engines()):
        effects += _watch(state, lane, engine, now)
    return effects


def _watch(state: State, lane: Lane, engine: Engine, now: float) -> list[Effect]:
    limits = state.limits
    key = lane.plan.key
    silent_s = now - engine.last_progress_at
    if engine.condemned:
        return []
    if engine.phase == "starting" and now - engine.started_at >= limits.load_timeout_s:
        return [_end(key, engine, f"loading took longer than load_timeout_s ({limits.load_timeout_s:g} s)")]
    if (engine.running or engine.phase == "starting") and silent_s >= limits.engine_stall_s:
        return [_end(key, engine, f"no progress for {silent_s:.0f} s (engine_stall_s)")]
    if limits.idle_unload_s and _idle(lane, engine) and now - engine.last_used_at >= limits.idle_unload_s:
        return [_end(key, engine, "idle")]
    return []


# ── Who runs next ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _schedule(state: State, now: float) -> list[Effect]:
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
    return effects


def _make_room(state: State, lane: Lane) -> tuple[bool, list[Effect]]:
    """Whether the lane's engine fits now, and the idle engines to end if that makes it fit soon."""
    missing = lane.plan.reserve_bytes + state.reserved_bytes - state.limits.budget_bytes
    if missing <= 0:
        return True, []
    missing -= sum(engine.reserved_bytes for _, engine in state.engines() if engine.condemned)
    leaving: list[tuple[Lane, Engine]] = []
    for other, engine in sorted(state.engines(), key=lambda pair: pair[1].last_used_at):
        if missing <= 0:
            break
        if engine.phase == "ready" and not engine.condemned and not engine.running and not _owed_first(other, lane):
            leaving.append((other, engine))
            missing -= engine.reserved_bytes
    if missing > 0:
        return False, []
    return False, [_end(other.plan.key, engine, f"room for {lane.plan.spec.model}") for other, engine in leaving]


def _owed_first(other: Lane, lane: Lane) -> bool:
    """Whether `other` has a job that came before the one that `lane` wants room for."""
    mine, theirs = lane.head, other.head
    return mine is not None and theirs is not None and theirs.number < mine.number


def _start_engine(state: State, lane: Lane, now: float) -> StartEngine:
    plan = lane.plan
    lane.engine = Engine(
        generation=state.number(),
        reserved_bytes=plan.reserve_bytes,
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
        lane.waiting.remove(run)
        if not engine.running:
            engine.last_progress_at = now  # it was idle, not silent
        engine.running[run.number] = run
        engine.last_used_at = run.started_at = now
        run.load_s = max(0.0, (engine.ready_at or now) - max(run.submitted_at, engine.started_at))
        start = pipe.Start(run=run.number, request=run.request, spool=run.spool)
        effects.append(_tell(run, Progress(step=0, steps=run.steps, message="started")))
        effects.append(Send(lane.plan.key, engine.generation, start))
    if effects and lane.plan.capacity == 1:
        effects += [
            _tell(run, Queued(position=i, eta_s=lane.eta_s(i))) for i, run in enumerate(lane.waiting) if not run.held
        ]
    return effects


# ── Words ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tell(run: Run, event: JobEvent) -> Tell:
    return Tell(run.job_id, run.attempt, event)


def _busy(lane: Lane) -> ErrorInfo:
    waiting = len(lane.waiting)
    retry_after_s = max(1, round(lane.eta_s(waiting) or 5))
    return ErrorInfo(
        code=ErrorCode.BUSY,
        message=f"{waiting} jobs already wait for {lane.plan.spec.model}; the queue is full.",
        hint=f"Try again in about {retry_after_s} s.",
        retryable=True,
        details={"retry_after_s": retry_after_s, "queue_limit": waiting},
    )


def _draining() -> ErrorInfo:
    return ErrorInfo(
        code=ErrorCode.DRAINING,
        message="This node is ending and takes no new jobs.",
        hint="Start it again with `herd-mcp up`.",
        retryable=True,
        details={"retry_after_s": 5},
    )


def _crashed(model: str, reason: str) -> ErrorInfo:
    return ErrorInfo(
        code=ErrorCode.ENGINE_CRASHED,
        message=f"The engine of {model} ended while it worked: {reason}.",
        hint="`herd-mcp doctor` checks the machine; logs/node.log has the engine's last words.",
        retryable=True,
    )
