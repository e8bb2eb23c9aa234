"""Whether a job is tried again. Pure: so a poison job ends after its second death, wherever and whenever that is."""

from __future__ import annotations

from herd_mcp.jobs import MAX_ATTEMPTS, ErrorCode, ErrorInfo, Job

DEATHS = frozenset({ErrorCode.ENGINE_CRASHED, ErrorCode.NODE_LOST})
MAX_DEATHS = 2


def deaths(job: Job) -> int:
    """Attempts during which an engine or a node died."""
    return sum(attempt.outcome in DEATHS for attempt in job.attempts)


def after_failure(job: Job, error: ErrorInfo, *, told_tokens: bool) -> bool:
    """Whether a failed attempt, already closed in `job.attempts`, is followed by another.

    Only a death is: another failure would come again. A chat whose tokens were shown cannot be taken back.
    """
    if error.code not in DEATHS or deaths(job) >= MAX_DEATHS or len(job.attempts) >= MAX_ATTEMPTS:
        return False
    return not (job.stream and told_tokens)


def alone_after(error: ErrorInfo) -> bool:
    """Whether the next attempt shares its engine with nobody: the engine that died had the job in hand, so it may be
    the one that killed it, and only the guilty one shall die twice."""
    return error.details.get("admitted") is True


def after_restart(job: Job) -> ErrorInfo | None:
    """What becomes of a job that a killed node left: None to run it again, else its error.

    A job that had not begun is innocent of the node's death; one that had is counted.
    """
    begun = job.status != "queued"
    if job.kind == "chat":
        return ErrorInfo(
            code=ErrorCode.INTERRUPTED,
            message="The node ended before the chat was answered.",
            hint="Ask again.",
            retryable=True,
        )
    if (begun and deaths(job) + 1 >= MAX_DEATHS) or len(job.attempts) >= MAX_ATTEMPTS:
        return ErrorInfo(
            code=ErrorCode.ENGINE_CRASHED,
            message="The node ended twice while it worked on this image; it is not tried again.",
            hint="Try another model or a smaller size; `herd-mcp doctor` checks the machine.",
        )
    return None
