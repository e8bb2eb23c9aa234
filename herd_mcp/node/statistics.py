"""Figures out of the job history: sums and percentiles, computed by SQLite."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from herd_mcp.jobs import Job
from herd_mcp.state import MAX_NEWEST_MS, DayFigures, ImageStats, OwnStats, RecentImage

DAY_S = 86_400
RECENT = 10

_IMAGES = "WHERE json_valid(job) AND kind = 'image'"
_MS = "CAST(json_extract(job, '$.timings.{}') * 1000 AS REAL)"
_RUN_MS = _MS.format("run_s")


def image_stats(connection: sqlite3.Connection) -> ImageStats:
    """Everything ever asked of this node; recent first."""
    by_status = _counts(connection, "status")
    percentiles = [_percentile(connection, by_status.get("completed", 0), share) for share in (0.5, 0.95)]
    average, queue, load = connection.execute(
        f"SELECT avg({_RUN_MS}), avg({_MS.format('queue_s')}), avg({_MS.format('load_s')})"
        f" FROM jobs {_IMAGES} AND status = 'completed'"
    ).fetchone()
    tags = connection.execute(
        f"SELECT tag.value, count(*) FROM jobs, json_each(jobs.job, '$.tags') AS tag {_IMAGES} GROUP BY 1"
    ).fetchall()
    days = connection.execute(
        "SELECT date(created_at, 'unixepoch'), count(*) FROM jobs "
        f"{_IMAGES} AND status = 'completed' AND created_at >= ? GROUP BY 1 ORDER BY 1",
        (time.time() - 30 * DAY_S,),
    ).fetchall()
    recent = connection.execute(
        f"SELECT job FROM jobs {_IMAGES} ORDER BY created_at DESC LIMIT ?", (RECENT,)
    ).fetchall()
    return ImageStats(
        total=sum(by_status.values()),
        completed=by_status.get("completed", 0),
        failed=by_status.get("failed", 0),
        cancelled=by_status.get("cancelled", 0),
        avg_generation_ms=round(average or 0.0, 1),
        p50_generation_ms=percentiles[0],
        p95_generation_ms=percentiles[1],
        avg_queue_ms=_rounded(queue),
        avg_load_ms=_rounded(load),
        by_node=_counts(connection, "node", "status = 'completed'"),
        by_model=_counts(connection, "model", "status = 'completed'"),
        by_tag=dict(tags),
        by_day=dict(days),
        recent=tuple(_recent(Job.model_validate_json(row[0])) for row in recent),
    )


def _counts(connection: sqlite3.Connection, column: str, condition: str = "1") -> dict[str, int]:
    statement = f"SELECT {column}, count(*) FROM jobs {_IMAGES} AND {condition} GROUP BY 1"
    return dict(connection.execute(statement).fetchall())


def _percentile(connection: sqlite3.Connection, count: int, share: float) -> float | None:
    row = connection.execute(
        f"SELECT {_RUN_MS} FROM jobs {_IMAGES} AND status = 'completed' ORDER BY {_RUN_MS} LIMIT 1 OFFSET ?",
        (min(int(count * share), max(count - 1, 0)),),
    ).fetchone()
    return _rounded(row[0]) if row else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _recent(job: Job) -> RecentImage:
    image = job.result if job.result is not None and job.result.kind == "image" else None
    asked = job.request if job.request is not None and job.request.kind == "image" else None
    run_s = job.timings.run_s
    return RecentImage(
        timestamp=job.created_at,
        model=job.model,
        node_id=job.attempts[-1].node if job.attempts else "",
        status=job.status,
        generation_ms=None if run_s is None else round(run_s * 1000),
        width=image.width if image else asked.width if asked else None,
        height=image.height if image else asked.height if asked else None,
        error=job.error.message if job.error else None,
        tags=job.tags,
        image_id=image.image_id if image else None,
    )


def day_figures(connection: sqlite3.Connection) -> DayFigures:
    """Figures of the last 24 hours."""
    row: tuple[Any, ...] = connection.execute(
        """
        SELECT count(*),
               sum(status = 'failed' AND json_extract(job, '$.error.code') NOT IN ('invalid_request', 'timeout')),
               sum(max(json_array_length(job, '$.attempts') - 1, 0)),
               sum(coalesce(json_extract(job, '$.timings.load_s'), 0) > 0),
               sum(kind = 'image' AND status = 'completed'),
               sum(status = 'failed' AND json_extract(job, '$.stream') AND json_extract(job, '$.timings.ttft_s') > 0),
               sum(coalesce(json_extract(job, '$.disconnected'), 0)),
               count(json_extract(job, '$.timings.ttft_s')),
               avg(json_extract(job, '$.timings.ttft_s') * 1000)
        FROM jobs WHERE json_valid(job) AND created_at >= ?
        """,
        (time.time() - DAY_S,),
    ).fetchone()
    counts = [int(value or 0) for value in row[:8]]
    return DayFigures(
        total=counts[0],
        failed=counts[1],
        retries=counts[2],
        cold_loads=counts[3],
        images=counts[4],
        interrupted_streams=counts[5],
        disconnects=counts[6],
        answered=counts[7],
        avg_ttft_ms=_rounded(row[8]),
    )


def own_stats(connection: sqlite3.Connection) -> OwnStats:
    """All that other nodes want to know of the jobs that were asked here."""
    newest = connection.execute(
        f"SELECT {_RUN_MS} FROM jobs {_IMAGES} AND status = 'completed' AND {_RUN_MS} >= 0"
        " ORDER BY created_at DESC LIMIT ?",
        (MAX_NEWEST_MS,),
    ).fetchall()
    return OwnStats(
        **dict(image_stats(connection)), newest_ms=tuple(round(ms, 1) for (ms,) in newest), day=day_figures(connection)
    )
