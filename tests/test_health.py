"""What health says of a node that is short of memory."""

from __future__ import annotations

import pytest

from herd_mcp.health import fleet_health
from herd_mcp.settings import GIB, load_settings
from herd_mcp.state import DayFigures, Level, MemoryState, NodeState, Recommendation

NODE = NodeState(
    node_id="0" * 10, name="mini", version="1", status="online", platform="", chip="", cpu_cores=1, started_at=0,
    memory=MemoryState(total_bytes=16 * GIB, available_bytes=GIB, budget_bytes=12 * GIB, reserved_bytes=6 * GIB),
)  # fmt: skip
DAY = DayFigures()


def advice(level: Level) -> list[Recommendation]:
    node = NODE.model_copy(update={"memory": NODE.memory.model_copy(update={"pressure": level})})
    settings = load_settings(pressure_max_tokens={"high": 99})
    health = fleet_health([node], [], DAY, settings=settings, gallery_bytes=0, disk_free_bytes=99 * GIB)
    return [item for item in health.recommendations if item.check_id == "memory_pressure"]


@pytest.mark.parametrize(("level", "severity"), [("moderate", "info"), ("high", "warning"), ("critical", "critical")])
def test_a_shortage_of_memory_is_told_with_its_numbers_and_what_was_done(level: Level, severity: str) -> None:
    (item,) = advice(level)
    assert item.severity == severity
    assert level in item.title
    assert "1.0 of 16.0 GiB are available" in item.description
    assert ("at most 99 tokens" in item.description) == (level == "high")
    assert ("images over 1024 × 1024 px wait or are refused" in item.description) == (level == "high")
    assert "memory_floor_bytes" in item.fix


def test_enough_memory_is_no_advice() -> None:
    assert advice("normal") == []
