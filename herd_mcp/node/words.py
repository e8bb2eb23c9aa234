"""What jobs are told that a node does not take or that it lost."""

from __future__ import annotations

from herd_mcp.jobs import ErrorCode, ErrorInfo
from herd_mcp.node.lanes import Lane


def busy(lane: Lane) -> ErrorInfo:
    waiting = len(lane.waiting)
    retry_after_s = max(1, round(lane.eta_s(waiting) or 5))
    return ErrorInfo(
        code=ErrorCode.BUSY,
        message=f"{waiting} jobs already wait for {lane.plan.spec.model}; the queue is full.",
        hint=f"Try again in about {retry_after_s} s.",
        retryable=True,
        details={"retry_after_s": retry_after_s, "queue_limit": waiting},
    )


def draining() -> ErrorInfo:
    return ErrorInfo(
        code=ErrorCode.DRAINING,
        message="This node is ending and takes no new jobs.",
        hint="Start it again with `herd-mcp up`.",
        retryable=True,
        details={"retry_after_s": 5},
    )


def interrupted() -> ErrorInfo:
    """What a job is told that the node's end cut short."""
    return ErrorInfo(
        code=ErrorCode.INTERRUPTED,
        message="The node ended before the job was done.",
        hint="Ask again when it is back (`herd-mcp up`).",
        retryable=True,
    )


def crashed(model: str, reason: str) -> ErrorInfo:
    return ErrorInfo(
        code=ErrorCode.ENGINE_CRASHED,
        message=f"The engine of {model} ended while it worked: {reason}.",
        hint="`herd-mcp doctor` checks the machine; logs/node.log has the engine's last words.",
        retryable=True,
    )
