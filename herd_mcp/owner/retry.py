"""Whether a job is tried again. Pure: so a poison job ends after its second death, wherever and whenever that is."""

from __future__ import annotations

from herd_mcp.jobs import MAX_ATTEMPTS, ErrorCode, ErrorInfo, Job
from herd_mcp.orders import ELSEWHERE, Returned
from herd_mcp.owner.record import ran_elsewhere

DEATHS = frozenset({ErrorCode.ENGINE_CRASHED, ErrorCode.NODE_LOST})
OF_THE_NODE = DEATHS | {ErrorCode.INTERNAL, ErrorCode.DISK}
"""Failures that another job may meet on the same node too."""
NO_PLACE_NOW = frozenset(
    {
        ErrorCode.NO_NODE, ErrorCode.NODE_LOST, ErrorCode.BUSY, ErrorCode.INSUFFICIENT_MEMORY,
        # Where this node says it because the one that has the model is not there yet.
        ErrorCode.MODEL_NOT_FOUND, ErrorCode.MODEL_INCOMPLETE, ErrorCode.KIND_NOT_SUPPORTED,
    }
)  # fmt: skip
"""Why no node of a herd takes a job, until another one comes back."""
MAX_DEATHS = 2
MAX_RETURNS = 16
"""How often one job is placed again without having run: queues that chase one another come to rest."""


def deaths(job: Job) -> int:
    """Attempts during which an engine or a node died."""
    return sum(attempt.outcome in DEATHS for attempt in job.attempts)


def tries(job: Job) -> int:
    """Attempts that count: what a node gave back was none."""
    return sum(attempt.outcome != "returned" for attempt in job.attempts)


def died_on(job: Job) -> frozenset[str]:
    """The nodes on which an attempt died, or found no room on the disk."""
    return frozenset(attempt.node_id for attempt in job.attempts if attempt.outcome in DEATHS | {ErrorCode.DISK})


def after_return(job: Job, returned: Returned, returns: int, *, told_tokens: bool) -> ErrorInfo | None:
    """What becomes of a job that a node gave back: None to place it again, else its error."""
    if job.stream and told_tokens:
        return ErrorInfo(
            code=ErrorCode.NODE_LOST,
            message=f"The node ended in the middle of the answer: {returned.reason}",
            hint="Ask again.",
            retryable=True,
        )
    if returns >= MAX_RETURNS:
        return ErrorInfo(
            code=ErrorCode.NO_NODE,
            message=f"{returns} nodes gave the job back, the last one because {returned.reason}.",
            hint="`herd-mcp status` shows the nodes; try again in a while.",
            retryable=True,
        )
    return None


def after_failure(job: Job, error: ErrorInfo, *, told_tokens: bool) -> bool:
    """Whether a failed attempt, already closed in `job.attempts`, is followed by another.

    Only a death is, and a full disk of another node: another failure would come again. A chat whose tokens were shown
    cannot be taken back.
    """
    again = error.code in DEATHS or (error.code == ErrorCode.DISK and error.details.get(ELSEWHERE) is True)
    if not again or deaths(job) >= MAX_DEATHS or tries(job) >= MAX_ATTEMPTS:
        return False
    return not (job.stream and told_tokens)


def alone_after(error: ErrorInfo) -> bool:
    """Whether the next attempt shares its engine with nobody: the engine that died had the job in hand, so it may be
    the one that killed it, and only the guilty one shall die twice."""
    return error.details.get("admitted") is True


def after_restart(job: Job, node_id: str) -> ErrorInfo | None:
    """What becomes of a job that a killed node (`node_id`) left: None to run it again, else its error.

    A job that had not begun, or that ran on another node, is innocent of the node's death; one that had is counted.
    """
    begun = job.status != "queued" and not ran_elsewhere(job, node_id)
    under_way = bool(job.attempts) and not job.attempts[-1].outcome and not begun  # it goes on, or was none
    if job.kind == "chat":
        return ErrorInfo(
            code=ErrorCode.INTERRUPTED,
            message="The node ended before the chat was answered.",
            hint="Ask again.",
            retryable=True,
        )
    if (begun and deaths(job) + 1 >= MAX_DEATHS) or tries(job) - under_way >= MAX_ATTEMPTS:
        return ErrorInfo(
            code=ErrorCode.ENGINE_CRASHED,
            message="The node ended twice while it worked on this image; it is not tried again.",
            hint="Try another model or a smaller size; `herd-mcp doctor` checks the machine.",
        )
    return None
