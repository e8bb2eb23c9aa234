"""How the herd is: figures and advice from what the nodes tell. Pure functions; advice is free, only trouble costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from herd_mcp.jobs import ErrorInfo
from herd_mcp.node.choose import download_command, names_of
from herd_mcp.node.relief import SHORT_IDLE_S
from herd_mcp.settings import GIB, Settings
from herd_mcp.state import DayFigures, Estimate, FleetHealth, Level, ModelInfo, NodeState, Recommendation, Vitals, means

COST = {"info": 0, "warning": 10, "critical": 30}
ERROR_RATE_WARNING_PCT = 10.0
ERROR_RATE_MIN_JOBS = 5
DISK_WARNING_BYTES = 10 * GIB
NEARLY_FULL = 0.8
"""Of the budget: with so much reserved, jobs whose engine is not there wait for memory."""
RAISED = 1.2
"""From here on a measured need is told: below, it is within what estimates promise."""


def fleet_health(
    nodes: Sequence[NodeState],
    models: Sequence[ModelInfo],
    day: DayFigures,
    *,
    settings: Settings,
    gallery_bytes: int,
    disk_free_bytes: int,
    damaged_history: str = "",
    absent: Sequence[str] = (),
    apart: ErrorInfo | None = None,
) -> FleetHealth:
    """The health of the herd now, this node first. `damaged_history`: the name an unreadable database was given, if one
    was found; `absent`: the nodes whose jobs are not in `day`; `apart`: why this node is not among the others."""
    error_rate_pct = round(100 * day.failed / day.total, 1) if day.total else 0.0
    recommendations = [
        *_models(models),
        *_named_in_settings([model for model in models if model.source != "peer"], settings),
        *_named_twice([model for model in models if model.source != "peer"], settings),
        *_errors(day, error_rate_pct),
        *_disk(settings, gallery_bytes, disk_free_bytes),
        *_nodes(nodes if apart is None else nodes[:1]),  # the others may be well
        *([] if apart is None else [_apart(nodes[0], apart)]),
        *_memory(nodes, settings),
        *(advice for node in nodes for advice in _ledger(node)),
    ]
    if damaged_history:
        recommendations.append(_damaged(damaged_history))
    score = max(0, 100 - sum(COST[item.severity] for item in recommendations))
    states = [node.status for node in nodes]
    vitals = Vitals(
        nodes_total=len(nodes),
        nodes_online=states.count("online"),
        nodes_degraded=states.count("degraded") + states.count("draining"),
        nodes_offline=states.count("offline"),
        overall_error_rate_pct=error_rate_pct,
        cold_loads_24h=day.cold_loads,
        avg_ttft_ms=day.avg_ttft_ms,
        total_requests_24h=day.total,
        total_retries_24h=day.retries,
        client_disconnects_24h=day.disconnects,
        incomplete_streams_24h=day.interrupted_streams,
        image_generations_24h=day.images,
        transcriptions_24h=0,
        health_score=score,
    )
    return FleetHealth(
        vitals=vitals, recommendations=tuple(recommendations), checked_at=time.time(), absent=tuple(absent)
    )


def _models(models: Sequence[ModelInfo]) -> list[Recommendation]:
    found = [
        Recommendation(
            check_id=f"no_{kind}_model",
            severity="info",
            title=f"Only the built-in {kind} model is here",
            description=f"The built-in {kind} model is a tiny one that shows that everything works.",
            fix=fix,
        )
        for kind, fix in (
            ("chat", download_command("mlx-community/Qwen3-4B-4bit")),
            ("image", download_command("filipstrand/Z-Image-Turbo-mflux-4bit")),
        )
        if not any(model.kind == kind and model.usable and not model.builtin for model in models)
    ]
    found += [
        Recommendation(
            check_id="model_incomplete",
            severity="info",
            title=f"{model.name} is not whole",
            description=f"{model.problem}.",
            fix=download_command(model.name),
            data={"model": model.name},
        )
        for model in models
        if not model.complete
    ]
    return found


def _named_in_settings(models: Sequence[ModelInfo], settings: Settings) -> list[Recommendation]:
    """Models that a setting names and that are not here, or cannot be used."""
    return [
        Recommendation(
            check_id=f"{setting}_missing",
            severity="warning",
            title=f"{name}, which {setting} names, is not here",
            description="There is no such model on this Mac that can be used; everything else goes on without it.",
            fix=f"Correct {setting} in config.toml (`herd-mcp config --path`), or get it: {download_command(name)}",
            data={"model": name},
        )
        for setting, names in (("preload", settings.preload), ("models", settings.models))
        for name in names
        if not any(model.usable and means(model, name) for model in models)
    ]


def _named_twice(models: Sequence[ModelInfo], settings: Settings) -> list[Recommendation]:
    """Models that have settings of their own under several names, of which one counts."""
    return [
        Recommendation(
            check_id="models_twice",
            severity="warning",
            title=f"{model.name} stands in models under {len(names)} names",
            description=f"What stands under {names[0]} counts; what stands under {' and '.join(names[1:])} does not.",
            fix="Write all of it under one name in config.toml (`herd-mcp config --path`).",
            data={"model": model.name},
        )
        for model in models
        if len(names := names_of(model, settings.models)) > 1
    ]


def _ledger(node: NodeState) -> list[Recommendation]:
    memory = node.memory
    waiting = node.queued - sum(engine.queued for engine in node.engines)
    found = []
    if waiting > 0 and memory.reserved_bytes >= NEARLY_FULL * memory.budget_bytes:
        found.append(
            Recommendation(
                check_id="memory_full",
                severity="warning",
                title=f"{waiting} {'job waits' if waiting == 1 else 'jobs wait'} for memory on {node.name}",
                description=f"{memory.reserved_bytes / GIB:.1f} of {memory.budget_bytes / GIB:.1f} GiB for models are "
                "reserved; another model is loaded when those that work are done.",
                fix="Use fewer or smaller models at the same time, or lower memory_floor_bytes.",
                node_id=node.node_id,
                data={"waiting": waiting, "reserved_bytes": memory.reserved_bytes, "budget_bytes": memory.budget_bytes},
            )
        )
    found += [
        Recommendation(
            check_id="estimate_raised",
            severity="warning",
            title=f"{estimate.model} takes more memory than its files say",
            description=_seen(estimate),
            fix="Nothing has to be done. If it does not fit any more, take a smaller model.",
            node_id=node.node_id,
            data={"model": estimate.model, "factor": estimate.factor},
        )
        for estimate in node.estimates
        if estimate.factor >= RAISED or estimate.held_bytes
    ]
    return found


def _seen(estimate: Estimate) -> str:
    if not estimate.held_bytes:
        seen = f"Its work was seen to take up to {estimate.factor:.1f} times what was computed"
    else:
        seen = f"Its process was ended for holding more than was computed, and gets {estimate.held_bytes / GIB:.1f} GiB"
        seen += f" and up to {estimate.factor:.1f} times the computed work"
    return f"{seen}; so much is reserved for it from now on."


def _errors(day: DayFigures, error_rate_pct: float) -> list[Recommendation]:
    if day.total < ERROR_RATE_MIN_JOBS or error_rate_pct < ERROR_RATE_WARNING_PCT:
        return []
    return [
        Recommendation(
            check_id="error_rate",
            severity="warning",
            title=f"{error_rate_pct:g}% of the jobs of the last 24 hours failed",
            description=f"{day.failed} of {day.total} jobs failed.",
            fix="herd-mcp jobs --status failed",
            data={"failed": day.failed, "total": day.total},
        )
    ]


def _disk(settings: Settings, gallery_bytes: int, disk_free_bytes: int) -> list[Recommendation]:
    found = []
    if disk_free_bytes < DISK_WARNING_BYTES:
        found.append(
            Recommendation(
                check_id="disk_low",
                severity="critical" if disk_free_bytes < GIB else "warning",
                title=f"{disk_free_bytes / GIB:.1f} GiB of disk are free",
                description="Images and the job history need room; a full disk fails jobs.",
                fix="Make room on the disk of HERD_HOME; `herd-mcp config --path` says where it is.",
                data={"free_bytes": disk_free_bytes},
            )
        )
    if gallery_bytes > settings.gallery_warn_bytes:
        found.append(
            Recommendation(
                check_id="gallery_large",
                severity="info",
                title=f"Images take {gallery_bytes / GIB:.1f} GiB",
                description="Nothing is deleted unasked.",
                fix="Move what you want to keep out of HERD_HOME/images and delete the rest yourself.",
                data={"bytes": gallery_bytes},
            )
        )
    return found


def _nodes(nodes: Sequence[NodeState]) -> list[Recommendation]:
    return [
        Recommendation(
            check_id=f"node_{node.status}",
            severity="warning",
            title=f"{node.name} is {node.status}",
            description=node.reason or "It takes no new jobs.",
            fix="herd-mcp up" if node.status in ("draining", "offline") else "herd-mcp doctor",
            node_id=node.node_id,
        )
        for node in nodes
        if node.status != "online"
    ]


def _apart(node: NodeState, why: ErrorInfo) -> Recommendation:
    return Recommendation(
        check_id="apart",
        severity="warning",
        title=f"{node.name} is not among the other Macs of its herd",
        description=f"{why.message} What is asked here is done here; it joins the others as soon as it can.",
        fix=why.hint,
        node_id=node.node_id,
    )


RELIEF: dict[Level, tuple[Literal["info", "warning", "critical"], str]] = {
    "moderate": ("info", "Engines keep half as many finished conversations"),
    "high": ("warning", f"Engines keep a tenth of the finished conversations; idle ones end after {SHORT_IDLE_S:g} s"),
    "critical": ("critical", "Engines keep no finished conversations, and idle ones end at once"),
}
"""How bad a shortage of memory is, and what the node does in it."""


def _memory(nodes: Sequence[NodeState], settings: Settings) -> list[Recommendation]:
    return [_short(node, settings) for node in nodes if node.memory.pressure != "normal"]


def _short(node: NodeState, settings: Settings) -> Recommendation:
    memory, level = node.memory, node.memory.pressure
    severity, done = RELIEF[level]
    return Recommendation(
        check_id="memory_pressure",
        severity=severity,
        title=f"{node.name} is short of memory ({level})",
        description=f"{memory.available_bytes / GIB:.1f} of {memory.total_bytes / GIB:.1f} GiB are available, and "
        f"engines have {memory.reserved_bytes / GIB:.1f} of {memory.budget_bytes / GIB:.1f} GiB. "
        f"{done}{_capped(settings, level)}.",
        fix="Close programs that you do not need; or leave more to them: raise memory_floor_bytes, or take a smaller "
        "model (`herd-mcp config`).",
        node_id=node.node_id,
        data={"level": level, "available_bytes": memory.available_bytes, "total_bytes": memory.total_bytes},
    )


def _capped(settings: Settings, level: Level) -> str:
    if level == "normal":
        return ""
    answer, steps = settings.pressure_max_tokens.get(level), settings.pressure_max_steps.get(level)
    side, context = settings.pressure_max_image_px.get(level), settings.pressure_context_tokens.get(level)
    told = [
        f"answers have at most {answer} tokens (pressure_max_tokens)" if answer else "",
        f"images at most {steps} steps (pressure_max_steps)" if steps else "",
        f"images over {side} × {side} px wait or are refused (pressure_max_image_px)" if side else "",
        f"conversations over {context} tokens too (pressure_context_tokens)" if context else "",
    ]
    return "".join(f"; {each}" for each in told if each)


def _damaged(moved_to: str) -> Recommendation:
    return Recommendation(
        check_id="history_damaged",
        severity="warning",
        title="The job history could not be read and was started anew",
        description=f"The old one is kept as {moved_to} in HERD_HOME; the jobs in it are lost: they are not listed, "
        "and those that were not over are not run. Images are kept.",
        fix="herd-mcp doctor",
    )
