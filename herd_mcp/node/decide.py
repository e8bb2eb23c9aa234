"""Every decision of a node: `decide(state, event, now)` changes the state and says what to do. No I/O, no clock.

Each time something happened, first the event itself: take or refuse a job, note what an engine said, end what is over
its time. Then who runs next (`schedule.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from herd_mcp import pipe
from herd_mcp.jobs import Cancelled, ChatRequest, ErrorCode, ErrorInfo, Failed, JobEvent, Loading, prompt_bytes
from herd_mcp.node.admission import counted_size, never, too_short
from herd_mcp.node.caps import put_off, queued, too_large
from herd_mcp.node.events import (
    Cancel,
    Close,
    Drain,
    Effect,
    Event,
    Exited,
    Heard,
    Measured,
    Refuse,
    Release,
    Send,
    Slept,
    Submit,
    TakeBack,
    Tick,
    Unload,
    Warm,
)
from herd_mcp.node.lanes import Engine, EngineKey, Lane, Plan, Run, RunId, State
from herd_mcp.node.outcome import completed, deltas
from herd_mcp.node.protocol import check, overdue
from herd_mcp.node.relief import became_ready, measured, why_gone
from herd_mcp.node.room import end
from herd_mcp.node.schedule import drop, forget, idle, schedule, tell
from herd_mcp.node.words import busy, crashed, draining, interrupted
from herd_mcp.orders import Returned


def decide(state: State, event: Event, now: float) -> list[Effect]:
    """Apply `event` at `now` (seconds, monotonic) and return what has to be done, in order."""
    effects: list[Effect] = []
    match event:
        case Submit():
            effects += _submit(state, event, now)
        case Release(job_id, attempt):
            if run := state.runs.get((job_id, attempt)):
                run.held = False
        case Cancel(job_id, attempt):
            effects += _cancel(state, (job_id, attempt), now)
        case TakeBack(job_id, attempt):
            effects += _take_back(state, (job_id, attempt))
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
        case Slept(seconds):
            _forgive(state, seconds, now)
        case Measured():
            effects += measured(state, event, now)
        case Warm(plan):
            effects += _warm(state, plan)
        case Unload(key):
            _unload(state, key)
    # A plain step starts and ends nothing: the hot path skips the look at all lanes.
    plain = isinstance(event, Heard) and isinstance(event.message, pipe.Step | pipe.LoadingNow | pipe.WaitingForTurn)
    if not plain and not state.closed:
        effects += schedule(state, now)
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
            times += [
                run.let_go_at + limits.engine_stall_s for run in engine.running.values() if run.let_go_at is not None
            ]
        elif (idle_s := lane.idle_unload_s(limits)) and not lane.has_work:
            times.append(engine.last_used_at + idle_s)
    if state.claim_at is not None:
        times.append(state.claim_at)
    return min(times, default=None)


# ── Jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _submit(state: State, event: Submit, now: float) -> list[Effect]:
    plan = event.plan
    lane = state.lanes.get(plan.key)
    if state.closed or (state.draining and not event.forced):
        return [Refuse(event.job_id, interrupted() if event.forced else draining())]
    refusal = never(state, plan, event.size)
    if not event.forced and refusal is None:
        full = lane is not None and len(lane.waiting) >= state.limits.queue_limit
        refusal = busy(lane) if lane is not None and full else too_short(state, plan)
        refusal = refusal or too_large(state, event.request, event.size, plan)
    if refusal is not None:
        return [Refuse(event.job_id, refusal)]
    lane = _lane(state, plan)
    run = Run(
        number=state.number(),
        job_id=event.job_id,
        attempt=event.attempt,
        request=event.request,
        key=plan.key,
        spool=event.spool,
        size=event.size,
        submitted_at=now,
        deadline_at=now + event.timeout_s,
        alone=event.alone,
        prompt_bytes=prompt_bytes(event.request) if isinstance(event.request, ChatRequest) else 0,
    )
    state.runs[run.id] = run
    put_off(state, run, plan)  # one that was accepted before waits for memory
    position = len(lane.waiting)
    lane.waiting.append(run)
    return [tell(run, queued(state, run, position, lane.eta_s(position)))]


def _take_back(state: State, run_id: RunId) -> list[Effect]:
    run = state.runs.get(run_id)
    if run is None or run.started_at is not None:
        return []
    forget(state, run)
    return [tell(run, Returned(reason="its owner took it back"))]


def _cancel(state: State, run_id: RunId, now: float) -> list[Effect]:
    run = state.runs.get(run_id)
    if run is None or run.cancelling:
        return []
    if run.started_at is None:
        forget(state, run)
        return [tell(run, Cancelled())]
    run.cancelling = True
    return _let_go(state, run, now)


def _let_go(state: State, run: Run, now: float) -> list[Effect]:
    run.let_go_at = now if run.let_go_at is None else run.let_go_at
    engine = state.lanes[run.key].engine
    return [Send(run.key, engine.generation, pipe.Cancel(run=run.number))] if engine else []


def _lane(state: State, plan: Plan) -> Lane:
    """The lane of the plan, which knows the newest of it."""
    lane = state.lanes.setdefault(plan.key, Lane(plan))
    if lane.engine is None:
        lane.plan = plan  # the files may have changed since the last engine
    else:
        lane.plan = replace(lane.plan, needs=plan.needs, pinned=plan.pinned, idle_unload_s=plan.idle_unload_s)
    return lane


# ── Engines ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _heard(state: State, key: EngineKey, generation: int, message: pipe.Message, now: float) -> list[Effect]:
    lane = state.lanes.get(key)
    engine = lane.engine if lane else None
    if lane is None or engine is None or engine.generation != generation:
        return []  # the last words of a process that was ended
    if engine.broken:
        return []
    if wrong := check(engine, lane.plan.spec.kind, message, now):
        engine.broken = True
        return [] if engine.condemned else [end(key, engine, wrong)]
    match message:
        case pipe.Step():
            return [tell(run, event) for run, event in _steps(engine, message, now)]
        case pipe.LoadingNow(fraction=fraction):
            if engine.vain_messages:
                return []
            return [tell(run, Loading(fraction=fraction)) for run in lane.waiting if not run.held]
        case pipe.WaitingForTurn():
            return []
        case pipe.Ready():
            if not engine.condemned:  # else it came too late, and those who wait for it are charged with its end
                engine.phase = "ready"
                engine.ready_at = engine.last_used_at = now
                state.load_s[key] = now - engine.started_at
                return became_ready(state, lane, engine)
            return []
        case pipe.LoadFailed(error=error):
            engine.load_error = error
            return [] if engine.condemned else [end(key, engine, error.message)]
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
    engine.count_streams(now)
    run = engine.running.pop(message.run, None)
    if run is None:
        return []
    engine.last_used_at = now
    if run.ended:
        return []
    context = lane.plan.spec.context_tokens
    if (
        isinstance(message, pipe.RunFailed)
        and not run.cancelling
        and (size := counted_size(run, message.error, context))
    ):
        run.size, run.counted = size, True
        put_off(state, run, lane.plan)
        lane.put_back(run)
        return []
    forget(state, run)
    match message:
        case pipe.Done(facts=facts):
            taken_s = now - (now if run.started_at is None else run.started_at)
            lane.mean_run_s = taken_s if lane.mean_run_s is None else 0.7 * lane.mean_run_s + 0.3 * taken_s
            return [tell(run, completed(run, facts, state.node, lane.plan.spec.model, now))]
        case pipe.RunFailed(error=error):
            told: list[Effect] = [tell(run, Failed(error=error))]
            if error.code == ErrorCode.ENGINE_CRASHED and not engine.condemned:
                # It is about to die: whoever were started in it now would die with it.
                told.append(end(lane.plan.key, engine, error.message))
            return told
        case pipe.RunCancelled():
            return [tell(run, Cancelled())]


def _exited(state: State, event: Exited) -> list[Effect]:
    lane = state.lanes.get(event.key)
    engine = lane.engine if lane else None
    if lane is None or engine is None or engine.generation != event.generation:
        return []
    lost = [run for run in engine.running.values() if not run.ended]
    error = crashed(lane.plan.spec.model, event.reason)
    if engine.phase == "starting":
        # Whose jobs came after it was unloaded is loaded again.
        lost = [] if engine.unloading and engine.condemned else [run for run in lane.waiting if not run.held]
        error = engine.load_error or error
    else:
        error = error.model_copy(update={"details": {"admitted": True, **why_gone(engine)}})
    for run in lost:
        forget(state, run)
    lane.engine = None
    drop(state, lane)
    return [tell(run, Failed(error=error)) for run in lost]


def _warm(state: State, plan: Plan) -> list[Effect]:
    """Refused with an empty job id: no job asks for it."""
    if refusal := draining() if state.draining else never(state, plan):
        return [Refuse("", refusal)]
    lane = _lane(state, plan)
    if lane.engine is not None and not lane.engine.condemned:
        lane.engine.unloading = False
    else:
        lane.wanted = True
    return []


def _unload(state: State, key: EngineKey) -> None:
    if lane := state.lanes.get(key):
        lane.wanted = False
        if lane.engine is not None:
            lane.engine.unloading = True
        drop(state, lane)


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
        forget(state, run)
        if run.started_at is not None:
            run.ended = True
            effects += _let_go(state, run, now)
        effects.append(tell(run, Failed(error=error)))
    for lane, engine in list(state.engines()):
        effects += _watch(state, lane, engine, now)
    return effects


def _forgive(state: State, seconds: float, now: float) -> None:
    """Time in which nothing ran is nobody's silence and nobody's delay. Idle engines may end all the sooner."""
    for run in state.runs.values():
        run.deadline_at += seconds
    for _, engine in state.engines():
        engine.last_progress_at = now  # whole again: the clock does not tell when within its time the sleep began
        engine.started_at = min(now, engine.started_at + seconds)


def _watch(state: State, lane: Lane, engine: Engine, now: float) -> list[Effect]:
    limits = state.limits
    key = lane.plan.key
    silent_s = now - engine.last_progress_at
    if engine.condemned:
        return []
    if engine.phase == "starting" and now - engine.started_at >= limits.load_timeout_s:
        return [end(key, engine, f"loading took longer than load_timeout_s ({limits.load_timeout_s:g} s)")]
    if (engine.running or engine.phase == "starting") and silent_s >= limits.engine_stall_s:
        return [end(key, engine, f"no progress for {silent_s:.0f} s (engine_stall_s)")]
    if any(overdue(run, now, limits.engine_stall_s) for run in engine.running.values()):
        return [
            end(key, engine, f"it did not let go of a cancelled run in {limits.engine_stall_s:g} s (engine_stall_s)")
        ]
    idle_s = lane.idle_unload_s(limits)
    if idle_s and idle(lane, engine) and now - engine.last_used_at >= idle_s:
        return [end(key, engine, "idle")]
    return []
