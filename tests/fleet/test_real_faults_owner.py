"""The node that owns jobs is killed, ended or stopped while others run them: real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from herd_mcp.jobs import ErrorCode
from tests.fleet.macs import CHAT, IMAGE, Mac, macs
from tests.fleet.outcomes import (
    LEASE_S,
    LEASED,
    elsewhere,
    frames,
    idle,
    ran,
    revived,
    runs_on,
    stand_still,
    truth,
)

LONG = IMAGE | {"steps": 80}
LONG_CHAT = CHAT | {"max_tokens": 2000}
PATIENT_S = 90.0
"""A lease in which a node starts again, also on a busy machine."""


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Mac]]:
    variables = {"HERD_LEASE_S": f"{PATIENT_S:g}"}
    with macs(tmp_path_factory.mktemp("herd"), {}, {}, variables=variables) as herd:
        herd[0].post("/herd/api/pause", {})  # outlives the node
        yield herd


def test_an_owner_that_comes_back_within_the_lease_has_its_image_which_was_drawn_once(patient: list[Mac]) -> None:
    owner, runner = patient
    image, chat = owner.submit(LONG), owner.submit(LONG_CHAT)
    owner.is_(image, "running")
    owner.kill()
    assert runner.busy() == 2
    revived(owner, runner)
    job = truth(owner, chat)
    assert job.error is not None
    assert (job.status, job.error.code) == ("failed", ErrorCode.INTERRUPTED)
    job = truth(owner, image, work_s=30)
    assert (ran(job), job.status) == ([(runner.name, "completed")], "completed")
    assert list(owner.pictures()) == [job.result.image_id]  # type: ignore[union-attr]
    assert owner.left_over() == []


@pytest.mark.slow
def test_an_owner_that_ends_in_good_order_has_its_image_after_its_next_start(patient: list[Mac]) -> None:
    owner, runner = patient
    image = owner.submit(LONG)
    chat = owner.ask("POST", "/herd/api/jobs", LONG_CHAT)
    chat_id = str(chat.headers["X-Herd-Job"])
    owner.is_(image, "running")
    assert owner.run("stop", "--now").returncode == 0
    *_, last = frames(chat)
    assert (last["type"], last["error"]["code"]) == ("failed", "interrupted")
    revived(owner, runner)
    assert truth(owner, chat_id).status == "failed"
    assert ran(truth(owner, image, work_s=30)) == [(runner.name, "completed")]
    assert owner.left_over() == []


@pytest.mark.slow
def test_who_watches_on_another_mac_sees_the_end_of_a_job_whose_owner_died_and_came_back(patient: list[Mac]) -> None:
    owner, runner = patient
    image = owner.submit(LONG)
    shown = frames(runner.ask("GET", f"/herd/api/jobs/{image}/events"))
    owner.is_(image, "running")
    assert next(event for event in shown if event["type"] == "progress")
    owner.kill()
    revived(owner, runner)
    *_, last = shown
    assert last["type"] == truth(owner, image, work_s=30).status == "completed"


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Mac]]:
    with macs(tmp_path_factory.mktemp("herd"), {}, {}, variables=LEASED) as herd:
        yield herd


@pytest.mark.slow
def test_an_owner_that_comes_back_after_the_lease_has_its_image_drawn_again(short: list[Mac]) -> None:
    owner, runner = short
    with elsewhere(owner):
        runs_on(owner, runner)
        begun = owner.submit(IMAGE | {"steps": 150})
        owner.is_(begun, "running")
        owner.kill()
        idle(runner)
        revived(owner, runner)
        job = truth(owner, begun, work_s=60)
        assert job.status == "completed", job
        assert ran(job) == [(runner.name, "returned"), (runner.name, "completed")]


@pytest.mark.slow
def test_what_runs_for_an_owner_that_stands_still_longer_than_the_lease_ends_and_is_done_when_it_goes_on(
    short: list[Mac],
) -> None:
    owner, runner = short
    with elsewhere(owner):
        runs_on(owner, runner)
        image, chat = owner.submit(IMAGE | {"steps": 200}), owner.submit(LONG_CHAT | {"max_tokens": 4000})
        owner.is_(image, "running")
        with owner.stop_and_cont():  # its system still takes what is sent to it, so nothing looks lost
            idle(runner)
        job = truth(owner, image, work_s=60)
        assert job.status == "completed"
        assert ran(job) == [(runner.name, "returned"), (runner.name, "completed")]
        told = truth(owner, chat)  # its words were shown
        assert told.error is not None
        assert (told.error.code, ran(told)) == (ErrorCode.NODE_LOST, [(runner.name, "returned")])


@pytest.mark.slow
def test_what_runs_for_an_owner_that_stands_still_for_a_moment_goes_on(short: list[Mac]) -> None:
    owner, runner = short
    with elsewhere(owner):
        runs_on(owner, runner)
        image = owner.submit(IMAGE | {"steps": 80})
        owner.is_(image, "running")
        with owner.stop_and_cont():
            stand_still(LEASE_S / 4)
        assert ran(truth(owner, image, work_s=30)) == [(runner.name, "completed")]
