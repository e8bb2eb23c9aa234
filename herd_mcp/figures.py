"""Figures of several nodes as one: each node counts the jobs that were asked of it, so nothing is counted twice. Pure
functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from herd_mcp.node.statistics import RECENT
from herd_mcp.state import DayFigures, ImageStats, OwnStats


def all_images(parts: Sequence[OwnStats], absent: Iterable[str] = ()) -> ImageStats:
    """The image jobs of all nodes. `absent`: names of those that did not tell.

    Each average is weighted by the completed images of its node. Percentiles of one node are those that it told; of
    several they are of the newest durations that each told, which are all where none has more than it may tell.
    """
    first = parts[0]
    told = [part for part in parts if part.total]
    if len(told) > 1:
        p50, p95 = (percentile([ms for part in told for ms in part.newest_ms], share) for share in (0.5, 0.95))
    else:
        alone = told[0] if told else first
        p50, p95 = alone.p50_generation_ms, alone.p95_generation_ms
    done = [part.completed for part in parts]
    recent = sorted((image for part in parts for image in part.recent), key=lambda image: -image.timestamp)
    return ImageStats(
        total=sum(part.total for part in parts),
        completed=sum(done),
        failed=sum(part.failed for part in parts),
        cancelled=sum(part.cancelled for part in parts),
        avg_generation_ms=average([part.avg_generation_ms for part in parts], done) or 0.0,
        p50_generation_ms=p50,
        p95_generation_ms=p95,
        avg_queue_ms=average([part.avg_queue_ms for part in parts], done),
        avg_load_ms=average([part.avg_load_ms for part in parts], done),
        by_node=_sums(part.by_node for part in parts),
        by_model=_sums(part.by_model for part in parts),
        by_tag=_sums(part.by_tag for part in parts),
        by_day=dict(sorted(_sums(part.by_day for part in parts).items())),
        recent=tuple(recent[:RECENT]),
        absent=tuple(absent),
    )


def all_days(parts: Sequence[DayFigures]) -> DayFigures:
    """The last 24 hours of all nodes."""
    counts = ("total", "failed", "retries", "cold_loads", "images", "interrupted_streams", "disconnects", "answered")
    return DayFigures(
        **{name: sum(getattr(part, name) for part in parts) for name in counts},
        avg_ttft_ms=average([part.avg_ttft_ms for part in parts], [part.answered for part in parts]),
    )


def average(values: Sequence[float | None], weights: Sequence[int]) -> float | None:
    """The weighted average of those that there are, to a tenth; None where there is none."""
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None and weight]
    if not known:
        return None
    return round(sum(value * weight for value, weight in known) / sum(weight for _, weight in known), 1)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which `share` of them are; None where there is none."""
    ordered = sorted(values)
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 1) if ordered else None


def _sums(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)
