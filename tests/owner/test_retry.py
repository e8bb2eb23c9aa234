"""Whether a job is tried again, by its record alone."""

from __future__ import annotations

import pytest

from herd_mcp.jobs import Attempt, ErrorCode, ErrorInfo, Job, JobStatus
from herd_mcp.owner.record import taken_up
from herd_mcp.owner.retry import after_failure, after_restart

CRASH = ErrorInfo(code=ErrorCode.ENGINE_CRASHED, message="x")


def job(*outcomes: str, status: JobStatus = "running", kind: str = "image", stream: bool = False) -> Job:
    attempts = tuple(
        Attempt(number=i, node="n", started_at=1, ended_at=2 if outcome else None, outcome=outcome)
        for i, outcome in enumerate(outcomes, start=1)
    )
    return Job.model_validate(
        {
            "id": "j",
            "kind": kind,
            "client": "t",
            "created_at": 1,
            "attempts": attempts,
            "status": status,
            "stream": stream,
        }
    )


@pytest.mark.parametrize(
    ("record", "told_tokens", "again"),
    [
        (job("engine_crashed"), False, True),
        (job("engine_crashed", "engine_crashed"), False, False),
        (job("node_lost", "engine_crashed"), False, False),
        (job("engine_crashed", kind="chat", stream=True), True, False),
        (job("engine_crashed", kind="chat", stream=True), False, True),
        (job("engine_crashed", kind="chat"), True, True),
        (job("busy", "busy", "engine_crashed"), False, False),
    ],
)
def test_a_death_is_followed_by_one_more_try_unless_tokens_were_shown(
    record: Job, told_tokens: bool, again: bool
) -> None:
    assert after_failure(record, CRASH, told_tokens=told_tokens) is again


def test_what_is_not_a_death_would_come_again_and_is_not_retried() -> None:
    error = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="x")
    assert not after_failure(job("invalid_request"), error, told_tokens=False)


def test_after_a_restart_images_run_again_chats_are_interrupted_and_poison_ends() -> None:
    assert after_restart(job("", status="queued")) is None
    assert after_restart(job("", status="running")) is None
    poison = after_restart(job("node_lost", "", status="running"))
    assert poison is not None
    assert poison.code == ErrorCode.ENGINE_CRASHED
    chat = after_restart(job("", status="queued", kind="chat"))
    assert chat is not None
    assert chat.code == ErrorCode.INTERRUPTED


def test_a_job_that_had_not_begun_is_not_charged_with_the_nodes_death() -> None:
    assert taken_up(job("", status="queued")).attempts == ()
    assert [a.outcome for a in taken_up(job("", status="loading")).attempts] == ["node_lost"]
