"""Hours of work must not grow the node nor its engines. `--minutes` makes the long run shorter."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import endure
from benchmarks.endure import GROWTH_MIB, Held
from benchmarks.parts import processes
from benchmarks.parts.jobs import ENDS


def test_growth_is_that_after_the_first_part() -> None:
    held = Held()
    for minute in range(11):
        held.note("node", minute * 60, 50 + min(minute, 5) * 10 + minute * 0.1)
    assert held.growth("node", 300, 300) == pytest.approx(0.5)
    assert held.growth("node", 0, 600) > 40


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_mixed_work_with_cancels_and_changing_sizes_leaves_memory_flat(request: pytest.FixtureRequest) -> None:
    minutes = request.config.getoption("--minutes")
    with processes.node(prompt_cache_bytes=str(endure.CACHE_BYTES), idle_unload_s="0") as node:
        held, ends = asyncio.run(endure.endure(node, minutes))
    rows = endure.rows_of(held, ends, minutes)
    print("\n".join(f"{row.what}: {row.ours.median:.2f} {row.unit}" for row in rows))
    assert set(ends) <= {*ENDS, "left"}
    assert ends["failed"] == 0
    assert len(held.samples) == 3, "no engine ended"
    assert [row.what for row in rows if row.met is False] == [], f"more than {GROWTH_MIB} MiB"
