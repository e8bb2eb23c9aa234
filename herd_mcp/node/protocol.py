"""What an engine may say, and when. An engine that says anything else is broken: it is ended, and nothing that it says
counts any more. So is one that talks without getting anywhere, or that answers without end: what a node keeps of an
engine's words is bounded by what was asked of it."""

from __future__ import annotations

from herd_mcp import pipe
from herd_mcp.jobs import MAX_STEPS, ChatRequest, ErrorCode, Kind
from herd_mcp.node.lanes import Engine, Run

MAX_VAIN_MESSAGES = 1000
"""Messages in a row that tell of no progress. A sound engine sends none but by chance."""
MAX_ANSWER_CHARS = 16 * 1024 * 1024
"""The longest answer kept for one run, a million tokens of any language."""
SPARE_DELTAS = 16
"""Deltas of a run that are neither a token nor a step: its beginning, its decoding."""
NOT_ITS_TO_SAY = frozenset({ErrorCode.INTERRUPTED, ErrorCode.NODE_LOST})
"""The node's own end: a job that failed with one of these would wait for the next start."""


def check(engine: Engine, kind: Kind, message: pipe.Message, now: float) -> str | None:
    """Note what a message says of the engine's progress. Returns what is wrong with it, as part of a sentence."""
    if isinstance(message, pipe.WaitingForTurn):
        engine.last_progress_at = now  # it lives; the one to end is the silent one that it waits for
        return _vain(engine)
    if wrong := _wrong(engine, kind, message):
        return wrong
    if _advances(engine, message):
        engine.last_progress_at = now
        engine.vain_messages = 0
        return None
    return _vain(engine)


def _vain(engine: Engine) -> str | None:
    engine.vain_messages += 1
    return "it talked on and on without progress" if engine.vain_messages > MAX_VAIN_MESSAGES else None


def _wrong(engine: Engine, kind: Kind, message: pipe.Message) -> str | None:
    loading = isinstance(message, pipe.LoadingNow | pipe.Ready | pipe.LoadFailed)
    if loading != (engine.phase == "starting") or engine.load_error is not None:
        return "it spoke of loading when it had loaded" if loading else "it spoke of work before it was ready"
    match message:
        case pipe.Step(runs=deltas):
            return next((wrong for delta in deltas if (wrong := _wrong_delta(engine, delta))), None)
        case pipe.Done() | pipe.RunFailed() | pipe.RunCancelled() if message.run not in engine.running:
            return "it ended a run that it did not have"
        case pipe.Done(facts=facts) if facts.kind != kind:
            return f"it ended a run of kind {kind} as one of kind {facts.kind}"
        case pipe.RunFailed(error=error) | pipe.LoadFailed(error=error) if error.code in NOT_ITS_TO_SAY:
            return f"it said {error.code}, which is not for it to say"
    return None


def _wrong_delta(engine: Engine, delta: pipe.RunDelta) -> str | None:
    run = engine.running.get(delta.run)
    if run is None:
        return "it answered a run that it did not have"
    run.deltas += 1
    run.chars += len(delta.text) + len(delta.reasoning) + len(delta.message)
    run.chars += sum(len(call.id) + len(call.name) + len(call.arguments) for call in delta.tool_calls)
    if run.deltas > most_deltas(run) or run.chars > MAX_ANSWER_CHARS:
        return "it answered more than it was asked"
    return None


def most_deltas(run: Run) -> int:
    """How many deltas a run may bring: one per token, or one per step."""
    if isinstance(run.request, ChatRequest):
        return run.answer_tokens + SPARE_DELTAS
    return (run.request.steps or MAX_STEPS) + SPARE_DELTAS


def _advances(engine: Engine, message: pipe.Message) -> bool:
    """Whether the message tells of something done. A heart beat is none."""
    match message:
        case pipe.LoadingNow(fraction=fraction):
            if fraction < engine.loaded + pipe.LOADING_STEP:
                return False
            engine.loaded = fraction
        case pipe.Step(work=work):
            if not engine.running or work <= engine.work:
                return False
            engine.work = work
    return True


def overdue(run: Run, now: float, limit_s: float) -> bool:
    """Whether an engine was told to let go of the run and has not done so in time."""
    return run.let_go_at is not None and now - run.let_go_at >= limit_s
