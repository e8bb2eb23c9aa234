"""`status`: the nodes of the herd, what runs and what waits, and what to do about trouble."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from herd_mcp.cli.console import clean, human_bytes, human_s, print_json, print_table, say
from herd_mcp.cli.tables import Json, show_jobs, without_picture

if TYPE_CHECKING:
    from herd_mcp.cli.client import Status
    from herd_mcp.jobs import Job
    from herd_mcp.state import EngineState, NodeState

NODE_COLUMNS = (
    "node", "status", "work ahead", "memory free", "pressure", "for models", "loaded", "running", "queued", "version",
    "chip", "up",
)  # fmt: skip
NODE_NUMBERS = ("work ahead", "memory free", "for models", "running", "queued", "up")


def add_to(app: typer.Typer) -> None:
    app.command()(status)


def status(as_json: Json = False) -> None:
    """Show the Macs of the herd: the work ahead of each in seconds, memory, models, what runs and what waits.

    Says why one is left out. Does not start a node; ends with 3 when none runs.

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
        print_json({**dict(told), "jobs": [without_picture(job) for job in running]})
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
    print_table(NODE_COLUMNS, node_rows(told.nodes), right=NODE_NUMBERS)
    for line in left_out(told.nodes, told.strangers):
        typer.echo(clean(line))
    engines = [(node.name, engine) for node in told.nodes for engine in node.engines if node.status != "offline"]
    if engines:
        print_table(
            ("engine", "kind", "node", "phase", "pid", "reserved", "held", "running", "queued", "idle"),
            [_engine_row(name, engine) for name, engine in engines],
            right=("pid", "reserved", "held", "running", "queued", "idle"),
        )
    else:
        typer.echo("No model is loaded; the first request loads one.")
    if running:
        show_jobs(running)
    if told.health.absent:
        typer.echo(clean(f"Not in the figures, since not reached: {', '.join(told.health.absent)}."))
    for advice in told.health.recommendations:
        typer.echo(clean(f"{advice.severity}: {advice.title}. {advice.description} {advice.fix}".strip()))


def left_out(nodes: tuple[NodeState, ...], strangers: tuple[str, ...]) -> list[str]:
    """Why nodes get no work, or none of others, and who was not let in: a sentence each."""
    from herd_mcp.state import reluctant

    lines = [f"{node.name} is {node.status}: {node.reason}." for node in nodes if node.reason]
    lines += [f"{node.name} does nothing for others: {why}." for node in nodes if (why := reluctant(node))]
    return lines + [f"Not let in: {stranger}." for stranger in strangers]


def node_rows(nodes: tuple[NodeState, ...]) -> list[tuple[object, ...]]:
    """A row for each node, the first of which is this Mac's."""
    several = len(nodes) > 1
    return [_node_row(node, here=several and number == 0) for number, node in enumerate(nodes)]


def _node_row(node: NodeState, *, here: bool) -> tuple[object, ...]:
    name, state = f"{node.name} (this Mac)" if here else node.name, "paused" if node.paused else node.status
    if node.status == "offline":
        return (name, "offline", *["–"] * 7, node.version or "–", node.chip or "–", "–")
    memory = node.memory
    return (
        name,
        state if node.status == "online" else node.status,
        human_s(node.work.ahead_s) if node.work.ahead_s else "0 s",
        f"{human_bytes(memory.available_bytes)} of {human_bytes(memory.total_bytes)}",
        memory.pressure,
        f"{human_bytes(memory.reserved_bytes)} of {human_bytes(memory.budget_bytes)}",
        ", ".join(engine.model for engine in node.engines if engine.phase == "ready") or "–",
        node.running,
        node.queued,
        node.version,
        node.chip,
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
