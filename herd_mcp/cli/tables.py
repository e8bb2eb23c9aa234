"""`models`, `jobs`, `cancel`: what the node knows, as tables."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from herd_mcp.cli.console import human_bytes, human_s, print_json, print_table, say

if TYPE_CHECKING:
    from herd_mcp.jobs import Job
    from herd_mcp.state import ModelInfo

Json = Annotated[bool, typer.Option("--json", help="Print the data as JSON.")]


def add_to(app: typer.Typer) -> None:
    for command in (models, jobs, cancel):
        app.command()(command)


def models(
    kind: Annotated[Literal["chat", "image"] | None, typer.Option(help="Only this kind.")] = None,
    as_json: Json = False,
) -> None:
    """List the models of this Mac, and of the other Macs of its herd.

    With size, the memory that each needs, which Macs have it, whether it is complete and loaded, and whether there is
    room for it now.

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
        ("model", "kind", "size", "needs", "from", "complete", "loaded", "room now", "on", ""),
        [
            (
                model.name,
                model.kind,
                human_bytes(model.bytes),
                human_bytes(model.needs_bytes or None),
                model.source,
                "yes" if model.complete else f"no: {model.problem}",
                "yes" if model.loaded else "",
                _room(model),
                ", ".join(f"{place.node}{' (loaded)' * place.loaded}" for place in model.nodes) or "here",
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
        print_json([without_picture(job) for job in found])
    elif found:
        show_jobs(found)
    else:
        say("No such job yet." if state else "No job yet; `herd-mcp image` and `herd-mcp chat` make one.")


def without_picture(job: Job) -> dict[str, Any]:
    """A job as data, without the picture it starts from, which may be megabytes."""
    return job.model_dump(mode="json", exclude={"request": {"image"}})


def show_jobs(found: list[Job]) -> None:
    print_table(
        ("job", "kind", "status", "model", "on", "asked", "took", "by", "result"),
        [
            (
                job.id,
                job.kind,
                job.status,
                job.model or "–",
                " → ".join(attempt.node for attempt in job.attempts) or "–",
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
    if job.progress is not None and job.progress.steps:
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
        print_json(without_picture(ended))
        return
    words = {"cancelled": "was cancelled", "completed": "had completed already", "failed": "had failed already"}
    typer.echo(f"{ended.id} {words.get(ended.status, f'is still {ended.status}')}")
    if ended.status not in ENDED:
        say("It ends at its next step.")
