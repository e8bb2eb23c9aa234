"""`status`, `models`, `jobs`, `cancel`: what the node knows, as tables."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from herd_mcp.cli.console import clean, human_bytes, human_s, print_json, print_table, say

if TYPE_CHECKING:
    from herd_mcp.cli.client import Status
    from herd_mcp.jobs import Job
    from herd_mcp.state import EngineState, ModelInfo, NodeState

Json = Annotated[bool, typer.Option("--json", help="Print the data as JSON.")]


def add_to(app: typer.Typer) -> None:
    for command in (status, models, jobs, cancel):
        app.command()(command)


def status(as_json: Json = False) -> None:
    """Show the node: its memory, its engines, what runs and what waits.

    Does not start a node; ends with 3 when none runs.

    \b
    Example:
      herd-mcp status
      herd-mcp status --json
    """
    from herd_mcp.cli.client import find_node
    from herd_mcp.jobs import ENDED

    node = find_node()
    told = node.status()
    running = [job for job in node.jobs(limit=200) if job.status not in ENDED]
    if as_json:
        print_json({"nodes": told.nodes, "health": told.health, "jobs": [_without_picture(job) for job in running]})
        return
    _show_status(told, running)


def show_status_if_up() -> None:
    """For `herd-mcp` alone: the status when a node runs, else how to get one. Never an error."""
    from herd_mcp.jobs import HerdError

    try:
        status(as_json=False)
    except HerdError as error:
        say(str(error))
    typer.echo()


def _show_status(told: Status, running: list[Job]) -> None:
    print_table(
        ("node", "status", "version", "chip", "memory free", "pressure", "for models", "running", "queued", "up"),
        [_node_row(node) for node in told.nodes],
        right=("memory free", "for models", "running", "queued", "up"),
    )
    engines = [(node.name, engine) for node in told.nodes for engine in node.engines]
    if engines:
        print_table(
            ("engine", "kind", "node", "phase", "pid", "reserved", "held", "running", "queued", "idle"),
            [_engine_row(name, engine) for name, engine in engines],
            right=("pid", "reserved", "held", "running", "queued", "idle"),
        )
    else:
        typer.echo("No model is loaded; the first request loads one.")
    if running:
        _show_jobs(running)
    for advice in told.health.recommendations:
        typer.echo(clean(f"{advice.severity}: {advice.title}. {advice.description} {advice.fix}".strip()))


def _node_row(node: NodeState) -> tuple[object, ...]:
    memory = node.memory
    return (
        node.name,
        f"{node.status} ({node.reason})" if node.reason else node.status,
        node.version,
        node.chip,
        f"{human_bytes(memory.available_bytes)} of {human_bytes(memory.total_bytes)}",
        memory.pressure,
        f"{human_bytes(memory.reserved_bytes)} of {human_bytes(memory.budget_bytes)}",
        node.running,
        node.queued,
        human_s(time.time() - node.started_at),
    )


def _engine_row(node: str, engine: EngineState) -> tuple[object, ...]:
    loading = f" {engine.loading:.0%}" if engine.loading is not None else ""
    return (
        engine.model,
        engine.kind,
        node,
        f"{engine.phase}{loading}{', pinned' if engine.pinned else ''}",
        engine.pid or "–",
        human_bytes(engine.reserved_bytes),
        "–" if engine.resident_bytes is None else human_bytes(engine.resident_bytes),
        engine.running,
        engine.queued,
        human_s(engine.idle_s) if not engine.running else "–",
    )


def models(
    kind: Annotated[Literal["chat", "image"] | None, typer.Option(help="Only this kind.")] = None,
    as_json: Json = False,
) -> None:
    """List the models on this Mac.

    With size, the memory that each needs, whether it is complete and loaded, and whether there is room for it now.

    \b
    Example:
      herd-mcp models
      herd-mcp models --kind image --json
    """
    from herd_mcp.cli.client import start_node

    found = [model for model in start_node().models() if kind in (None, model.kind)]
    if as_json:
        print_json(found)
        return
    print_table(
        ("model", "kind", "size", "needs", "where", "complete", "loaded", "room now", ""),
        [
            (
                model.name,
                model.kind,
                human_bytes(model.bytes),
                human_bytes(model.needs_bytes),
                model.source,
                "yes" if model.complete else f"no: {model.problem}",
                "yes" if model.loaded else "",
                _room(model),
                ", ".join(["default"] * model.default + ["recommended"] * model.recommended),
            )
            for model in found
        ],
        right=("size", "needs"),
    )


def _room(model: ModelInfo) -> str:
    if not model.usable or model.loaded:
        return ""
    return ": ".join(part for part in ("yes" if model.can_load_now else "no", model.reason) if part)


def jobs(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    state: Annotated[
        Literal["queued", "loading", "running", "completed", "failed", "cancelled"] | None,
        typer.Option("--status", help="Only jobs with this status."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first.

    Does not start a node; ends with 3 when none runs.

    \b
    Example:
      herd-mcp jobs --limit 5
      herd-mcp jobs --status failed --json
    """
    from herd_mcp.cli.client import find_node

    found = find_node().jobs(limit=limit, status=state)
    if as_json:
        print_json([_without_picture(job) for job in found])
    elif found:
        _show_jobs(found)
    else:
        say("No such job yet." if state else "No job yet; `herd-mcp image` and `herd-mcp chat` make one.")


def _without_picture(job: Job) -> dict[str, Any]:
    """A job as data, without the picture it starts from, which may be megabytes."""
    return job.model_dump(mode="json", exclude={"request": {"image"}})


def _show_jobs(found: list[Job]) -> None:
    print_table(
        ("job", "kind", "status", "model", "asked", "took", "by", "result"),
        [
            (
                job.id,
                job.kind,
                job.status,
                job.model or "–",
                f"{human_s(time.time() - job.created_at)} ago",
                human_s(job.timings.total_s),
                job.client,
                _outcome(job),
            )
            for job in found
        ],
        right=("asked", "took"),
    )


def _outcome(job: Job) -> str:
    if job.error is not None:
        return f"{job.error.code}: {job.error.message}"
    if job.result is not None and job.result.kind == "image":
        return job.result.path or job.result.image_id
    if job.result is not None:
        return f"{job.result.usage.completion_tokens} tokens"
    if job.progress is not None:
        return f"step {job.progress.step} of {job.progress.steps}"
    return ""


def cancel(
    job: Annotated[str, typer.Argument(help="The job's id, as `herd-mcp jobs` shows it.")],
    as_json: Json = False,
) -> None:
    """Cancel a job that waits or runs. One that has ended stays as it is.

    \b
    Example:
      herd-mcp cancel job-1f2e3d-0a1b2c3d4e5f
    """
    from herd_mcp.cli.client import find_node
    from herd_mcp.jobs import ENDED

    ended = find_node().cancel(job)
    if as_json:
        print_json(_without_picture(ended))
        return
    words = {"cancelled": "was cancelled", "completed": "had completed already", "failed": "had failed already"}
    typer.echo(f"{ended.id} {words.get(ended.status, f'is still {ended.status}')}")
    if ended.status not in ENDED:
        say("It ends at its next step.")
