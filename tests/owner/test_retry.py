"""Whether a job is tried again, by its record alone."""

from __future__ import annotations

import pytest

from herd_mcp.jobs import MAX_ATTEMPTS, Attempt, ErrorCode, ErrorInfo, Job, JobStatus
from herd_mcp.orders import ELSEWHERE
from herd_mcp.owner.record import taken_up
from herd_mcp.owner.retry import MAX_DEATHS, after_failure, after_restart, deaths, tries

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


@pytest.mark.parametrize(
    ("record", "elsewhere", "again"),
    [
        (job("disk"), True, True),
        (job("disk"), False, False),  # the owner's own disk: nowhere else is better
        (job("disk", "disk", "disk"), True, False),
        (job("disk", "returned", "disk"), True, True),
    ],
)
def test_a_full_disk_of_another_node_is_followed_by_a_try_elsewhere(record: Job, elsewhere: bool, again: bool) -> None:
    error = ErrorInfo(code=ErrorCode.DISK, message="x", details={ELSEWHERE: True} if elsewhere else {})
    assert after_failure(record, error, told_tokens=False) is again


def test_after_a_restart_images_run_again_chats_are_interrupted_and_poison_ends() -> None:
    assert after_restart(job("", status="queued"), "n") is None
    assert after_restart(job("", status="running"), "n") is None
    poison = after_restart(job("node_lost", "", status="running"), "n")
    assert poison is not None
    assert poison.code == ErrorCode.ENGINE_CRASHED
    chat = after_restart(job("", status="queued", kind="chat"), "n")
    assert chat is not None
    assert chat.code == ErrorCode.INTERRUPTED


def test_a_job_that_had_not_begun_is_not_charged_with_the_nodes_death() -> None:
    assert taken_up(job("", status="queued"), "n").attempts == ()
    assert [a.outcome for a in taken_up(job("", status="loading"), "n").attempts] == ["node_lost"]


def test_a_third_attempt_that_the_restart_did_not_touch_goes_on() -> None:
    *before, last = job("node_lost", "disk", "", status="running").attempts
    there = job(status="running").model_copy(
        update={"attempts": (*before, last.model_copy(update={"node_id": "other"}))}
    )
    assert after_restart(there, "n") is None
    assert after_restart(job("node_lost", "disk", "", status="queued"), "n") is None
    assert after_restart(job("node_lost", "disk", "", status="loading"), "n") is not None
    assert after_restart(job("node_lost", "disk", "busy", status="queued"), "n") is not None


@pytest.mark.parametrize("status", ["queued", "loading", "running"])
@pytest.mark.parametrize("before", [(), ("disk",), ("node_lost",), ("disk", "disk"), ("node_lost", "disk")])
@pytest.mark.parametrize("node_id", ["n", "of the herd no more"])
def test_a_job_that_is_taken_up_has_a_try_left_and_no_death_too_many(
    before: tuple[str, ...], status: JobStatus, node_id: str
) -> None:
    *closed, last = job(*before, "", status=status).attempts
    left = job(status=status).model_copy(update={"attempts": (*closed, last.model_copy(update={"node_id": node_id}))})
    if after_restart(left, "n") is None:
        taken = taken_up(left, "n")
        assert tries(taken) < MAX_ATTEMPTS
        assert deaths(taken) < MAX_DEATHS
        assert all(attempt.outcome for attempt in taken.attempts)
