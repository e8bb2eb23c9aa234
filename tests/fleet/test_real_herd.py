"""A herd of real processes: who runs what, and who answers for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet.macs import CHAT, IMAGE, at_once, macs, warm


@pytest.mark.slow
def test_images_that_come_together_go_one_to_each_mac(tmp_path: Path) -> None:
    with macs(tmp_path, {}, {}, {}) as herd:
        warm(*herd)
        asked = herd[0]
        jobs = at_once(*(lambda: asked.submit(IMAGE) for _ in herd))
        ran_on = {asked.over(job_id).attempts[-1].node for job_id in jobs}
        assert ran_on == {mac.name for mac in herd}
        for job_id in jobs:
            job = asked.over(job_id)
            assert job.status == "completed", job
            assert job.result is not None
            assert asked.ask("GET", f"/images/{job.result.image_id}").status == 200  # type: ignore[union-attr]


def test_any_mac_answers_for_a_job_and_its_picture(tmp_path: Path) -> None:
    with macs(tmp_path, {}, {}) as (first, second):
        job = first.over(first.submit(IMAGE))
        there = second.job(job.id)
        assert there.status == "completed"
        assert there.result is not None
        assert there.result.sha256 == job.result.sha256  # type: ignore[union-attr]
        assert second.ask("GET", f"/images/{job.result.image_id}").read().startswith(b"\x89PNG")  # type: ignore[union-attr]
        chat = second.over(first.submit(CHAT))
        assert chat.result is not None
        assert chat.result.text.split() == [f"w{i}" for i in range(20)]  # type: ignore[union-attr]
