"""Figures of several nodes as one."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

from benchmarks.parts.mesh import state_of, virtually
from herd_mcp.figures import all_days, all_images
from herd_mcp.fleet.questions import FIGURES_S, figures_of
from herd_mcp.orders import PeerApi
from herd_mcp.state import DayFigures, NodeState, OwnStats, RecentImage


def stats(ms: list[float], **update: object) -> OwnStats:
    """Of a node whose completed images took so long."""
    done = len(ms)
    average = sum(ms) / done if done else 0.0
    fields: dict[str, object] = {key: {} for key in ("by_node", "by_model", "by_tag", "by_day")} | {"recent": ()}
    told = {"total": done, "completed": done, "failed": 0, "cancelled": 0, "avg_generation_ms": average}
    times = {"p50_generation_ms": None, "p95_generation_ms": None, "avg_queue_ms": None, "avg_load_ms": None}
    return OwnStats.model_validate({**fields, **told, **times, "newest_ms": tuple(ms), **update})


def recent(at: float) -> RecentImage:
    return RecentImage(
        timestamp=at, model="m", node_id="a", status="completed", generation_ms=1, width=1, height=1, error=None
    )


def test_counts_are_added_and_averages_weighted_by_what_they_are_of() -> None:
    one = stats([100, 100, 100], by_node={"a": 2, "b": 1}, by_day={"2026-01-02": 3}, avg_queue_ms=10)
    other = stats([500], by_node={"b": 1}, by_day={"2026-01-01": 1}, failed=2, total=3)
    both = all_images([one, other], ["c"])
    assert (both.total, both.completed, both.failed, both.absent) == (6, 4, 2, ("c",))
    assert (both.avg_generation_ms, both.avg_queue_ms, both.avg_load_ms) == (200, 10, None)
    assert both.by_node == {"a": 2, "b": 2}
    assert list(both.by_day) == ["2026-01-01", "2026-01-02"]


def test_percentiles_are_of_all_durations_together() -> None:
    both = all_images([stats([float(ms) for ms in range(1, 11)]), stats([float(ms) for ms in range(11, 21)])])
    assert (both.p50_generation_ms, both.p95_generation_ms) == (11, 20)


def test_percentiles_of_one_node_are_those_that_it_told() -> None:
    alone = stats([1.0], p50_generation_ms=7.0, p95_generation_ms=9.0)
    assert all_images([stats([]), alone]).p95_generation_ms == 9
    assert all_images([stats([])]).p50_generation_ms is None


def test_the_newest_ten_images_of_all_are_told_newest_first() -> None:
    odd, even = (stats([], recent=tuple(recent(at) for at in range(first, 0, -2))) for first in (19, 20))
    assert [image.timestamp for image in all_images([odd, even]).recent] == list(range(20, 10, -1))


def test_days_are_added_and_the_first_token_weighted_by_the_answers() -> None:
    days = all_days(
        [DayFigures(total=3, retries=1, answered=3, avg_ttft_ms=100), DayFigures(total=1, answered=1, avg_ttft_ms=500)]
    )
    assert (days.total, days.retries, days.avg_ttft_ms) == (4, 1, 200)
    assert all_days([DayFigures(total=2)]).avg_ttft_ms is None


async def hang() -> OwnStats:
    await asyncio.sleep(3600)
    raise AssertionError


async def asked(state: NodeState) -> tuple[OwnStats | None, float]:
    """What comes of asking a node that hangs, and after how many seconds."""
    told = await figures_of(state, cast(PeerApi, SimpleNamespace(stats=hang)))
    return told, asyncio.get_running_loop().time()


def test_a_node_that_hangs_is_given_up_on_and_one_that_is_offline_is_not_asked() -> None:
    assert virtually(asked(state_of(2)), 60) == (None, FIGURES_S)
    assert virtually(asked(state_of(2, status="offline")), 60) == (None, 0)
