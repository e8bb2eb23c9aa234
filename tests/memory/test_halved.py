"""Estimates that are half of the truth, in a group that the kernel limits: engines die, nothing is lost, and the node
learns of it and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.parts import jobs
from tests.memory.stage import entry, mixed, running
from tests.memory.test_mixed import nothing_is_lost

COUNT = 60
EXPERTS = 32
"""Makes 1.2 and 0.8 GB of weights: of smaller models half is within what an engine may take beyond its reservation."""
ORDERLY = ("room for", "idle", "the node ended", "unloaded")
"""Ends of engines that nobody has to hear of."""


@pytest.mark.slow
@pytest.mark.timeout(2400)
async def test_estimates_that_are_half_cost_engines_and_no_request_and_rise(tmp_path: Path) -> None:
    async with running(tmp_path, *entry("halved"), experts=EXPERTS) as stage:
        asks = await stage.run(mixed(COUNT))
        print(stage.report(asks))
        await nothing_is_lost(stage, asks, COUNT)
        told = await jobs.status(stage.node)
        estimates = {one["model"]: (one["factor"], one["held_bytes"]) for one in told["nodes"][0]["estimates"]}
        health = told["health"]
        print(f"estimates: {estimates}; health {health['vitals']['health_score']}: ", end="")
        print([advice["check_id"] for advice in health["recommendations"]])
        died = {why: count for why, count in stage.ends().items() if not why.startswith(ORDERLY)}
        assert died
        assert [factor for factor, held_bytes in estimates.values() if factor > 1.2 or held_bytes]
        assert "estimate_raised" in {advice["check_id"] for advice in health["recommendations"]}
        assert health["vitals"]["health_score"] < 100
        again = await stage.run(mixed(COUNT // 3), clients=4)
        assert not [one for one in again if one.code == "engine_crashed"], "it has learned"
