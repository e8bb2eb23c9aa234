"""What health says of memory that is given away, and of models that settings name."""

from __future__ import annotations

import pytest

from herd_mcp.health import fleet_health
from herd_mcp.node.plans import own_settings
from herd_mcp.settings import GIB, load_settings
from herd_mcp.state import DayFigures, EngineState, Estimate, FleetHealth, MemoryState, ModelInfo, NodeState

ENGINE = EngineState(model="a", kind="chat", phase="ready", reserved_bytes=9 * GIB, running=1, queued=2, idle_s=0)
DAY = DayFigures()


def node(*, queued: int = 0, reserved_gib: int = 9, estimates: tuple[Estimate, ...] = ()) -> NodeState:
    memory = MemoryState(
        total_bytes=16 * GIB, available_bytes=8 * GIB, budget_bytes=10 * GIB, reserved_bytes=reserved_gib * GIB
    )
    return NodeState(
        node_id="0" * 10, name="mini", version="1", status="online", platform="", chip="", cpu_cores=1, started_at=0,
        memory=memory, engines=(ENGINE,), queued=queued, estimates=estimates,
    )  # fmt: skip


def health(state: NodeState, here: tuple[ModelInfo, ...] = (), **settings: object) -> FleetHealth:
    return fleet_health(
        [state], here, DAY, settings=load_settings(**settings), gallery_bytes=0, disk_free_bytes=99 * GIB
    )


def ids(found: FleetHealth) -> set[str]:
    return {each.check_id for each in found.recommendations if each.severity != "info"}


@pytest.mark.parametrize(
    ("queued", "reserved_gib", "told"),
    [
        (2, 9, False),  # both wait in the engine that is there
        (5, 7, False),  # there is room: their engine is about to start
        (5, 9, True),
    ],
)
def test_jobs_that_wait_for_memory_are_told_with_the_numbers(queued: int, reserved_gib: int, told: bool) -> None:
    found = health(node(queued=queued, reserved_gib=reserved_gib))
    assert ids(found) == ({"memory_full"} if told else set())
    if told:
        (item,) = (each for each in found.recommendations if each.check_id == "memory_full")
        assert (item.title, item.description[:22]) == ("3 jobs wait for memory on mini", "9.0 of 10.0 GiB for mo")


def test_a_model_that_was_seen_to_take_more_is_told_and_lowers_the_score() -> None:
    quiet, raised = (
        health(node(estimates=(Estimate(model="a", factor=factor, measured_at=0),))) for factor in (1.1, 2.0)
    )
    assert (ids(quiet), ids(raised)) == (set(), {"estimate_raised"})
    assert raised.vitals.health_score < quiet.vitals.health_score
    outgrown = health(node(estimates=(Estimate(model="a", factor=1.0, held_bytes=3 * GIB, measured_at=0),)))
    assert "gets 3.0 GiB" in outgrown.recommendations[-1].description


def test_models_that_settings_name_and_that_are_not_here_are_told() -> None:
    here = ModelInfo(
        name="org/one", aliases=("one",), kind="chat", family="", source="herd", path="", bytes=1, complete=True
    )
    found = health(node(), (here,), preload=("one", "two"), models={"ORG/ONE": {}, "three": {"pinned": True}})
    missing = {each.check_id: each.data["model"] for each in found.recommendations if "missing" in each.check_id}
    assert missing == {"preload_missing": "two", "models_missing": "three"}


@pytest.mark.parametrize("models", [{"one": {"batch": 2}, "org/one": {"batch": 3}}, {"ORG/one": {}, "org/one": {}}])
def test_a_model_with_settings_under_two_names_is_told_and_its_own_name_counts(models: dict[str, object]) -> None:
    here = ModelInfo(
        name="org/one", aliases=("one",), kind="chat", family="", source="herd", path="", bytes=1, complete=True
    )
    found = health(node(), (here,), models=models)
    (advice,) = [each for each in found.recommendations if each.check_id == "models_twice"]
    counts = next(name for name in models if name.lower() == "org/one")
    assert f"What stands under {counts} counts" in advice.description
    settings = load_settings(models=models)
    assert own_settings(here, settings) is settings.models[counts]
    assert "models_twice" not in ids(health(node(), (here,), models={counts: {}}))
