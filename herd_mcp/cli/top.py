"""`top`: the nodes of the herd, their engines and jobs, anew each second."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from herd_mcp.cli.console import clean, console, human_s, print_json, table_of
from herd_mcp.cli.tables import Json, without_picture

if TYPE_CHECKING:
    from rich.console import Group

    from herd_mcp.cli.client import NodeClient, Nodes
    from herd_mcp.jobs import Job

EVERY_S = 1.0
MOST_JOBS = 15


def add_to(app: typer.Typer) -> None:
    app.command()(top)


def top(
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    as_json: Json = False,
) -> None:
    """Watch the herd: each Mac with its work in seconds, its engines, and the jobs with where they run.

    Anew each second; q or Ctrl-C ends it. Without a terminal, and with --json, it is shown once. Does not start a node;
    ends with 3 when none runs.

    \b
    Example:
      herd-mcp top
      herd-mcp top --once
    """
    from herd_mcp.cli.client import find_node

    node = find_node()
    if as_json:
        told, running = _look(node)
        print_json({**dict(told), "jobs": [without_picture(job) for job in running]})
    elif once or not sys.stdout.isatty():
        output = console()
        if not sys.stdout.isatty():
            output.width = 400
        output.print(_screen(*_look(node)))
    else:
        _watch(node)


def _watch(node: NodeClient) -> None:
    from rich.live import Live

    first = _screen(*_look(node))
    with (
        contextlib.suppress(KeyboardInterrupt),
        _keys() as pressed,
        Live(first, console=console(), screen=True, auto_refresh=False) as live,
    ):
        while not pressed(EVERY_S):
            live.update(_screen(*_look(node)), refresh=True)


def _look(node: NodeClient) -> tuple[Nodes, list[Job]]:
    from herd_mcp.jobs import ENDED

    return node.nodes(), [job for job in node.jobs(limit=200) if job.status not in ENDED]


def _screen(told: Nodes, running: list[Job]) -> Group:
    from rich.console import Group
    from rich.text import Text

    from herd_mcp.cli.status import left_out, node_rows

    short = ("node", "status", "work ahead", "memory free", "loaded", "running", "queued")
    rows = [(row[0], row[1], row[2], row[3], row[6], row[7], row[8]) for row in node_rows(told.nodes)]
    parts: list[Any] = [table_of(short, rows, right=("work ahead", "memory free", "running", "queued"))]
    parts += [Text(clean(line)) for line in left_out(told.nodes, told.strangers)]
    engines = [
        (engine.model, node.name, _phase(engine.phase, engine.loading), engine.running, engine.queued)
        for node in told.nodes
        for engine in node.engines
        if node.status != "offline"
    ]
    parts.append(table_of(("engine", "on", "phase", "running", "queued"), engines, right=("running", "queued")))
    jobs = [
        (job.id, job.kind, job.model, job.attempts[-1].node if job.attempts else "–", _far(job), _since(job))
        for job in running[:MOST_JOBS]
    ]
    parts.append(table_of(("job", "kind", "model", "on", "how far", "since"), jobs, right=("since",)))
    if len(running) > MOST_JOBS:
        parts.append(Text(f"and {len(running) - MOST_JOBS} more jobs"))
    return Group(*parts)


def _phase(phase: str, loading: float | None) -> str:
    return phase if loading is None else f"{phase} {loading:.0%}"


def _far(job: Job) -> str:
    if job.progress is not None and job.progress.steps:
        return f"step {job.progress.step} of {job.progress.steps}"
    tries = len(job.attempts)
    return f"{job.status}, try {tries}" if tries > 1 else job.status


def _since(job: Job) -> str:
    return human_s(time.time() - job.created_at)


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """Gives a function that waits so many seconds, or until q is pressed: whether it was."""
    if not sys.stdin.isatty():
        yield lambda wait_s: time.sleep(wait_s)
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)

    def pressed(wait_s: float) -> bool:
        ready, _, _ = select.select([number], [], [], wait_s)
        return bool(ready) and os.read(number, 64).lower() in (b"q", b"")

    try:
        yield pressed
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
