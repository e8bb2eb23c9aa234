"""Jobs that kill engines, that are cancelled and left, and Macs that are paused or share a name: real processes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from herd_mcp.jobs import ErrorCode
from tests.cli.program import until
from tests.fleet.macs import CHAT, IMAGE, Mac, at_once, macs
from tests.fleet.outcomes import LEASED, elsewhere, idle, ran, runs_on, truth

LONG = IMAGE | {"steps": 100}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Mac]]:
    with macs(tmp_path_factory.mktemp("herd"), {}, {}, {}, variables=LEASED) as herd:
        yield herd


@pytest.fixture
def herd(three: list[Mac]) -> Iterator[list[Mac]]:
    yield three
    for mac in three:
        mac.leave()
        mac.post("/herd/api/resume", {})
    idle(*three)


def test_an_image_that_kills_engines_kills_two_and_its_neighbours_are_drawn(herd: list[Mac]) -> None:
    asker = herd[0]
    before = [asker.submit(IMAGE) for _ in herd]
    poison = asker.submit(IMAGE | {"prompt": "DIE 1"})
    after = [asker.submit(IMAGE) for _ in herd]
    job = truth(asker, poison, work_s=20)
    assert job.error is not None
    assert (job.status, job.error.code) == ("failed", ErrorCode.ENGINE_CRASHED)
    first, second = [one for one in ran(job) if one[1] != "returned"]
    assert (first[1], second[1]) == ("engine_crashed", "engine_crashed")
    assert first[0] != second[0]
    for job_id in before + after:
        job = truth(asker, job_id, work_s=20)
        assert [how for _, how in ran(job) if how != "returned"] == ["completed"]
    assert sum(mac.stderr.count("is gone: ") for mac in herd) == 2
    assert all(mac.node_process().poll() is None for mac in herd)


@pytest.mark.slow
def test_a_chat_that_kills_engines_kills_two_and_those_who_shared_one_are_answered(herd: list[Mac]) -> None:
    asker = herd[0]

    def say(words: str) -> tuple[str, Any]:
        body = {"model": CHAT["model"], "messages": [{"role": "user", "content": words}], "max_tokens": 200}
        response = asker.ask("POST", "/v1/chat/completions", body)
        return words, (response.status, response.read())

    answers = at_once(*(partial(say, words) for words in ("a", "b", "DIE 60", "c", "d", "e")))
    for words, (status, body) in answers:
        assert (status, words) == ((502 if words == "DIE 60" else 200), words), body
    for listed in asker.data("jobs")[: len(answers)]:
        job = truth(asker, listed["id"])
        deaths = [how for _, how in ran(job)].count("engine_crashed")
        assert deaths == 2 if job.status == "failed" else deaths <= 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cancelled", "left"])
def test_a_job_whose_asker_does_not_want_it_any_more_leaves_the_engine_of_its_runner(herd: list[Mac], how: str) -> None:
    asker, runner, third = herd
    third.post("/herd/api/pause", {})
    with elsewhere(asker):
        runs_on(asker, runner)
        jobs = [asker.submit(LONG), asker.submit(CHAT | {"max_tokens": 2000}), asker.submit(IMAGE)]
        asker.is_(jobs[0], "running")
        until(lambda: runner.busy() == 3)
        if how == "left":
            asker.leave()
        else:
            for job_id in jobs:
                assert third.ask("DELETE", f"/herd/api/jobs/{job_id}").status == 200
        idle(runner)  # a hundred steps would have been ten seconds and more
        for job_id in jobs:
            job = truth(asker, job_id)
            assert (job.status, ran(job)) == ("cancelled", [(runner.name, "cancelled")])
            assert job.disconnected == (how == "left")
        until(lambda: not runner.left_over())
        assert asker.left_over() == []


@pytest.mark.slow
def test_a_mac_that_is_paused_ends_what_runs_there_and_takes_nothing_new(herd: list[Mac]) -> None:
    asker, runner, third = herd
    third.post("/herd/api/pause", {})
    with elsewhere(asker):
        runs_on(asker, runner)
        running = asker.submit(IMAGE | {"steps": 40})
        asker.is_(running, "running")
        third.post("/herd/api/resume", {})
        runner.post("/herd/api/pause", {})
        until(lambda: asker.states()[runner.name]["paused"] and not asker.states()[third.name]["paused"])
        later = [asker.submit(IMAGE | {"steps": 2}) for _ in range(3)]
        for job_id in later:
            assert ran(truth(asker, job_id)) == [(third.name, "completed")]
        assert ran(truth(asker, running)) == [(runner.name, "completed")]


@pytest.mark.slow
def test_images_that_wait_since_their_model_was_loaded_go_to_a_mac_that_becomes_free(tmp_path: Path) -> None:
    with macs(tmp_path, {}, {}, {}, variables=LEASED) as herd:  # a Mac where engines died of late would come last
        _waiting_images_move(*herd)


def _waiting_images_move(asker: Mac, runner: Mac, third: Mac) -> None:
    assert asker.ask("POST", f"/api/models/{IMAGE['model']}/load").status == 200
    third.post(f"/api/models/{IMAGE['model']}/load")
    third.post("/herd/api/pause", {})
    with elsewhere(asker):
        runs_on(asker, runner)
        runner.post(f"/api/models/{IMAGE['model']}/unload")
        jobs = [asker.submit(LONG) for _ in range(3)]
        for job_id in jobs[1:]:
            asker.is_(job_id, "loading")
        asker.is_(jobs[0], "running")
        third.post("/herd/api/resume", {})
        until(lambda: third.name in {asker.job(job_id).attempts[-1].node for job_id in jobs})
        for job_id in jobs:
            assert truth(asker, job_id, work_s=40).status == "completed"


@pytest.mark.slow
def test_two_macs_with_one_name_are_two(tmp_path: Path) -> None:
    with macs(tmp_path, {}, {}, {}, variables=LEASED | {"HERD_NODE_NAME": "studio"}) as herd:
        asker, runner, third = herd
        ids = [mac.id for mac in herd]
        third.post("/herd/api/pause", {})
        with elsewhere(asker):
            until(lambda: sum(bool(node["paused"]) for node in asker.get("/herd/api/status")["nodes"]) == 2)
            job_id = asker.submit(LONG)
            asker.is_(job_id, "running")
            (attempt,) = asker.job(job_id).attempts
            assert attempt.node_id == ids[1]
            assert {node["node_id"] for node in asker.get("/herd/api/status")["nodes"]} == set(ids)
            third.post("/herd/api/resume", {})
            runner.kill()
            job = truth(asker, job_id, work_s=20)
            assert job.status == "completed"
            assert [a.node_id for a in job.attempts] == ids[1:]
