"""How a job's record changes: an attempt ends, the job ends, a killed node's job is taken up. Pure functions."""

from __future__ import annotations

import time

from herd_mcp.jobs import (
    Cancelled,
    ChatRequest,
    Completed,
    ErrorCode,
    ErrorInfo,
    Failed,
    HerdError,
    ImageRequest,
    Job,
    JobEvent,
)
from herd_mcp.orders import Ending

Outcome = Completed | Failed | Cancelled


def attempt_over(job: Job, outcome: Ending) -> Job:
    """The job with its last attempt closed; one that is closed stays."""
    last = job.attempts[-1]
    if last.ended_at is not None:
        return job
    word = outcome.error.code if isinstance(outcome, Failed) else outcome.type
    ended = last.model_copy(update={"ended_at": time.time(), "outcome": str(word)})
    return job.model_copy(update={"attempts": (*job.attempts[:-1], ended)})


def job_over(job: Job, outcome: Outcome, *, ttft_s: float | None = None, total_s: float | None = None) -> Job:
    """The job at its end, seconds from its acceptance: a chat without its prompt, an image without the picture it
    started from."""
    job = attempt_over(job, outcome) if job.attempts else job
    measured = {"ttft_s": ttft_s, "total_s": None if total_s is None else round(total_s, 4)}
    timings = (outcome.result if isinstance(outcome, Completed) else job).timings.model_copy(update=measured)
    update: dict[str, object] = {
        "status": outcome.type,
        "finished_at": time.time(),
        "progress": None,
        "request": None if isinstance(job.request, ChatRequest) else without_picture(job).request,
        "timings": timings,
    }
    if isinstance(outcome, Completed):
        update["result"] = outcome.result.model_copy(update={"timings": timings})
    if isinstance(outcome, Failed):
        update["error"] = outcome.error
    return job.model_copy(update=update)


def ran_elsewhere(job: Job, node_id: str) -> bool:
    """Whether the last attempt was on another node than this."""
    return bool(job.attempts) and job.attempts[-1].node_id not in ("", node_id)


def taken_up(job: Job, node_id: str) -> Job:
    """A job that this node (`node_id`) left, as it is queued again: an attempt that had begun ended with the node, one
    that had not and one that was cut short in good order were none. So was one on a node that is asked no more."""
    *before, last = job.attempts or (None,)
    attempts = job.attempts
    if last is not None and job.status == "queued" and last.outcome in ("", ErrorCode.INTERRUPTED):
        attempts = tuple(before)
    elif last is not None and not last.outcome:
        word = "returned" if ran_elsewhere(job, node_id) else ErrorCode.NODE_LOST.value
        attempts = (*before, last.model_copy(update={"ended_at": time.time(), "outcome": word}))
    return job.model_copy(update={"status": "queued", "progress": None, "attempts": attempts})


def outcome_of(job: Job) -> JobEvent:
    """The terminal event of a job out of the history."""
    event: JobEvent
    if job.status == "completed" and job.result is not None:
        event = Completed(result=job.result)
    elif job.status == "cancelled":
        event = Cancelled()
    else:
        event = Failed(error=job.error or _forgotten())
    return event.model_copy(update={"job_id": job.id, "seq": 1})


def internal(error: Exception) -> ErrorInfo:
    """What is told of a mistake of our own."""
    if isinstance(error, HerdError):
        return error.info
    return ErrorInfo(
        code=ErrorCode.INTERNAL,
        message="herd-mcp made a mistake with this job.",
        hint="logs/node.log says more; please report it.",
        retryable=True,
    )


def without_picture(job: Job) -> Job:
    """The job as it is shown and kept: the picture that an image started from is large, and nobody's to see again."""
    if isinstance(job.request, ImageRequest) and job.request.image is not None:
        return job.model_copy(update={"request": job.request.model_copy(update={"image": None})})
    return job


def _forgotten() -> ErrorInfo:
    return ErrorInfo(
        code=ErrorCode.JOB_NOT_FOUND,
        message="The job is over and its answer is not kept any more.",
        hint="Ask again; chat_keep_s says how long answers are kept.",
    )
