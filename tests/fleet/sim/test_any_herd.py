"""Whatever happens to a herd: one outcome for each job, nobody over its memory, nothing left over, nobody idle beside
work that waits."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fleet.sim.clock import run
from tests.fleet.sim.story import Act, Ask, Plan, plans, play

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@given(plans())
@settings(max_examples=12, suppress_health_check=SLOW, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_whatever_happens_every_job_has_one_outcome(plan: Plan) -> None:
    run(lambda loop: play(loop, plan))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(plans())
@settings(max_examples=400, suppress_health_check=SLOW)
def test_whatever_happens_in_hundreds_of_herds_every_job_has_one_outcome(plan: Plan) -> None:
    run(lambda loop: play(loop, plan))


def test_the_same_seed_gives_the_same_run() -> None:
    plan = Plan(
        seed=7,
        macs=((1.0, True), (3.0, True), (1.0, False)),
        asks=tuple(Ask(n / 2, n, "image" if n % 2 else "chat", 5 + n, stream=n % 3 == 0) for n in range(12)),
        acts=(Act(3.0, "kill", 1), Act(6.0, "restart", 1), Act(7.0, "sleep", 0), Act(9.0, "wake", 0)),
        loss=0.05,
        broken=0.05,
    )
    assert run(lambda loop: play(loop, plan)) == run(lambda loop: play(loop, plan))
