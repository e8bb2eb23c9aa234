"""A whole Mac stands still for long, with the lease as it comes: real processes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from herd_mcp.jobs import ErrorCode
from herd_mcp.settings import Settings
from tests.cli.program import until
from tests.fleet.macs import CHAT, IMAGE, Mac, macs
from tests.fleet.outcomes import BOUND_S, elsewhere, frames, idle, ran, runs_on, stand_still, truth

pytestmark = pytest.mark.slow

LEASE_S: float = Settings.model_fields["lease_s"].default
WORK_S = 15.0
"""Of the image alone, which the asker draws from the beginning, on an engine that it loads first."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Mac]]:
    with macs(tmp_path_factory.mktemp("herd"), {}, {}) as herd:
        yield herd


@pytest.mark.parametrize("still_s", [30.0, 60.0])
def test_a_mac_that_stands_still_for_long_costs_one_attempt_and_its_return_changes_nothing(
    both: list[Mac], still_s: float
) -> None:
    asker, runner = both
    with elsewhere(asker):
        runs_on(asker, runner)
        image = asker.submit(IMAGE | {"steps": 120})
        chat = asker.ask("POST", "/herd/api/jobs", CHAT | {"max_tokens": 4000})
        shown = frames(chat)
        chat_id = str(chat.headers["X-Herd-Job"])
        assert next(event for event in shown if event["type"] == "delta")
        asker.is_(image, "running")
        with runner.stop_and_cont():
            began = time.monotonic()
            *_, last = shown
            assert time.monotonic() - began < LEASE_S + BOUND_S
            assert (last["type"], last["error"]["code"]) == ("failed", ErrorCode.NODE_LOST)
            drawn = truth(asker, image, LEASE_S, WORK_S)
            assert time.monotonic() - began < LEASE_S + BOUND_S + WORK_S
            stand_still(max(began + still_s - time.monotonic(), 0.0))
        idle(runner)
        until(lambda: asker.sees(runner) and runner.sees(asker))
        assert ran(drawn) == [(runner.name, ErrorCode.NODE_LOST), (asker.name, "completed")]
        assert truth(asker, image) == drawn
        assert ran(truth(asker, chat_id)) == [(runner.name, ErrorCode.NODE_LOST)]
        assert drawn.result is not None
        assert drawn.result.kind == "image"
        assert drawn.result.image_id in asker.pictures()
        assert asker.left_over() == []
        runs_on(asker, runner)
